/// A value in a model's, optimizer's or schedule's parameter list.
public enum SpecValue: Hashable, Sendable, Codable {
    /// A whole number.
    case integer(Int)
    /// A number.
    case number(Double)
    /// A truth value.
    case boolean(Bool)
    /// A name.
    case text(String)
    /// A list of values.
    case list([SpecValue])
    /// A type with parameters of its own, such as a layer.
    case spec(TypedSpec)

    /// Reads whichever of the six fits first.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let value = try? container.decode(Bool.self) {
            self = .boolean(value)
        } else if let value = try? container.decode(Int.self) {
            self = .integer(value)
        } else if let value = try? container.decode(Double.self) {
            self = .number(value)
        } else if let value = try? container.decode(String.self) {
            self = .text(value)
        } else if let value = try? container.decode(TypedSpec.self) {
            self = .spec(value)
        } else {
            self = .list(try container.decode([SpecValue].self))
        }
    }

    /// Writes the bare value.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .integer(let value): try container.encode(value)
        case .number(let value): try container.encode(value)
        case .boolean(let value): try container.encode(value)
        case .text(let value): try container.encode(value)
        case .list(let value): try container.encode(value)
        case .spec(let value): try container.encode(value)
        }
    }

    /// The value as a whole number, when it is one.
    public var integer: Int? { if case .integer(let value) = self { value } else { nil } }
    /// The value as a number, when it is one.
    public var number: Double? {
        switch self {
        case .integer(let value): Double(value)
        case .number(let value): value
        default: nil
        }
    }
    /// The value as a list of whole numbers, when it is one.
    public var integers: [Int]? { all(\.integer) }
    /// The value as a list of numbers, when it is one.
    public var numbers: [Double]? { all(\.number) }
    /// The value as a list of types with parameters, when it is one.
    public var specs: [TypedSpec]? { all { if case .spec(let spec) = $0 { spec } else { nil } } }
    /// The value as a name, when it is one.
    public var text: String? { if case .text(let value) = self { value } else { nil } }

    private func all<Value>(_ convert: (SpecValue) -> Value?) -> [Value]? {
        guard case .list(let values) = self else { return nil }
        let converted = values.compactMap(convert)
        return converted.count == values.count ? converted : nil
    }
}

/// A type by name and its parameters, as the cluster file writes it: `{ type: simple_cnn, channels: [32, 64] }`.
public struct TypedSpec: Hashable, Sendable, Codable {
    /// The name in the registry of models, optimizers or schedules.
    public var type: String
    /// All other keys.
    public var parameters: [String: SpecValue]

    /// A type and its parameters.
    public init(type: String, parameters: [String: SpecValue] = [:]) {
        self.type = type
        self.parameters = parameters
    }
}

/// Which engine trains.
public enum EngineKind: String, Hashable, Sendable, Codable, CaseIterable {
    /// Ours: OpenBLAS and C kernels.
    case native
    /// The user's own PyTorch script.
    case torch
}

/// A set of CPU kernels whose results agree to the bit.
///
/// Names follow the x86-64 micro-architecture levels.
public enum KernelSet: String, Hashable, Sendable, Codable, CaseIterable, Comparable {
    /// SSE4.2: any x86-64 of the last 15 years.
    case v2
    /// AVX2 and FMA.
    case v3
    /// AVX-512.
    case v4

    /// What `OPENBLAS_CORETYPE` must be in a trainer's environment before exec.
    public var openBLASCoreType: String {
        switch self {
        case .v2: "Nehalem"
        case .v3: "Haswell"
        case .v4: "SkylakeX"
        }
    }

    /// Orders from the most portable to the fastest.
    public static func < (a: KernelSet, b: KernelSet) -> Bool { a.rawValue < b.rawValue }
}

/// In what numbers the products of a training step are computed.
public enum Precision: String, Hashable, Sendable, Codable, CaseIterable {
    /// Single precision everywhere.
    case float32
    /// Operands of dense layers and of convolutions rounded to bfloat16 (3×3 with stride 1: on the way back only, depthwise:
    /// never), sums and all else in single precision.
    case bf16
}

/// Which checkpoints stay without being pinned.
public struct KeepSpec: Hashable, Sendable, Codable {
    /// How many of the best by the monitored metric; unit: checkpoints.
    public var best: Int
    /// How many of the last; unit: checkpoints.
    public var latest: Int
    /// How many of each.
    public init(best: Int = 3, latest: Int = 2) {
        self.best = best
        self.latest = latest
    }
}

/// How a dataset is cut: fractions of the samples, chosen by `seed`.
public struct SplitSpec: Hashable, Sendable, Codable {
    /// Fraction for validation, in [0, 1).
    public var validation: Double
    /// Fraction for test, in [0, 1).
    public var test: Double
    /// The split's own seed, so that two runs with other seeds are judged on the same samples.
    public var seed: UInt64
    /// Two fractions; the rest is for training.
    public init(validation: Double = 0.2, test: Double = 0, seed: UInt64 = 1) {
        self.validation = validation
        self.test = test
        self.seed = seed
    }
}

/// What a trainer does when its memory will not do.
public enum MemoryPolicy: String, Hashable, Sendable, Codable, CaseIterable {
    /// It does not start, and says what it would need.
    case refuse
    /// It takes longer and needs less: the same bits.
    case auto
}

/// Which training samples an epoch is made of.
public enum Sampling: String, Hashable, Sendable, Codable, CaseIterable {
    /// Each one once.
    case uniform
    /// All classes equally often: the samples of rare ones come several times, some of the frequent ones not at all.
    case balanced
}

