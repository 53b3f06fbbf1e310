/// What a program tells the shell when it ends; documented in `docs/reference/exit-codes.md` and tested.
public struct ExitCode: Hashable, Sendable, Codable, RawRepresentable {
    /// The number that the shell sees.
    public let rawValue: Int32

    /// Wraps a number from another program.
    public init(rawValue: Int32) { self.rawValue = rawValue }

    /// All went well.
    public static let ok = ExitCode(rawValue: 0)
    /// The work itself failed (a run that diverged, a check that did not pass).
    public static let failed = ExitCode(rawValue: 1)
    /// The command line was wrong.
    public static let usage = ExitCode(rawValue: 64)
    /// The cluster file or a data file is wrong.
    public static let badInput = ExitCode(rawValue: 65)
    /// A host could not be reached.
    public static let unreachable = ExitCode(rawValue: 69)
    /// A bug of ours.
    public static let bug = ExitCode(rawValue: 70)
    /// Something could not be written (no space, no permission).
    public static let cannotWrite = ExitCode(rawValue: 73)
    /// Someone else holds what is needed; try later.
    public static let locked = ExitCode(rawValue: 75)
    /// The two sides speak different protocol versions.
    public static let protocolVersion = ExitCode(rawValue: 76)
    /// A key was refused, theirs or ours.
    public static let keyRefused = ExitCode(rawValue: 77)
    /// Ctrl-C.
    public static let interrupted = ExitCode(rawValue: 130)
}
