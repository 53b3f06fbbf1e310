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
        pass.divide(output) { at, n in pass.kernels.relu(y + at, n) }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard !isDone else { return }
        pass.divide(output) { at, n in pass.kernels.reluBackward(way.dy + at, way.y + at, n) }
    }
}

/// `[C, B, H, W] → [B, C·H·W]`, the order of features that PyTorch's `flatten` gives.
struct Flatten: Layer {
    let channels: Int
    let pixels: Int

    var output: SampleShape { .flat(channels * pixels) }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        forEachPlane(pass) { plane, row in (y + row).update(from: x + plane, count: pixels) }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard let dx = way.dx else { return }
        forEachPlane(pass) { plane, row in (dx + plane).update(from: way.dy + row, count: pixels) }
    }

    /// Calls `body` with where each plane begins in the images and in the rows.
    private func forEachPlane(_ pass: LayerPass, _ body: (_ plane: Int, _ row: Int) -> Void) {
        pass.team.divide(pass.count, work: output.count) { samples, _ in
            for b in samples {
                for c in 0..<channels { body((c * pass.count + b) * pixels, (b * channels + c) * pixels) }
            }
        }
    }
}