/// When a run ends before its last epoch.
public struct EarlyStopSpec: Hashable, Sendable, Codable {
    /// Epochs without a better value of the monitored metric, after which the run ends; ≥ 1.
    public var patience: Int
    /// How much better counts as better; 0 = any.
    public var improvement: Double
    /// Both fields.
    public init(patience: Int, improvement: Double = 0) {
        self.patience = patience
        self.improvement = improvement
    }
}

/// What the user asks for, complete: every default filled in, every `auto` resolved from the run file alone.
public struct RunSpec: Hashable, Sendable, Codable {
    /// The run's name, for people and for the model it makes.
    public var name: String
    /// Which engine trains.
    public var engine: EngineKind
    /// The model by name and parameters.
    public var model: TypedSpec
    /// Passes over the training samples.
    public var epochs: Int
    /// Samples in a step, over all lanes.
    public var batch: Int
    /// Lanes, a power of two that divides `batch`.
    public var lanes: Int
    /// `sgd`, `adamw` or another with `learning_rate` and more.
    public var optimizer: TypedSpec
    /// `constant`, `step`, `cosine`, `one_cycle`, `plateau` with `warmup_steps` and more.
    public var schedule: TypedSpec
    /// Passes that a lane's share of a batch is cut into, to need less memory; nil = 1.
    public var accumulate: Int?
    /// Decay of the moving average of the weights, which is then what is judged and saved; nil = none is kept.
    public var averaging: Double?
    /// When the run ends early; nil = never.
    public var earlyStop: EarlyStopSpec?
    /// How exact the products of a step are; nil = ``Precision/float32``.
    public var precision: Precision?
    /// What a wrong answer costs, by name and parameters; nil = the softmax cross-entropy.
    public var loss: TypedSpec?
    /// What happens to images before they are trained on, in this order; nil = nothing.
    public var augment: [TypedSpec]?
    /// Which samples an epoch is made of; nil = ``Sampling/uniform``.
    public var sampling: Sampling?
    /// What is subtracted from inputs and divides them, by name and parameters; nil = measured over the training samples.
    public var normalize: TypedSpec?
    /// Keys everything random.
    public var seed: UInt64
    /// Which checkpoints stay.
    public var keep: KeepSpec
    /// `val_accuracy` (larger is better) or `val_loss` (smaller is better).
    public var monitor: String
    /// How the dataset is cut.
    public var split: SplitSpec
    /// How the members tell each other what they computed; nil = exactly, in every step.
    public var exchange: ExchangeSpec?
    /// True for the simple run that another one has to beat: it is never deployed by itself; nil = false.
    public var isBaseline: Bool?

    /// All fields but ``isBaseline``.
    public init(
        name: String,
        engine: EngineKind = .native,
        model: TypedSpec,
        epochs: Int,
        batch: Int,
        lanes: Int,
        optimizer: TypedSpec,
        schedule: TypedSpec,
        seed: UInt64 = 42,
        keep: KeepSpec = KeepSpec(),
        monitor: String = "val_accuracy",
        split: SplitSpec = SplitSpec(),
        accumulate: Int? = nil,
        averaging: Double? = nil,
        earlyStop: EarlyStopSpec? = nil,
        exchange: ExchangeSpec? = nil,
        loss: TypedSpec? = nil,
        precision: Precision? = nil,
        augment: [TypedSpec]? = nil,
        sampling: Sampling? = nil,
        normalize: TypedSpec? = nil
    ) {
        self.sampling = sampling
        self.normalize = normalize
        self.augment = augment
        self.exchange = exchange
        self.name = name
        self.engine = engine
        self.model = model
        self.epochs = epochs
        self.batch = batch
        self.lanes = lanes
        self.optimizer = optimizer
        self.schedule = schedule
        self.seed = seed
        self.keep = keep
        self.monitor = monitor
        self.split = split
        self.accumulate = accumulate
        self.averaging = averaging
        self.earlyStop = earlyStop
        self.loss = loss
        self.precision = precision
    }
}

/// Everything that decides the bits of a run's weights.
///
/// Two runs with equal records end with equal weights.
public struct RunRecord: Hashable, Sendable, Codable {
    /// What the user asked for.
    public var spec: RunSpec
    /// The dataset's manifest.
    public var dataset: Digest
    /// The kernel set of every host of the run.
    public var kernels: KernelSet
    /// SHA-256 of the worker binary on every host of the run.
    public var worker: Digest

    /// All fields.
    public init(spec: RunSpec, dataset: Digest, kernels: KernelSet, worker: Digest) {
        self.spec = spec
        self.dataset = dataset
        self.kernels = kernels
        self.worker = worker
    }
}

/// What a model takes and gives: enough to serve it without the dataset.
///
/// The file `model.json` of a checkpoint.
public struct ModelSignature: Hashable, Sendable, Codable {
    /// The model by name and parameters.
    public var model: TypedSpec
    /// Shape of one sample: `[features]` or `[C, H, W]`.
    public var inputShape: [Int]
    /// The names of the classes, in label order.
    public var classes: [String]
    /// Subtracted from each input value, one a channel (or one for all features).
    public var mean: [Float]
    /// Divides each input value after the subtraction, one a channel (or one for all features); never 0.
    public var deviation: [Float]

    /// All fields.
    public init(model: TypedSpec, inputShape: [Int], classes: [String], mean: [Float], deviation: [Float]) {
        self.model = model
        self.inputShape = inputShape
        self.classes = classes
        self.mean = mean
        self.deviation = deviation
    }

    /// Values in one sample.
    public var inputCount: Int { inputShape.reduce(1, *) }
}
