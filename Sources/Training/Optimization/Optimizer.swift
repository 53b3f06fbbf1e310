internal import Basics
internal import Tensors

/// The rule that turns gradients into new weights, with its state in arenas beside the parameters.
///
/// All members apply the same rule to the same bits, so all hold the same weights.
final class Optimizer {
    private enum Rule {
        case sgd(momentum: Double, isNesterov: Bool)
        case adamW(beta1: Double, beta2: Double, epsilon: Double)
    }

    static let knownTypes = ["adamw", "sgd"]

    /// The learning rate that a schedule bends.
    let learningRate: Double
    private let rule: Rule
    private let decay: Double
    /// The largest norm of the mean gradient; nil = no clipping.
    private let clipNorm: Double?
    /// State by its name in PyTorch (`momentum_buffer`, `exp_avg`, `exp_avg_sq`).
    let state: [(name: String, arena: FloatArena)]
    private let count: Int

    /// - Throws: ``TrainingError`` `.badSpec`.
    init(_ spec: TypedSpec, parameterCount: Int) throws {
        var reader = SpecReader(spec, kind: "optimizer")
        count = parameterCount
        switch spec.type {
        case "sgd":
            learningRate = try reader.number("learning_rate", default: 0.01, 0...1e6)
            let momentum = try reader.number("momentum", default: 0, 0...1)
            let isNesterov = try reader.boolean("nesterov", default: false)
            decay = try reader.number("weight_decay", default: 0, 0...1e6)
            guard !isNesterov || momentum > 0 else {
                throw TrainingError(.badSpec, "optimizer sgd: nesterov needs a momentum above 0")
            }
            rule = .sgd(momentum: momentum, isNesterov: isNesterov)
            state = momentum > 0 ? [("momentum_buffer", FloatArena(count: parameterCount))] : []
        case "adamw":
            learningRate = try reader.number("learning_rate", default: 0.001, 0...1e6)
            let below1 = 0...1.0.nextDown
            let beta1 = try reader.number("beta1", default: 0.9, below1)
            let beta2 = try reader.number("beta2", default: 0.999, below1)
            let epsilon = try reader.number("epsilon", default: 1e-8, 1e-30...1)
            decay = try reader.number("weight_decay", default: 0.01, 0...1e6)
            rule = .adamW(beta1: beta1, beta2: beta2, epsilon: epsilon)
            state = ["exp_avg", "exp_avg_sq"].map { ($0, FloatArena(count: parameterCount)) }
        default:
            throw SpecReader.unknownType(spec, kind: "optimizer", known: Self.knownTypes)
        }
        let clip = try reader.number("clip_norm", default: 0, 0...1e30)
        clipNorm = clip > 0 ? clip : nil
        try reader.finish()
    }

    /// One step; elements are independent, so the pool's threads share them.
    ///
    /// - Parameters:
    ///   - sum: `[N]`, the gradient summed over `samples`; on return the mean.
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
        var factor: Float?
        if let clipNorm {
            pool.forEachSlice(count) { kernels.divide(sum + $0.lowerBound, by: Float(samples), $0.count) }
            let norm = kernels.sumOfSquares(sum, count).squareRoot()
            factor = norm > clipNorm ? Float(clipNorm / (norm + 1e-6)) : nil
        }
        let isDivided = clipNorm != nil
        let correction1: Double
        let correction2: Double
        if case .adamW(let beta1, let beta2, _) = rule {
            correction1 = 1 - Scalars.power(beta1, step)
            correction2 = 1 - Scalars.power(beta2, step)
        } else {
            (correction1, correction2) = (1, 1)
        }
        pool.forEachSlice(count) { slice in
            let at = slice.lowerBound
            if !isDivided { kernels.divide(sum + at, by: Float(samples), slice.count) }
            if let factor { kernels.scale(sum + at, by: factor, slice.count) }
            switch rule {
            case .sgd(let momentum, let isNesterov):
                kernels.sgd(
                    weights + at,
                    sum + at,
                    // Without momentum the kernel leaves the state alone, and there is none.
                    (state.first?.arena.pointer ?? sum) + at,
                    rate: Float(rate),
                    momentum: Float(momentum),
                    decay: Float(decay),
                    isNesterov: isNesterov,
                    slice.count
                )
            case .adamW(let beta1, let beta2, let epsilon):
                kernels.adamW(
                    weights + at,
                    sum + at,
                    state[0].arena.pointer + at,
                    state[1].arena.pointer + at,
                    rate: rate,
                    beta1: beta1,
                    beta2: beta2,
                    epsilon: epsilon,
                    decay: decay,
                    correction1: correction1,
                    correction2: correction2,
                    slice.count
                )
            }
        }
    }
}
