internal import Basics
internal import Tensors

/// A fully connected layer: `x: [R, in] → y = x · weightᵀ + bias: [R, out]`, where R is B, or B·T for tokens.
///
/// Saved for backward: `x`. Initialisation unless the model says otherwise: U(±1/√in) for both, PyTorch's default (He et
/// al. 2015 with a = √5).
struct Dense: Layer {
    let inputs: Int
    let outputs: Int
    /// `[out, in]`.
    let weight: ParameterSlice
    /// `[out]`; nil for none.
    let bias: ParameterSlice?
    /// Tokens of a sample; nil for flat samples.
    var length: Int?
    /// True when the weight belongs to an embedding before it, which adds to the gradient that this layer leaves.
    var isTied = false

    var output: SampleShape { length.map { .tokens(length: $0, features: outputs) } ?? .flat(outputs) }
    var parameters: [ParameterSlice] { (isTied ? [] : [weight]) + (bias.map { [$0] } ?? []) }

    private func rows(_ pass: LayerPass) -> Int { pass.count * (length ?? 1) }

    /// Whether so few rows meet so many weights that packing these would cost more than the product itself.
    private func isNarrow(_ rows: Int, _ pass: LayerPass) -> Bool {
        rows <= 8 && inputs * outputs >= 1 << 18 && pass.training?.precision != .bf16
    }

    /// How many calls a product is cut into, so that threads can share it: from the shapes alone, as bits hang on them.
    private func cuts(_ rows: Int) -> Int { rows * inputs * outputs < 1 << 21 ? 1 : 2 }

    /// The piece `index` of `count` numbers in `cuts` pieces.
    private func piece(_ index: Int, _ count: Int, _ cuts: Int) -> Range<Int> {
        let each = (count / cuts + 15) / 16 * 16
        return min(count, index * each)..<(index == cuts - 1 ? count : min(count, index * each + each))
    }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        let rows = rows(pass)
        let cuts = cuts(rows)
        pass.team.run(cuts) { index, _ in
            let range = piece(index, outputs, cuts)
            guard !range.isEmpty else { return }
            if isNarrow(rows, pass) {
                pass.kernels.fewRowsForward(
                    y + range.lowerBound,
                    ldy: outputs,
                    x,
                    pass.weights + weight.offset + range.lowerBound * inputs,
                    rows: rows,
                    inputs: inputs,
                    outputs: range.count
                )
                return
            }
            pass.multiply(
                rows,
                range.count,
                inputs,
                x,
                .plain,
                lda: inputs,
                pass.weights + weight.offset + range.lowerBound * inputs,
                .transposed,
                ldb: inputs,
                y + range.lowerBound,
                ldc: outputs
            )
        }
        guard let bias else { return }
        pass.team.divide(rows, work: outputs) { range, _ in
            pass.kernels.addBiasToRows(
                y + range.lowerBound * outputs,
                pass.weights + bias.offset,
                rows: range.count,
                columns: outputs
            )
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        // dW: [out, in] = dyᵀ · x;  db = column sums of dy;  dx: [R, in] = dy · W
        let rows = rows(pass)
        let cuts = cuts(rows)
        pass.team.run(way.dx == nil ? cuts : 2 * cuts) { index, _ in
            if index < cuts {
                let range = piece(index, outputs, cuts)
                guard !range.isEmpty else { return }
                if isNarrow(rows, pass) {
                    pass.kernels.fewRowsWeights(
                        way.gradients + weight.offset + range.lowerBound * inputs,
                        way.dy + range.lowerBound,
                        lddy: outputs,
                        way.x,
                        rows: rows,
                        inputs: inputs,
                        outputs: range.count
                    )
                    return
                }
                pass.multiply(
                    range.count,
                    inputs,
                    rows,
                    way.dy + range.lowerBound,
                    .transposed,
                    lda: outputs,
                    way.x,
                    .plain,
                    ldb: inputs,
                    way.gradients + weight.offset + range.lowerBound * inputs,
                    ldc: inputs
                )
            } else if let dx = way.dx {
                let range = piece(index - cuts, inputs, cuts)
                guard !range.isEmpty else { return }
                if isNarrow(rows, pass) {
                    pass.kernels.fewRowsInputs(
                        dx + range.lowerBound,
                        lddx: inputs,
                        way.dy,
                        pass.weights + weight.offset + range.lowerBound,
                        ldw: inputs,
                        rows: rows,
                        columns: range.count,
                        outputs: outputs
                    )
                    return
                }
                pass.multiply(
                    rows,
                    range.count,
                    outputs,
                    way.dy,
                    .plain,
                    lda: outputs,
                    pass.weights + weight.offset + range.lowerBound,
                    .plain,
                    ldb: inputs,
                    dx + range.lowerBound,
                    ldc: inputs
                )
            }
        }
        if let bias {
            pass.kernels.columnSums(way.gradients + bias.offset, way.dy, rows: rows, columns: outputs)
        }
    }
}
