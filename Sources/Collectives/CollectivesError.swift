public import Basics

/// Why members of a run could not meet, or could not finish an operation.
public struct CollectivesError: ExplainedError {
    /// What kind of failure; new kinds may come.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String {
            case peerLost, peerSilent, peerLeft, peerAborted, diverged, mismatch, badFrame
            case handshakeRefused, deadlineExceeded, aborted, closed, badAddress, system
        }
        private let kind: Kind
        private init(_ kind: Kind) { self.kind = kind }

        /// A link ended or was reset.
        public static let peerLost = Code(.peerLost)
        /// Nothing came from a member for too long while an operation waited for it.
        public static let peerSilent = Code(.peerSilent)
        /// A member closed its group on purpose.
        public static let peerLeft = Code(.peerLeft)
        /// A member reported a failure of its own: ``CollectivesError/ranks`` are the ones it blames.
        public static let peerAborted = Code(.peerAborted)
        /// Members hold different results or histories.
        public static let diverged = Code(.diverged)
        /// Members were given different plans: lanes, number of values, width of lane values.
        public static let mismatch = Code(.mismatch)
        /// A frame was damaged or makes no sense.
        public static let badFrame = Code(.badFrame)
        /// A member could not prove the generation's secret.
        public static let handshakeRefused = Code(.handshakeRefused)
        /// Not all members met in time.
        public static let deadlineExceeded = Code(.deadlineExceeded)
        /// Somebody on this machine gave up.
        public static let aborted = Code(.aborted)
        /// The group or endpoint was closed before.
        public static let closed = Code(.closed)
        /// An address can't be used.
        public static let badAddress = Code(.badAddress)
        /// The system refused a socket or a thread.
        public static let system = Code(.system)

        /// The name of the code.
        public var description: String { kind.rawValue }
        /// The number on the wire.
        var wire: UInt8 {
            switch kind {
            case .peerLost: 1
            case .peerSilent: 2
            case .peerLeft: 3
            case .diverged: 4
            case .mismatch: 5
            case .badFrame: 6
            case .aborted: 7
            default: 0
            }
        }
        /// The name for a number that a member sent.
        static func name(wire: UInt8) -> String {
            let known: [Code] = [
                .peerLost, .peerSilent, .peerLeft, .diverged, .mismatch, .badFrame, .aborted,
            ]
            return known.first { $0.wire == wire }?.description ?? "failure"
        }
    }

    /// What kind of failure.
    public var code: Code
    /// What happened, with ranks.
    public var message: String
    /// The members concerned: lost, silent, diverged, missing; may be empty.
    public var ranks: [Int]
    /// Who told us, for `.peerAborted`.
    public var reportedBy: Int?

    /// A failure that concerns some members.
    public init(_ code: Code, _ message: String, ranks: [Int] = [], reportedBy: Int? = nil) {
        self.code = code
        self.message = message
        self.ranks = ranks
        self.reportedBy = reportedBy
    }

    /// What to do now, where a person can do something.
    public var hint: String? {
        switch code {
        case .diverged: "resume the run from its last checkpoint and look for bad memory on the named members"
        case .mismatch: "run 'coord up' again so that all members run the same build and plan"
        case .handshakeRefused:
            "check that the address belongs to this cluster; the run's secret was not proven"
        case .badAddress: "use a numeric address such as 127.0.0.1:0 or [::1]:0"
        default: nil
        }
    }

    /// How a program ends on it.
    public var exitCode: ExitCode {
        switch code {
        case .peerLost, .peerSilent, .peerLeft, .deadlineExceeded: .unreachable
        case .handshakeRefused: .keyRefused
        case .badAddress: .badInput
        case .mismatch: .protocolVersion
        default: .failed
        }
    }

    /// True when a new generation may succeed where this one failed.
    public var isRetryable: Bool {
        switch code {
        case .peerLost, .peerSilent, .peerLeft, .peerAborted, .badFrame, .deadlineExceeded, .aborted: true
        default: false
        }
    }
}

/// The text of a system error number.
func systemText(_ number: Int32) -> String {
    switch number {
    case 104: "connection reset"
    case 110: "connection timed out"
    case 111: "connection refused"
    case 32: "broken pipe"
    case 113: "no route to host"
    case 98: "address already in use"
    case 12: "out of memory"
    case 23, 24: "too many open files"
    default: "errno \(number)"
    }
}
