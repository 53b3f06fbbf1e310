/// A fault that a person asks for, done by a worker's own agent.
public struct Injury: Codable, Sendable, Hashable {
    /// What is done.
    public enum Kind: String, Codable, Sendable, CaseIterable {
        /// SIGKILL for the trainer's process.
        case kill
        /// SIGSTOP, and SIGCONT when the time is over.
        case stop
        /// Its links to the other members carry nothing for a while, without an end.
        case partition
        /// It gets about half of its processor's time for a while.
        case slow
        /// One bit of the next frame to each other member is flipped on its way.
        case corrupt
    }
    /// What is done.
    public var kind: Kind
    /// How long what passes lasts; unit: seconds.
    ///
    /// Without meaning for ``Kind/kill`` and ``Kind/corrupt``.
    public var seconds: Double

    /// Both fields.
    public init(_ kind: Kind, seconds: Double) {
        self.kind = kind
        self.seconds = seconds
    }
}
