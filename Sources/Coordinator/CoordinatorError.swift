public import Basics

/// Why the coordinator could not do what it was asked.
public struct CoordinatorError: ExplainedError {
    /// What happened.
    public var message: String
    /// What to do now.
    public var hint: String?
    /// How the program ends.
    public var exitCode: ExitCode

    /// All fields.
    public init(_ message: String, hint: String? = nil, exitCode: ExitCode = .failed) {
        self.message = message
        self.hint = hint
        self.exitCode = exitCode
    }
}
