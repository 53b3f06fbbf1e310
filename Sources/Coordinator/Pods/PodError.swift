public import Basics

/// Why a pod's provider did not tell what it was asked.
public struct PodError: ExplainedError {
    /// The kinds of failures.
    public enum Code: String, Sendable {
        /// Neither an address in the cluster file nor a key to ask for one.
        case noKey
        /// The key, or the URL, cannot be used as it stands.
        case badSetting
        /// The key was refused.
        case keyRefused
        /// There is no such pod any more.
        case gone
        /// The pod is there and answers no SSH: stopped, or not started yet.
        case notReady
        /// The provider asks to wait.
        case tooMany
        /// The provider could not be reached, or is out of order.
        case unreachable
        /// What came is no answer.
        case nonsense
        /// curl is missing.
        case missingTool
    }

    /// What kind of failure it is.
    public var code: Code
    /// What happened.
    public var message: String
    /// What to do now.
    public var hint: String?

    init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }

    /// True when the last known address may be right all the same.
    var isTheirs: Bool { code == .tooMany || code == .unreachable || code == .nonsense }

    /// 77 for the key, 65 for what the cluster file should say otherwise, 69 for what may pass by itself.
    public var exitCode: ExitCode {
        switch code {
        case .keyRefused: .keyRefused
        case .noKey, .badSetting, .gone: .badInput
        case .notReady, .tooMany, .unreachable, .nonsense: .unreachable
        case .missingTool: .failed
        }
    }
}
