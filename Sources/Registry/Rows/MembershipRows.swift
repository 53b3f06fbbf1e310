public import Basics

/// A training process of a run.
public struct RunWorkerRow: Hashable, Sendable, Codable {
    /// The run.
    public var run: RunID
    /// Its number in the run, never given to another process of the same run.
    public var rank: Int
    /// Where it runs.
    public var host: String
    /// The lanes it holds now.
    public var lanes: LaneSet
    /// Steps in which it computed at least one lane.
    public var stepsComputed: Int
    /// What it does, in the coordinator's words: `training`, `lost`, `left`.
    public var state: String

    /// All fields.
    public init(run: RunID, rank: Int, host: String, lanes: LaneSet, stepsComputed: Int = 0, state: String) {
        self.run = run
        self.rank = rank
        self.host = host
        self.lanes = lanes
        self.stepsComputed = stepsComputed
        self.state = state
    }
}

/// A worker as a member of one generation.
public struct GenerationMember: Hashable, Sendable, Codable {
    /// Its rank.
    public var rank: Int
    /// Its host.
    public var host: String
    /// Its lanes at the start of the generation.
    public var lanes: LaneSet

    /// All fields.
    public init(rank: Int, host: String, lanes: LaneSet) {
        self.rank = rank
        self.host = host
        self.lanes = lanes
    }
}

/// A change of a run's membership.
public struct GenerationRow: Hashable, Sendable, Codable {
    /// The run.
    public var run: RunID
    /// The generation's number; each is larger than the one before.
    public var number: Int
    /// Who belongs to it, in rank order.
    public var members: [GenerationMember]
    /// Why it was made, in words.
    public var reason: String
    /// When; Unix seconds.
    public var time: Double

    /// All fields.
    public init(run: RunID, number: Int, members: [GenerationMember], reason: String, time: Double) {
        self.run = run
        self.number = number
        self.members = members
        self.reason = reason
        self.time = time
    }
}
