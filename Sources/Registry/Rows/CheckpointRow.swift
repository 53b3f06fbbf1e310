public import Basics

/// How safe a checkpoint is; only ever moves forward.
public enum CheckpointState: String, Hashable, Sendable, Codable, CaseIterable, Comparable {
    /// One verified copy, on a host.
    case held
    /// A verified copy at home or, while home is away, on two hosts.
    case saved
    /// Its bytes were pruned; the row stays as history.
    case deleted

    /// Orders by progress.
    public static func < (a: CheckpointState, b: CheckpointState) -> Bool { a.progress < b.progress }

    private var progress: Int {
        switch self {
        case .held: 0
        case .saved: 1
        case .deleted: 2
        }
    }
}

/// What a checkpoint or a model version is judged by.
public struct CheckpointMetrics: Hashable, Sendable, Codable {
    /// Accuracy on the validation samples; larger is better.
    public var valAccuracy: Double?
    /// Mean loss on the validation samples; smaller is better.
    public var valLoss: Double?
    /// Mean loss on the training samples.
    public var trainLoss: Double?

    /// Any of the three.
    public init(valAccuracy: Double? = nil, valLoss: Double? = nil, trainLoss: Double? = nil) {
        self.valAccuracy = valAccuracy
        self.valLoss = valLoss
        self.trainLoss = trainLoss
    }
}

/// A checkpoint of a run.
///
/// Two runs with equal records may make the same manifest: each has its own row, and the bytes go when no row
/// needs them.
public struct CheckpointRow: Hashable, Sendable, Codable {
    /// Its identity: the manifest in the content store.
    public var manifest: Digest
    /// The run that made it.
    public var run: RunID
    /// Complete epochs at that point.
    public var epoch: Int
    /// The step after which it was taken.
    public var step: Int
    /// How safe it is.
    public var state: CheckpointState
    /// Whether a verified copy is in this machine's store.
    public var isHome: Bool
    /// What it is judged by.
    public var metrics: CheckpointMetrics
    /// SHA-256 of its `model.safetensors`.
    public var weights: Digest?
    /// All its files together.
    public var size: ByteCount
    /// When it was taken; Unix seconds, the host's clock.
    public var created: Double
    /// Whether someone asked to keep it.
    public var isPinned: Bool
    /// In the trash, and until when it can come back; nil when not in the trash.
    public var trashedUntil: Double?
    /// Hosts with a verified copy, by name.
    public var hosts: [String]

    /// All fields.
    public init(
        manifest: Digest,
        run: RunID,
        epoch: Int,
        step: Int,
        state: CheckpointState = .held,
        isHome: Bool = false,
        metrics: CheckpointMetrics = CheckpointMetrics(),
        weights: Digest? = nil,
        size: ByteCount,
        created: Double,
        isPinned: Bool = false,
        trashedUntil: Double? = nil,
        hosts: [String] = []
    ) {
        self.manifest = manifest
        self.run = run
        self.epoch = epoch
        self.step = step
        self.state = state
        self.isHome = isHome
        self.metrics = metrics
        self.weights = weights
        self.size = size
        self.created = created
        self.isPinned = isPinned
        self.trashedUntil = trashedUntil
        self.hosts = hosts
    }
}
