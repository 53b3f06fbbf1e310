internal import Basics
internal import Tensors

/// A function of each number: GELU, SiLU, tanh, sigmoid, ReLU6.
///
/// Saved for backward: `x`.
struct Activation: Layer {
    let output: SampleShape
    let kind: ActivationKind

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        pass.divide(output) { at, n in pass.kernels.activate(y + at, x + at, kind, n) }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard let dx = way.dx else { return }
        pass.divide(output) { at, n in
            pass.kernels.activateBackward(dx + at, way.dy + at, way.x + at, kind, n)
        }
    }
}

/// Dropout: while training each number is 0 with probability `rate`, else divided by `1 - rate`; in place.
///
/// What falls out hangs on (seed, step, place of the sample in the batch, layer), never on lane, thread or member.
/// Saved for backward: a byte a number. Source: Srivastava et al. 2014.
struct Dropout: Layer {
    let output: SampleShape
    /// In 0..<1.
    let rate: Double
    /// Distinguishes the model's dropouts.
    let index: Int

    var isInPlace: Bool { true }
    var placesPerSample: Int { output.count }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        guard let training = pass.training, rate > 0 else { return }
        let limit = UInt32(rate * 0x1p32)
        let scale = Float(1 / (1 - rate))
        for b in 0..<pass.count {
            for block in 0..<((output.count + 3) / 4) {
                let four = training.random.block(
                    .dropout,
                    layer: index,
                    step: training.step,
                    position: (training.position + b) << 32 | block
                )
                for i in 0..<min(4, output.count - 4 * block) {
                    let offset = self.offset(4 * block + i, b, pass.count)
                    let stays = four[i] >= limit
                    pass.places[offset] = stays ? 1 : 0
                    y[offset] = stays ? y[offset] * scale : 0
                }
            }
        }
    }

    /// Where the number `i` of sample `b` lies: a sample draws in its own order, whatever the layout.
    private func offset(_ i: Int, _ b: Int, _ samples: Int) -> Int {
        guard case .planes(_, let height, let width) = output else { return b * output.count + i }
        let pixels = height * width
        return (i / pixels * samples + b) * pixels + i % pixels
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard rate > 0 else { return }
        let scale = Float(1 / (1 - rate))
        for i in 0..<(pass.count * output.count) { way.dy[i] = pass.places[i] == 1 ? way.dy[i] * scale : 0 }
    }
}
