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

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        let w = pass.weights + weight.offset
        BLAS.multiply(
            rows(pass),
            outputs,
            inputs,
            x,
            .plain,
            lda: inputs,
            w,
            .transposed,
            ldb: inputs,
            y,
            ldc: outputs
        )
        guard let bias else { return }
        pass.kernels.addBiasToRows(y, pass.weights + bias.offset, rows: rows(pass), columns: outputs)
    }

    func backward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafePointer<Float>,
        _ dy: UnsafeMutablePointer<Float>,
        _ dx: UnsafeMutablePointer<Float>?,
        gradients: UnsafeMutablePointer<Float>,
        _ pass: LayerPass
    ) {
        // dW: [out, in] = dyᵀ · x;  db = column sums of dy;  dx: [R, in] = dy · W
        BLAS.multiply(
            outputs,
            inputs,
            rows(pass),
            dy,
            .transposed,
            lda: outputs,
            x,
            .plain,
            ldb: inputs,
            gradients + weight.offset,
            ldc: inputs
        )
        if let bias {
            pass.kernels.columnSums(gradients + bias.offset, dy, rows: rows(pass), columns: outputs)
        }
        guard let dx else { return }
        BLAS.multiply(
            rows(pass),
            inputs,
            outputs,
            dy,
            .plain,
            lda: outputs,
            pass.weights + weight.offset,
            .plain,
            ldb: inputs,
            dx,
            ldc: inputs
        )
    }
}
