internal import Tensors

/// The rectifier: `y = max(x, 0)`, in place.
///
/// Saved for backward: `y`.
struct Relu: Layer {
    let output: SampleShape
    /// True when the node before computes this one as well, forward and backward.
    var isDone = false
    var isInPlace: Bool { true }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        guard !isDone else { return }
        pass.team.divide(pass.count * output.count, multiple: 64) { range, _ in
            pass.kernels.relu(y + range.lowerBound, range.count)
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
        guard !isDone else { return }
        pass.team.divide(pass.count * output.count, multiple: 64) { range, _ in
            pass.kernels.reluBackward(dy + range.lowerBound, y + range.lowerBound, range.count)
        }
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
