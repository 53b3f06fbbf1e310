internal import Tensors

/// Batch-norm over images: each channel of `[C, B, H, W]` gets mean 0 and deviation 1, then `· weight + bias`.
///
/// A lane is a ghost batch: it normalises with the statistics of its own samples, and its part of the running
/// statistics, weighted by its samples, is summed along the lane tree with the gradient. Evaluation uses the running
/// ones. Saved for backward: `x`, mean and 1 / deviation. Initialisation: weight 1, bias 0, running mean 0, variance 1.
///
/// - Source: Ioffe & Szegedy 2015; Hoffer et al. 2017 for ghost batches. The running variance is unbiased, as PyTorch's.
struct BatchNorm: Layer {
    /// Fewer samples than this say too little about a channel.
    static let leastSamples = 8

    let channels: Int
    let height: Int
    let width: Int
    let weight: ParameterSlice
    let bias: ParameterSlice
    /// Statistics, `[C]` each.
    let mean: ParameterSlice
    let variance: ParameterSlice
    var epsilon = 1e-5
    /// True when the rectifier behind this norm is computed here, in the same passes through memory.
    var rectifies = false

    var output: SampleShape { .planes(channels: channels, height: height, width: width) }
    var parameters: [ParameterSlice] { [weight, bias, mean, variance] }
    func savedCount(samples: Int) -> Int { 2 * channels }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        let n = pass.count * height * width
        pass.team.divide(channels, work: n) { range, _ in forward(x, y, pass, n, range) }
    }

    private func forward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafeMutablePointer<Float>,
        _ pass: LayerPass,
        _ n: Int,
        _ range: Range<Int>
    ) {
        for c in range {
            let center: Double
            let spread: Double
            if let training = pass.training {
                let (sum, squares) = pass.kernels.moments(x + c * n, n)
                center = sum / Double(n)
                spread = max(0, squares / Double(n) - center * center)
                let samples = Double(pass.count)
                let unbiased = n > 1 ? spread * Double(n) / Double(n - 1) : spread
                training.gradients[mean.offset + c] = Float(center * samples)
                training.gradients[variance.offset + c] = Float(unbiased * samples)
            } else {
                center = Double(pass.weights[mean.offset + c])
                spread = Double(pass.weights[variance.offset + c])
            }
            let inverse = Float(1 / (spread + epsilon).squareRoot())
            pass.saved[2 * c] = Float(center)
            pass.saved[2 * c + 1] = inverse
            let scale = pass.weights[weight.offset + c] * inverse
            let shift = pass.weights[bias.offset + c] - Float(center) * scale
            if rectifies {
                pass.kernels.scaleShiftAndRelu(y + c * n, x + c * n, by: scale, plus: shift, n)
            } else {
                pass.kernels.scaleAndShift(y + c * n, x + c * n, by: scale, plus: shift, n)
            }
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        let n = pass.count * height * width
        pass.team.divide(channels, work: n) { range, _ in backward(way, pass, n, range) }
    }

    private func backward(_ way: Backward, _ pass: LayerPass, _ n: Int, _ range: Range<Int>) {
        for c in range {
            let center = Double(pass.saved[2 * c])
            let inverse = Double(pass.saved[2 * c + 1])
            let sums =
                rectifies
                ? pass.kernels.pairSums(way.dy + c * n, way.x + c * n, rectified: way.y + c * n, n)
                : pass.kernels.pairSums(way.dy + c * n, way.x + c * n, n)
            // Σ dy·x̂ with x̂ = (x - center)·inverse
            let product = (sums.product - center * sums.sum) * inverse
            way.gradients[weight.offset + c] = Float(product)
            way.gradients[bias.offset + c] = Float(sums.sum)
            guard let dx = way.dx else { continue }
            // dx = w·inverse·(dy - mean(dy) - x̂·mean(dy·x̂))
            let scale = Double(pass.weights[weight.offset + c]) * inverse
            let slope = -scale * inverse * product / Double(n)
            let (a, b, at) = (Float(scale), Float(slope), c * n)
            let level = Float(-scale * sums.sum / Double(n) - slope * center)
            if rectifies {
                pass.kernels.combine(dx + at, way.dy + at, way.x + at, rectified: way.y + at, a, b, level, n)
            } else {
                pass.kernels.combine(dx + at, way.dy + at, way.x + at, a, b, level, n)
            }
        }
    }
}

/// Group-norm: each group of channels of each sample of `[C, B, H, W]` gets mean 0 and deviation 1, then
/// `· weight + bias` by channel.
///
/// Saved for backward: `x`, mean and 1 / deviation. Initialisation: weight 1, bias 0. Source: Wu & He 2018.
struct GroupNorm: Layer {
    let channels: Int
    let height: Int
    let width: Int
    /// Divides `channels`.
    let groups: Int
    let weight: ParameterSlice
    let bias: ParameterSlice
    var epsilon = 1e-5

