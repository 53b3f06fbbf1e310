/// An error that a person can act on.
///
/// Every module's error struct conforms; the doors print `message`, then `hint`, and exit with `exitCode`.
public protocol ExplainedError: Error, Sendable, CustomStringConvertible {
    /// What happened, to what: names host, path, sizes. Lower-case start, no full stop.
    var message: String { get }
    /// What to do now, one imperative sentence.
    var hint: String? { get }
    /// How the program ends when nobody handles the error.
    var exitCode: ExitCode { get }
}

extension ExplainedError {
    /// `message`, and the hint behind a dash.
    public var description: String { hint.map { "\(message) — \($0)" } ?? message }
}
