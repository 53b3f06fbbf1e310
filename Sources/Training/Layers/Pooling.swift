internal import Tensors

/// The largest value of each window: `[C, B, H, W] → [C, B, OH, OW]`; rows that fill no window are dropped.
///
/// Saved for backward: the place of the largest value in each window, the first one among equals.
struct MaxPool: Layer {
    let channels: Int
    let height: Int
    let width: Int
    let kernel: Int
    let stride: Int
    /// What lies outside never wins.
    var padding = 0

    private func window(_ samples: Int, channels: Int) -> Kernels.Window {
        Kernels.Window(
            channels: channels,
            samples: samples,
            height: height,
            width: width,
            kernel: kernel,
            stride: stride,
            padding: padding
        )
    }

    var output: SampleShape {
        let window = window(1, channels: channels)
        return .planes(channels: channels, height: window.outHeight, width: window.outWidth)
    }
    var placesPerSample: Int { output.count }

    /// Calls `body` with where some channels begin in the input and in the output, and their window.
    private func divideChannels(
        _ pass: LayerPass,
        _ body: (_ input: Int, _ output: Int, _ window: Kernels.Window) -> Void
    ) {
        let (from, into) = (pass.count * height * width, pass.count * output.count / channels)
        pass.team.divide(channels, work: from) { range, _ in
            let first = range.lowerBound
            body(first * from, first * into, window(pass.count, channels: range.count))
        }
    }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        divideChannels(pass) { input, at, window in
            pass.kernels.maxPool(y + at, pass.places + at, x + input, window)
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard let dx = way.dx else { return }
        divideChannels(pass) { input, at, window in
            pass.kernels.maxPoolBackward(dx + input, pass.places + at, way.dy + at, window)
        }
    }
}

/// The mean of each window: `[C, B, H, W] → [C, B, OH, OW]`; rows that fill no window are dropped.
struct AveragePool: Layer {
    let channels: Int
    let height: Int
    let width: Int
    let kernel: Int
    let stride: Int

    private func window(_ samples: Int) -> Kernels.Window {
        Kernels.Window(
            channels: channels,
            samples: samples,
            height: height,
            width: width,
            kernel: kernel,
            stride: stride,
            padding: 0
        )
    }

    var output: SampleShape {
        let window = window(1)
        return .planes(channels: channels, height: window.outHeight, width: window.outWidth)
    }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        pass.kernels.averagePool(y, x, window(pass.count))
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard let dx = way.dx else { return }
        pass.kernels.averagePoolBackward(dx, way.dy, window(pass.count))
    }
}

/// The mean of each plane: `[C, B, H, W] → [B, C]`.
struct GlobalAveragePool: Layer {
    let channels: Int
    let pixels: Int

    var output: SampleShape { .flat(channels) }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        for c in 0..<channels {
            for b in 0..<pass.count {
                let sum = pass.kernels.moments(x + (c * pass.count + b) * pixels, pixels).sum
                y[b * channels + c] = Float(sum / Double(pixels))
            }
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard let dx = way.dx else { return }
        for c in 0..<channels {
            for b in 0..<pass.count {
                let part = way.dy[b * channels + c] / Float(pixels)
                (dx + (c * pass.count + b) * pixels).update(repeating: part, count: pixels)
            }
        }
    }
}

/// The mean over the tokens: `[B, T, C] → [B, C]`.
struct TokenMean: Layer {
    let length: Int
    let features: Int

    var output: SampleShape { .flat(features) }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        for b in 0..<pass.count {
            let rows = x + b * length * features
            pass.kernels.columnSums(y + b * features, rows, rows: length, columns: features)
        }
        pass.kernels.divide(y, by: Float(length), pass.count * features)
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard let dx = way.dx else { return }
        pass.kernels.divide(way.dy, by: Float(length), pass.count * features)
        for b in 0..<pass.count {
            for t in 0..<length {
                (dx + (b * length + t) * features).update(from: way.dy + b * features, count: features)
            }
        }
    }
}
