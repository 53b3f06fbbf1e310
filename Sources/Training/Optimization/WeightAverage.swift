internal import Tensors

/// The exponential moving average of the weights, which is what is evaluated, saved and served.
///
/// `average += (1 - d)·(weights - average)` after each step, with d = min(decay, (1 + t) / (10 + t)) at step t, so that
/// the first steps do not hang on the initial weights. Running statistics are taken over as they are: they are
/// averages already.
///
/// - Source: Polyak & Juditsky 1992; the warm-up as in TensorFlow's `ExponentialMovingAverage`.
final class WeightAverage {
    /// `[N]`.
    let arena: FloatArena
    private let decay: Double

    init(decay: Double, count: Int) {
        self.decay = decay
        arena = FloatArena(count: count)
    }

    /// - Parameters:
    ///   - weights: `[N]`.
    ///   - trained: how many of them are trained; what follows are statistics.
    ///   - step: 1 after the first step.
    func update(
        _ weights: UnsafePointer<Float>,
        trained: Int,
        step: Int,
        kernels: Kernels,
        pool: LanePool
    ) {
        let t = Double(step)
        let move = Float(1 - min(decay, (1 + t) / (10 + t)))
        pool.forEachSlice(trained) {
            kernels.move(arena.pointer + $0.lowerBound, towards: weights + $0.lowerBound, by: move, $0.count)
        }
        (arena.pointer + trained).update(from: weights + trained, count: arena.count - trained)
    }
}
