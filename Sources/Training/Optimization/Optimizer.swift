internal import Basics
internal import Tensors

/// The rule that turns gradients into new weights, with its state in arenas beside the parameters.
///
/// All members apply the same rule to the same bits, so all hold the same weights. Running statistics, which follow
/// the trained slices in the arena, move towards what the step measured instead; they count in no norm.
final class Optimizer {
    /// The learning rate that a schedule bends.
    var learningRate: Double { spec.learningRate }
    /// State by its name in PyTorch (`momentum_buffer`, `exp_avg`, `exp_avg_sq`, `square_avg`).
    let state: [(name: String, arena: FloatArena)]

    private let spec: OptimizerSpec
    /// Numbers that are trained: those before the running statistics.
    private let count: Int
    /// The tensors whose norms LAMB weighs.
    private let slices: [ParameterSlice]
    private let statistics: [ParameterSlice]
    /// The stretches of the arena that decay alike.
    private let stretches: [(range: Range<Int>, decays: Bool)]

    /// - Parameters:
    ///   - parameterCount: numbers in the arena.
    ///   - slices: what lies in it.
    /// - Throws: ``TrainingError`` `.badSpec`.
    init(_ spec: TypedSpec, parameterCount: Int, slices: [ParameterSlice] = []) throws {
        self.spec = try OptimizerSpec(spec)
        statistics = slices.filter { $0.statisticMomentum != nil }
        self.slices = slices.filter { $0.statisticMomentum == nil }
        let trained = statistics.map(\.offset).min() ?? parameterCount
        precondition(self.slices.allSatisfy { $0.offset < trained }, "statistics follow what is trained")
        count = trained
        stretches = Self.stretches(self.slices, count: trained, decaysVectors: self.spec.decaysVectors)
        state = self.spec.rule.stateNames.map { ($0, FloatArena(count: trained)) }
    }

    private static func stretches(
        _ slices: [ParameterSlice],
        count: Int,
        decaysVectors: Bool
    ) -> [(range: Range<Int>, decays: Bool)] {
        guard !decaysVectors, !slices.isEmpty else { return [(0..<count, true)] }
        let sorted = slices.sorted { $0.offset < $1.offset }
        // What lies between two slices is zero and stays so, whichever of them it goes with.
        return sorted.indices.map { i in
            let end = i + 1 < sorted.count ? sorted[i + 1].offset : count
            return ((i == 0 ? 0 : sorted[i].offset)..<end, sorted[i].shape.count > 1)
        }
    }

    /// One step; elements are independent, so the pool's threads share them.
    ///
    /// - Parameters:
    ///   - sum: `[N]`, the gradient summed over `samples`; on return undefined.
    ///   - rate: from the schedule.
    ///   - step: 1 for the first step.
    func apply(
        _ weights: UnsafeMutablePointer<Float>,
        _ sum: UnsafeMutablePointer<Float>,
        samples: Double,
        rate: Double,
        step: Int,
        kernels: Kernels,
        pool: LanePool
    ) {
        for slice in statistics {
            kernels.divide(sum + slice.offset, by: Float(samples), slice.count)
            let momentum = slice.statisticMomentum ?? 0
            kernels.move(
                weights + slice.offset,
                towards: sum + slice.offset,
                by: momentum,
                slice.count
            )
        }
        var factor: Float?
        if let clipNorm = spec.clipNorm {
            pool.forEachSlice(count) { kernels.divide(sum + $0.lowerBound, by: Float(samples), $0.count) }
            let norm = kernels.sumOfSquares(sum, count).squareRoot()
            factor = norm > clipNorm ? Float(clipNorm / (norm + 1e-6)) : nil
        }
        let isDivided = spec.clipNorm != nil
        let corrections = corrections(step)
        pool.forEachSlice(count) { slice in
            let at = slice.lowerBound
            if !isDivided { kernels.divide(sum + at, by: Float(samples), slice.count) }
            if let factor { kernels.scale(sum + at, by: factor, slice.count) }
            for stretch in stretches {
                let range = stretch.range.clamped(to: slice)
                let (at, decay) = (range.lowerBound, stretch.decays ? spec.decay : 0)
                guard !range.isEmpty else { continue }
                update(weights + at, sum + at, at, range.count, rate, decay, corrections, kernels)
            }
        }
        guard case .lamb = spec.rule else { return }
        pool.run(slices.count) { index, _ in
            let slice = slices[index]
            let weight = kernels.sumOfSquares(weights + slice.offset, slice.count).squareRoot()
            let direction = kernels.sumOfSquares(sum + slice.offset, slice.count).squareRoot()
            let ratio = weight > 0 && direction > 0 ? weight / direction : 1
            kernels.add(weights + slice.offset, sum + slice.offset, times: Float(-rate * ratio), slice.count)
        }
    }

    /// `1 - beta^t` for both moments.
    private func corrections(_ step: Int) -> (Double, Double) {
        switch spec.rule {
        case .adam(let beta1, let beta2, _, _), .lamb(let beta1, let beta2, _):
            (1 - Scalars.power(beta1, step), 1 - Scalars.power(beta2, step))
        default: (1, 1)
        }
    }

    /// The rule on `n` elements from `at` on; LAMB leaves its direction in `g`.
    private func update(
        _ p: UnsafeMutablePointer<Float>,
        _ g: UnsafeMutablePointer<Float>,
        _ at: Int,
        _ n: Int,
        _ rate: Double,
        _ decay: Double,
        _ corrections: (Double, Double),
        _ kernels: Kernels
    ) {
        func arena(_ index: Int) -> UnsafeMutablePointer<Float> { state[index].arena.pointer + at }
        switch spec.rule {
        case .sgd(let momentum, let isNesterov):
            kernels.sgd(
                p,
                g,
                // Without momentum the kernel leaves the state alone, and there is none.
                momentum > 0 ? arena(0) : g,
                rate: Float(rate),
                momentum: Float(momentum),
                decay: Float(decay),
                isNesterov: isNesterov,
                n
            )
        case .adam(let beta1, let beta2, let epsilon, let isDecoupled):
            if !isDecoupled, decay > 0 { kernels.add(g, p, times: Float(decay), n) }
            kernels.adamW(
                p,
                g,
                arena(0),
                arena(1),
                rate: rate,
                beta1: beta1,
                beta2: beta2,
                epsilon: epsilon,
                decay: isDecoupled ? decay : 0,
                correction1: corrections.0,
                correction2: corrections.1,
                n
            )
        case .rmsProp(let alpha, let epsilon, let momentum):
            if decay > 0 { kernels.add(g, p, times: Float(decay), n) }
            kernels.rmsProp(
                p,
                g,
                arena(0),
                momentum > 0 ? arena(1) : nil,
                rate: rate,
                alpha: alpha,
                epsilon: epsilon,
                momentum: momentum,
                n
            )
        case .lamb(let beta1, let beta2, let epsilon):
            kernels.lambDirection(
                p,
                g,
                arena(0),
                arena(1),
                beta1: beta1,
                beta2: beta2,
                epsilon: epsilon,
                decay: decay,
                correction1: corrections.0,
                correction2: corrections.1,
                n
            )
        case .lion(let beta1, let beta2):
            kernels.lion(p, g, arena(0), rate: rate, beta1: beta1, beta2: beta2, decay: decay, n)
        }
    }
}
