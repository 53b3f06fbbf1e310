public import Basics

/// Where a release stands.
public enum ReleaseState: String, Hashable, Sendable, Codable, CaseIterable {
    /// Waits for its turn.
    case planned
    /// Chunks are on their way.
    case sending
    /// Loaded beside the running version, under test.
    case verifying
    /// Serves; at most one a host.
    case live
    /// Was live, and someone or the watch went back behind it; final.
    case rolledBack
    /// Never went live, `reason` says why; or its process could not be kept; final.
    case failed
    /// Another release took its place, before or after it was live; final.
    case superseded

    /// Whether nothing more will happen to it.
    public var isFinal: Bool { self == .rolledBack || self == .failed || self == .superseded }

    /// Whether a release may go from this state to `next`.
    public func canBecome(_ next: ReleaseState) -> Bool {
        switch self {
        case .planned: next == .sending || next == .failed || next == .superseded
        case .sending: next == .verifying || next == .failed || next == .superseded
        case .verifying: next == .live || next == .failed || next == .superseded
        case .live: next == .rolledBack || next == .superseded || next == .failed
        case .rolledBack, .failed, .superseded: false
        }
    }
}

/// One attempt to put a model version on a host.
public struct ReleaseRow: Hashable, Sendable, Codable {
    /// Its number, over all hosts.
    public var id: Int64
    /// Where it goes.
    public var host: String
    /// The model's name.
    public var model: String
    /// The model's version.
    public var version: Int
    /// The version's checkpoint.
    public var checkpoint: Digest
    /// Where it stands.
    public var state: ReleaseState
    /// Why it was made, or why it ended, in words.
    public var reason: String
    /// When it was planned; Unix seconds.
    public var started: Double
    /// When it went live or ended without; the later change of a live release moves it.
    public var finished: Double?
    /// Largest difference between the golden outputs and what this host computed.
    public var goldenDifference: Double?
}
