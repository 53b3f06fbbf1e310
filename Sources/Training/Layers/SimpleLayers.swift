internal import Tensors

/// The rectifier: `y = max(x, 0)`, in place.
///
/// Saved for backward: `y`.
struct Relu: Layer {
    let output: SampleShape
    var isInPlace: Bool { true }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        pass.kernels.relu(y, pass.count * output.count)
    }

    func backward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafePointer<Float>,
        _ dy: UnsafeMutablePointer<Float>,
        _ dx: UnsafeMutablePointer<Float>?,
        gradients: UnsafeMutablePointer<Float>,
        _ pass: LayerPass
    ) {
        pass.kernels.reluBackward(dy, y, pass.count * output.count)
    }
}

/// `[C, B, H, W] → [B, C·H·W]`, the order of features that PyTorch's `flatten` gives.
struct Flatten: Layer {
    let channels: Int
    let pixels: Int

    var output: SampleShape { .flat(channels * pixels) }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        for b in 0..<pass.count {
            for c in 0..<channels {
                (y + (b * channels + c) * pixels).update(
                    from: x + (c * pass.count + b) * pixels,
                    count: pixels
                )
            }
        }
    }

    func backward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafePointer<Float>,
        _ dy: UnsafeMutablePointer<Float>,
        _ dx: UnsafeMutablePointer<Float>?,
        gradients: UnsafeMutablePointer<Float>,
        _ pass: LayerPass
    ) {
        guard let dx else { return }
        for b in 0..<pass.count {
            for c in 0..<channels {
                (dx + (c * pass.count + b) * pixels).update(
                    from: dy + (b * channels + c) * pixels,
                    count: pixels
                )
            }
        }
    }
}
