public import Basics

/// Why data could not be read, or a dataset could not be made of it.
public struct DatasetError: ExplainedError {
    /// The kind of a failure.
    public struct Code: Hashable, Sendable {
        private enum Value: Hashable, Sendable {
            case badInput, badLabel, badSplit, badDataset, noTool, noNetwork, wrongSource
        }
        private let value: Value
        private init(_ value: Value) { self.value = value }

        /// A file is not what its format asks for; the message names file and line.
        public static let badInput = Code(.badInput)
        /// A label outside the classes.
        public static let badLabel = Code(.badLabel)
        /// Fractions that leave nothing to train on.
        public static let badSplit = Code(.badSplit)
        /// A manifest in the store that is not a dataset, or a damaged one.
        public static let badDataset = Code(.badDataset)
        /// A program that is needed is not installed.
        public static let noTool = Code(.noTool)
        /// A download failed.
        public static let noNetwork = Code(.noNetwork)
        /// A download brought something else than what is pinned.
        public static let wrongSource = Code(.wrongSource)
    }

    /// The kind of the failure.
    public var code: Code
    /// What happened, in which file and line.
    public var message: String
    /// What to do now.
    public var hint: String?

    /// All parts.
    public init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }

    /// 69 for the network, 1 for a tool that is missing, else 65.
    public var exitCode: ExitCode {
        switch code {
        case .noNetwork: .unreachable
        case .noTool: .failed
        default: .badInput
        }
    }
}
