internal import Tensors

/// Depthwise convolutions, in single precision whatever the run's: they are bound by memory.
extension Convolution {
    /// Whether each channel has one filter of its own that keeps the size of the image, but for a stride.
    var isDepthwise: Bool {
        groups > 1 && groups == channels && filters == channels && kernel % 2 == 1 && kernel > 1
            && 2 * padding == dilation * (kernel - 1)
    }

    private var taps: Int { kernel * kernel }
    private var inputPixels: Int { height * width }
    private var outputPixels: Int { output.count / filters }

    /// Calls `body` with some channels, their window and a thread's scratch.
    private func divideChannels(
        _ pass: LayerPass,
        _ body: (_ first: Int, _ window: Kernels.Window, _ scratch: UnsafeMutablePointer<Float>) -> Void
    ) {
        let scratch = window(pass.count).depthwiseScratch
        pass.team.divide(channels, work: pass.count * inputPixels) { range, thread in
            let own = window(pass.count, channels: range.count)
            body(range.lowerBound, own, pass.scratch + thread * scratch)
        }
    }

    func depthwiseForward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafeMutablePointer<Float>,
        _ pass: LayerPass
    ) {
        divideChannels(pass) { first, window, scratch in
            pass.kernels.depthwiseForward(
                y + first * pass.count * outputPixels,
                x + first * pass.count * inputPixels,
                pass.weights + weight.offset + first * taps,
                bias: bias.map { pass.weights + $0.offset + first },
                window,
                scratch: scratch
            )
        }
    }

    func depthwiseBackward(_ way: Backward, _ pass: LayerPass) {
        divideChannels(pass) { first, window, scratch in
            let (input, arriving) = (
                first * pass.count * inputPixels, way.dy + first * pass.count * outputPixels
            )
            pass.kernels.depthwiseWeights(
                way.gradients + weight.offset + first * taps,
                way.x + input,
                arriving,
                window,
                scratch: scratch
            )
            guard let dx = way.dx else { return }
            pass.kernels.depthwiseInputs(
                dx + input,
                arriving,
                pass.weights + weight.offset + first * taps,
                window,
                scratch: scratch
            )
        }
    }
}