    var output: SampleShape { .planes(channels: channels, height: height, width: width) }
    var parameters: [ParameterSlice] { [weight, bias] }
    func savedCount(samples: Int) -> Int { 2 * samples * groups }

    private func plane(_ channel: Int, _ sample: Int, _ pass: LayerPass) -> Int {
        (channel * pass.count + sample) * height * width
    }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        let each = channels / groups
        let pixels = height * width
        let n = Double(each * pixels)
        for b in 0..<pass.count {
            for g in 0..<groups {
                var total = (sum: 0.0, squares: 0.0)
                for c in (g * each)..<(g * each + each) {
                    let part = pass.kernels.moments(x + plane(c, b, pass), pixels)
                    total.sum += part.sum
                    total.squares += part.squares
                }
                let center = total.sum / n
                let inverse = 1 / (max(0, total.squares / n - center * center) + epsilon).squareRoot()
                pass.saved[2 * (b * groups + g)] = Float(center)
                pass.saved[2 * (b * groups + g) + 1] = Float(inverse)
                for c in (g * each)..<(g * each + each) {
                    let scale = pass.weights[weight.offset + c] * Float(inverse)
                    pass.kernels.scaleAndShift(
                        y + plane(c, b, pass),
                        x + plane(c, b, pass),
                        by: scale,
                        plus: pass.weights[bias.offset + c] - Float(center) * scale,
                        pixels
                    )
                }
            }
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        let each = channels / groups
        let pixels = height * width
        let n = Double(each * pixels)
        (way.gradients + weight.offset).update(repeating: 0, count: channels)
        (way.gradients + bias.offset).update(repeating: 0, count: channels)
        for b in 0..<pass.count {
            for g in 0..<groups {
                let center = Double(pass.saved[2 * (b * groups + g)])
                let inverse = Double(pass.saved[2 * (b * groups + g) + 1])
                // Σ w·dy and Σ w·dy·x̂ over the group.
                var total = (sum: 0.0, product: 0.0)
                for c in (g * each)..<(g * each + each) {
                    let at = plane(c, b, pass)
                    let sums = pass.kernels.pairSums(way.dy + at, way.x + at, pixels)
                    let product = (sums.product - center * sums.sum) * inverse
                    way.gradients[weight.offset + c] += Float(product)
                    way.gradients[bias.offset + c] += Float(sums.sum)
                    let w = Double(pass.weights[weight.offset + c])
                    total.sum += w * sums.sum
                    total.product += w * product
                }
                guard let dx = way.dx else { continue }
                let slope = -inverse * inverse * total.product / n
                for c in (g * each)..<(g * each + each) {
                    let at = plane(c, b, pass)
                    pass.kernels.combine(
                        dx + at,
                        way.dy + at,
                        way.x + at,
                        Float(Double(pass.weights[weight.offset + c]) * inverse),
                        Float(slope),
                        Float(-inverse * total.sum / n - slope * center),
                        pixels
                    )
                }
            }
        }
    }
}

/// Layer-norm over the last dimension: `y = (x - mean) / √(variance + ε) · weight + bias` for each row of `[R, C]`;
/// without a bias RMS-norm, `y = x / √(mean of x² + ε) · weight`.
///
/// Saved for backward: `x`, mean and 1 / deviation. Initialisation: weight 1, bias 0.
///
/// - Source: Ba, Kiros & Hinton 2016; Zhang & Sennrich 2019.
struct RowNorm: Layer {
    /// Flat samples, or tokens.
    let output: SampleShape
    let features: Int
    let weight: ParameterSlice
    let bias: ParameterSlice?
    var epsilon = 1e-5

    var parameters: [ParameterSlice] { [weight] + (bias.map { [$0] } ?? []) }
    func savedCount(samples: Int) -> Int { 2 * rows(samples) }

    private func rows(_ samples: Int) -> Int { samples * output.count / features }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        pass.kernels.normalizeRows(
            y,
            saved: pass.saved,
            x,
            weight: pass.weights + weight.offset,
            bias: bias.map { pass.weights + $0.offset },
            rows: rows(pass.count),
            columns: features,
            epsilon: epsilon
        )
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        // As the first layer of a model the norm still has gradients of its own: dy is then room enough.
        pass.kernels.normalizeRowsBackward(
            way.dx ?? way.dy,
            weight: way.gradients + weight.offset,
            bias: bias.map { way.gradients + $0.offset },
            way.dy,
            way.x,
            saved: pass.saved,
            weight: pass.weights + weight.offset,
            rows: rows(pass.count),
            columns: features
        )
    }
}
