public import Basics

/// Why the store could not give or take something.
///
/// What the disk itself refuses (no space, no permission) is a `FileError`.
public struct ContentError: ExplainedError {
    /// The kind of a failure.
    public struct Code: Hashable, Sendable {
        private enum Value: Hashable, Sendable {
            case corrupt, missing, badManifest, badName, newerFormat, notAStore, linkInTheWay
        }
        private let value: Value
        private init(_ value: Value) { self.value = value }

        /// Bytes do not have the SHA-256 that names them.
        public static let corrupt = Code(.corrupt)
        /// A chunk or a manifest is not in this store.
        public static let missing = Code(.missing)
        /// A manifest is not what a manifest must be.
        public static let badManifest = Code(.badManifest)
        /// A file name in a manifest could leave its folder, or is no name at all.
        public static let badName = Code(.badName)
        /// A later version of this program wrote it.
        public static let newerFormat = Code(.newerFormat)
        /// The folder holds something else.
        public static let notAStore = Code(.notAStore)
        /// A symbolic link stands where a folder should be.
        public static let linkInTheWay = Code(.linkInTheWay)
    }

    /// The kind of the failure.
    public var code: Code
    /// What happened, to which file.
    public var message: String
    /// What to do now.
    public var hint: String?

    /// All parts.
    public init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }

    /// 76 for a newer format, 73 for a link in the way, else 65.
    public var exitCode: ExitCode {
        switch code {
        case .newerFormat: .protocolVersion
        case .linkInTheWay: .cannotWrite
        default: .badInput
        }
    }
}
