public import Basics

/// Something that happened, kept for ever.
public struct EventRow: Hashable, Sendable, Codable {
    /// Its number: larger is later, over everything.
    public var id: Int64
    /// When; Unix seconds.
    public var time: Double
    /// What kind, in words with dots, such as `run.started`.
    public var kind: String
    /// The run it is about.
    public var run: RunID?
    /// The host it is about.
    public var host: String?
    /// Who did it: `coordinator`, `agent`, or the user's name.
    public var who: String
    /// One line for people.
    public var message: String
    /// Details for programs: a JSON text.
    public var data: String?
}

/// Which events to list.
public struct EventFilter: Hashable, Sendable {
    /// Only later ones than this id.
    public var since: Int64?
    /// Only these kinds; a kind that ends in `.` stands for all that begin so.
    ///
    /// Empty: all.
    public var kinds: [String]
    /// Only about this run.
    public var run: RunID?
    /// Only about this host.
    public var host: String?
    /// At most so many: the last ones, or the first ones after `since`.
    public var limit: Int?

    /// Any of them.
    public init(
        since: Int64? = nil,
        kinds: [String] = [],
        run: RunID? = nil,
        host: String? = nil,
        limit: Int? = nil
    ) {
        self.since = since
        self.kinds = kinds
        self.run = run
        self.host = host
        self.limit = limit
    }
}
