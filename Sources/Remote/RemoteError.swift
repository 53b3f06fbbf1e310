public import Basics

/// Why a host could not be reached or commanded.
///
/// A command's non-zero exit is a result (``CommandResult``), never an error.
public struct RemoteError: ExplainedError {
    /// Where on the way it happened.
    public enum Phase: String, Sendable {
        /// Turning the name into addresses.
        case resolve
        /// Opening the TCP connection.
        case connect
        /// Agreeing on keys and ciphers.
        case handshake
        /// Checking the host's key.
        case trust
        /// Proving who we are.
        case authenticate
        /// Opening a channel and starting the command.
        case open
        /// While a command ran.
        case command
        /// While a stream was open.
        case stream
        /// Sending a file.
        case upload
        /// Creating or installing keys on this side.
        case keys
    }

    /// What went wrong.
    public enum Code: String, Sendable {
        /// The name has no address.
        case unresolvable
        /// Nobody listens on the port.
        case connectionRefused
        /// The network does not lead there.
        case unreachable
        /// A phase took longer than its deadline.
        case timedOut
        /// The other side is no SSH server, or has nothing in common with us.
        case handshakeFailed
        /// The host's key was never seen.
        case hostKeyUnknown
        /// The host shows another key than the known one.
        case hostKeyChanged
        /// The host's key is marked `@revoked`.
        case hostKeyRevoked
        /// The host does not accept our key.
        case keyRefused
        /// Our key file is missing, too open, encrypted or no key.
        case badIdentity
        /// Our key is encrypted, and nobody said its passphrase.
        case passphraseNeeded
        /// The local ssh configuration does not lead to the host.
        case badClientConfiguration
        /// The connection broke.
        case connectionLost
        /// The host does not open a channel or start the command.
        case channelRefused
        /// The command printed more than we keep.
        case tooMuchOutput
        /// What arrived is not what was sent.
        case digestMismatch
        /// A step of ours on the host failed (no space, no permission).
        case failed
        /// The local program that was needed could not run.
        case missingTool

        /// True when the same call may succeed later without anybody doing something.
        public var isRetryable: Bool {
            switch self {
            case .connectionRefused, .unreachable, .timedOut, .connectionLost, .channelRefused: true
            default: false
            }
        }
    }

    /// The host's name in the cluster file.
    public var host: String
    /// Where on the way it happened.
    public var phase: Phase
    /// What went wrong.
    public var code: Code
    /// Names host, address, user, paths and the reason.
    public var message: String
    /// What to do now.
    public var hint: String?

    /// Describes a failure.
    public init(host: String, phase: Phase, code: Code, message: String, hint: String? = nil) {
        self.host = host
        self.phase = phase
        self.code = code
        self.message = message
        self.hint = hint
    }

    /// 77 for keys of either side, 65 for the local configuration, 69 for what keeps us from the host, 73 and 1 for what failed there.
    public var exitCode: ExitCode {
        switch code {
        case .hostKeyUnknown, .hostKeyChanged, .hostKeyRevoked, .keyRefused, .badIdentity,
            .passphraseNeeded:
            .keyRefused
        case .badClientConfiguration: .badInput
        case .unresolvable, .connectionRefused, .unreachable, .timedOut, .handshakeFailed, .connectionLost,
            .channelRefused:
            .unreachable
        case .failed, .digestMismatch: phase == .upload ? .cannotWrite : .failed
        case .tooMuchOutput, .missingTool: .failed
        }
    }
}
