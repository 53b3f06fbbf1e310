internal import Tensors

/// A fully connected layer: `x: [B, in] → y = x · weightᵀ + bias: [B, out]`.
///
/// Saved for backward: `x`. Initialisation: U(±1/√in) for both, PyTorch's default (He et al. 2015 with a = √5).
struct Dense: Layer {
    let inputs: Int
    let outputs: Int
    let weight: ParameterSlice
    let bias: ParameterSlice

    var output: SampleShape { .flat(outputs) }
    var parameters: [ParameterSlice] { [weight, bias] }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        let w = pass.weights + weight.offset
        BLAS.multiply(
            pass.count,
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
        pass.kernels.addBiasToRows(y, pass.weights + bias.offset, rows: pass.count, columns: outputs)
    }

    func backward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafePointer<Float>,
        _ dy: UnsafeMutablePointer<Float>,
        _ dx: UnsafeMutablePointer<Float>?,
        gradients: UnsafeMutablePointer<Float>,
        _ pass: LayerPass
    ) {
        // dW: [out, in] = dyᵀ · x;  db = column sums of dy;  dx: [B, in] = dy · W
        BLAS.multiply(
            outputs,
            inputs,
            pass.count,
            dy,
            .transposed,
            lda: outputs,
            x,
            .plain,
            ldb: inputs,
            gradients + weight.offset,
            ldc: inputs
        )
        pass.kernels.columnSums(gradients + bias.offset, dy, rows: pass.count, columns: outputs)
        guard let dx else { return }
        BLAS.multiply(
            pass.count,
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
