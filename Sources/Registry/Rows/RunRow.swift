public import Basics

/// Where a run stands.
public enum RunState: String, Hashable, Sendable, Codable, CaseIterable {
    /// Accepted, waits for the cluster.
    case queued
    /// Data and worker are on their way, no step yet.
    case starting
    /// Steps are made.
    case running
    /// Made all its epochs; final.
    case finished
    /// Ended by an error; `message` says which.
    case failed
    /// Ended because someone asked.
    case stopped
    /// Its hosts or its coordinator went away; it can go on from a checkpoint.
    case interrupted

    /// Whether it holds the cluster or waits for it.
    public var isActive: Bool { self == .queued || self == .starting || self == .running }
}

/// Where a run started from, when not from fresh weights.
public struct RunParent: Hashable, Sendable, Codable {
    /// The run whose checkpoint it was.
    public var run: RunID
    /// The checkpoint's manifest.
    public var checkpoint: Digest

    /// Both.
    public init(run: RunID, checkpoint: Digest) {
        self.run = run
        self.checkpoint = checkpoint
    }
}

/// One training, from its submission on.
public struct RunRow: Hashable, Sendable, Codable {
    /// Its id.
    public var id: RunID
    /// Its name from the file; several runs may share it.
    public var name: String
    /// Where it stands.
    public var state: RunState
    /// What decides its weights; nil until the cluster is known (kernel set, worker build).
    public var record: RunRecord?
    /// The cluster file as it was submitted.
    public var fileText: String
    /// SHA-256 of the cluster file, to tell the same file from another.
    public var clusterFile: Digest?
    /// When it was submitted; Unix seconds.
    public var created: Double
    /// When it first made a step.
    public var started: Double?
    /// When it ended.
    public var finished: Double?
    /// Starts of the run: 1 at first, one more for each restart from a checkpoint.
    public var attempt: Int
    /// Generations of membership so far.
    public var generations: Int
    /// Committed steps.
    public var steps: Int
    /// Complete passes over the training samples.
    public var epoch: Int
    /// Lanes of the run; 0 until known.
    public var lanes: Int
    /// Recent speed; samples a second over the whole cluster.
    public var samplesPerSecond: Double?
    /// SHA-256 of the last `model.safetensors`.
    public var weights: Digest?
    /// Why it is in this state, in words.
    public var message: String?
    /// Where it started from.
    public var parent: RunParent?

    /// A run that was just submitted; everything else is filled in as it goes.
    public init(
        id: RunID,
        name: String,
        state: RunState = .queued,
        record: RunRecord? = nil,
        fileText: String,
        clusterFile: Digest? = nil,
        created: Double,
        parent: RunParent? = nil
    ) {
        self.id = id
        self.name = name
        self.state = state
        self.record = record
        self.fileText = fileText
        self.clusterFile = clusterFile
        self.created = created
        self.parent = parent
        attempt = 1
        generations = 0
        steps = 0
        epoch = 0
        lanes = record?.spec.lanes ?? 0
    }
}
