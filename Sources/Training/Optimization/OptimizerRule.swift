internal import Basics

/// What an optimizer does with a gradient, and its numbers.
enum OptimizerRule: Sendable {
    case sgd(momentum: Double, isNesterov: Bool)
    /// Adam's moments; `isDecoupled`: the decay shrinks the weights (AdamW), else it adds to the gradient (Adam).
    case adam(beta1: Double, beta2: Double, epsilon: Double, isDecoupled: Bool)
    case rmsProp(alpha: Double, epsilon: Double, momentum: Double)
    /// Adam's direction with decay, as long as each tensor's own weights.
    case lamb(beta1: Double, beta2: Double, epsilon: Double)
    case lion(beta1: Double, beta2: Double)

    static let knownTypes = ["adam", "adamw", "lamb", "lion", "rmsprop", "sgd"]

    /// The state that lives from step to step, by its names in PyTorch.
    var stateNames: [String] {
        switch self {
        case .sgd(let momentum, _): momentum > 0 ? ["momentum_buffer"] : []
        case .adam, .lamb: ["exp_avg", "exp_avg_sq"]
        case .rmsProp(_, _, let momentum):
            momentum > 0 ? ["square_avg", "momentum_buffer"] : ["square_avg"]
        case .lion: ["exp_avg"]
        }
    }
}

/// An optimizer as the run's record names it, with every default filled in.
struct OptimizerSpec: Sendable {
    let rule: OptimizerRule
    /// The learning rate that a schedule bends.
    let learningRate: Double
    let decay: Double
    /// False where vectors (biases, the weights of norms) do not decay.
    let decaysVectors: Bool
    /// The largest norm of the mean gradient; nil = no clipping.
    let clipNorm: Double?

    /// - Throws: ``TrainingError`` `.badSpec`.
    init(_ spec: TypedSpec) throws {
        var reader = SpecReader(spec, kind: "optimizer")
        let below1 = 0...1.0.nextDown
        func rate(_ reader: inout SpecReader, _ value: Double) throws -> Double {
            try reader.number("learning_rate", default: value, 0...1e6)
        }
        func moments(_ reader: inout SpecReader, _ second: Double) throws -> (Double, Double) {
            (
                try reader.number("beta1", default: 0.9, below1),
                try reader.number("beta2", default: second, below1)
            )
        }
        func epsilon(_ reader: inout SpecReader, _ value: Double) throws -> Double {
            try reader.number("epsilon", default: value, 1e-30...1)
        }
        var usualDecay = 0.0
        switch spec.type {
        case "sgd":
            learningRate = try rate(&reader, 0.01)
            let momentum = try reader.number("momentum", default: 0, 0...1)
            let isNesterov = try reader.boolean("nesterov", default: false)
            guard !isNesterov || momentum > 0 else {
                throw TrainingError(.badSpec, "optimizer sgd: nesterov needs a momentum above 0")
            }
            rule = .sgd(momentum: momentum, isNesterov: isNesterov)
        case "adam", "adamw":
            learningRate = try rate(&reader, 0.001)
            let (beta1, beta2) = try moments(&reader, 0.999)
            let isDecoupled = spec.type == "adamw"
            usualDecay = isDecoupled ? 0.01 : 0
            rule = .adam(
                beta1: beta1,
                beta2: beta2,
                epsilon: try epsilon(&reader, 1e-8),
                isDecoupled: isDecoupled
            )
        case "rmsprop":
            learningRate = try rate(&reader, 0.01)
            rule = .rmsProp(
                alpha: try reader.number("alpha", default: 0.99, below1),
                epsilon: try epsilon(&reader, 1e-8),
                momentum: try reader.number("momentum", default: 0, 0...1)
            )
        case "lamb":
            learningRate = try rate(&reader, 0.001)
            let (beta1, beta2) = try moments(&reader, 0.999)
            usualDecay = 0.01
            rule = .lamb(beta1: beta1, beta2: beta2, epsilon: try epsilon(&reader, 1e-6))
        case "lion":
            learningRate = try rate(&reader, 0.0001)
            let (beta1, beta2) = try moments(&reader, 0.99)
            rule = .lion(beta1: beta1, beta2: beta2)
        default:
            throw SpecReader.unknownType(spec, kind: "optimizer", known: OptimizerRule.knownTypes)
        }
        decay = try reader.number("weight_decay", default: usualDecay, 0...1e6)
        decaysVectors =
            try reader.choice("weight_decay_on", default: "all", among: ["all", "matrices"]) == "all"
        let clip = try reader.number("clip_norm", default: 0, 0...1e30)
        clipNorm = clip > 0 ? clip : nil
        try reader.finish()
    }
}
