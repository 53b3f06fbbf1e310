public import Basics
internal import GRDB

/// Why the registry refused.
public struct RegistryError: ExplainedError {
    /// What kind of refusal; callers switch on it, and a new one breaks nobody.
    public struct Code: Hashable, Sendable {
        private let name: String
        private init(_ name: String) { self.name = name }

        /// There is no registry file yet.
        public static let missing = Code("missing")
        /// The file is not a registry, or damaged.
        public static let corrupt = Code("corrupt")
        /// The disk or the permissions do not let us write (or open).
        public static let cannotWrite = Code("cannotWrite")
        /// Another process held the write lock for longer than the busy timeout.
        public static let locked = Code("locked")
        /// A newer coord wrote this file.
        public static let newerSchema = Code("newerSchema")
        /// An older coord wrote this file, and it is opened read-only.
        public static let olderSchema = Code("olderSchema")
        /// Nothing has that name or id.
        public static let notFound = Code("notFound")
        /// More than one thing has that beginning.
        public static let ambiguous = Code("ambiguous")
        /// The change goes backwards or contradicts what is recorded.
        public static let conflict = Code("conflict")
        /// What was to be deleted is pinned, deployed, named or a parent of such.
        public static let protected = Code("protected")
        /// The caller broke a rule of this module.
        public static let misuse = Code("misuse")
    }

    /// What kind of refusal.
    public var code: Code
    /// What happened, to what.
    public var message: String
    /// What to do now.
    public var hint: String?

    /// All fields.
    public init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }

    /// How the program ends when nobody handles the error.
    public var exitCode: ExitCode {
        switch code {
        case .corrupt, .notFound: .badInput
        case .ambiguous: .usage
        case .cannotWrite: .cannotWrite
        case .locked: .locked
        case .newerSchema, .olderSchema: .protocolVersion
        case .misuse: .bug
        default: .failed
        }
    }
}

extension RegistryError {
    /// Says in our words what SQLite said about the file at `path`.
    init(_ error: DatabaseError, path: String) {
        let words = error.message ?? "SQLite error \(error.extendedResultCode.rawValue)"
        switch error.resultCode {
        case .SQLITE_FULL:
            self.init(
                .cannotWrite,
                "no space left for \(path)",
                hint: "free space on that disk, then try again"
            )
        case .SQLITE_IOERR, .SQLITE_READONLY, .SQLITE_PERM, .SQLITE_AUTH:
            self.init(
                .cannotWrite,
                "cannot write \(path): \(words)",
                hint: "check the disk and the permissions of its folder"
            )
        case .SQLITE_CANTOPEN:
            self.init(
                .cannotWrite,
                "cannot open \(path): \(words)",
                hint: "check that the folder exists and may be written to"
            )
        case .SQLITE_CORRUPT, .SQLITE_NOTADB, .SQLITE_FORMAT:
            self = .damaged(path, words)
        case .SQLITE_BUSY, .SQLITE_LOCKED:
            self.init(
                .locked,
                "\(path) is held by another process",
                hint: "try again when the other coord command has ended"
            )
        case .SQLITE_CONSTRAINT:
            self.init(.conflict, "\(path) refused a change: \(words)")
        default:
            self.init(.misuse, "\(path): \(words)")
        }
    }

    static func damaged(_ path: String, _ words: String) -> RegistryError {
        RegistryError(
            .corrupt,
            "\(path) is not a registry or is damaged: \(words)",
            hint: "move it and its -wal and -shm files aside, keep them, and put a backup in their place"
        )
    }
}
