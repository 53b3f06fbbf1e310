public import Basics

/// A place in the cluster file: line and column, both from 1; columns count Unicode scalars.
public struct Place: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The line, from 1.
    public var line: Int
    /// The column, from 1.
    public var column: Int

    /// A line and a column, both from 1.
    public init(line: Int, column: Int) {
        self.line = line
        self.column = column
    }

    /// `12:3`.
    public var description: String { "\(line):\(column)" }
    /// Orders as one reads.
    public static func < (a: Place, b: Place) -> Bool { (a.line, a.column) < (b.line, b.column) }
}

/// Everything that is wrong with a cluster file.
///
/// All problems are reported at once, so that one edit mends the file.
public struct ClusterFileError: ExplainedError {
    /// The kinds of problems, for programs; people read ``Problem/text``.
    public enum Code: String, Hashable, Sendable, CaseIterable {
        /// There is no such file, or it cannot be read.
        case missingFile
        /// The text is not YAML.
        case malformed
        /// A key that means nothing here.
        case unknownKey
        /// A key that stands twice in one mapping.
        case duplicateKey
        /// A key that must be there is not.
        case missingKey
        /// A value of the wrong kind, such as text where a number belongs.
        case wrongType
        /// A value of the right kind that cannot be used.
        case badValue
        /// A name that stands for nothing: a host, a model, an optimizer, a schedule.
        case unknownName
    }

    /// One thing that is wrong.
    public struct Problem: Hashable, Sendable, CustomStringConvertible {
        /// What kind.
        public var code: Code
        /// The cluster file, as the user named it.
        public var path: String
        /// Where; nil when there is no file to point into.
        public var place: Place?
        /// What is wrong, in words: lower-case start, no full stop.
        public var text: String

        /// `FILE:LINE:COL: text`.
        public var description: String { "\(path):\(place.map { "\($0):" } ?? "") \(text)" }
    }

    /// What is wrong, in the order of the file; never empty.
    public let problems: [Problem]

    /// - Precondition: at least one problem.
    init(_ problems: [Problem], hint: String? = nil) {
        precondition(!problems.isEmpty, "an error without a problem")
        self.problems = problems
        self.hint = hint ?? Self.hint(for: Set(problems.map(\.code)))
    }

    /// The kind of the first problem.
    public var code: Code { problems.first?.code ?? .malformed }
    /// One line a problem, each `FILE:LINE:COL: text`.
    public var message: String { problems.map(\.description).joined(separator: "\n") }
    /// Where to look things up.
    public let hint: String?
    /// 65, bad input.
    public var exitCode: ExitCode { .badInput }

    private static func hint(for codes: Set<Code>) -> String? {
        if codes == [.missingFile] { return "run `coord init` to write a cluster file, or name one with -f" }
        if codes == [.malformed] { return "indent with spaces, and quote text that holds `: ` or ` #`" }
        return "run `coord docs cluster` to see every key with its meaning, unit and default"
    }
}
