public import Basics

#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

/// A list of files and of the chunks they are made of: a dataset, a checkpoint, a worker binary.
///
/// Its bytes are canonical JSON (sorted keys, no spaces, files sorted by name), so equal lists have equal
/// bytes and one name, the SHA-256 of those bytes. A value of this type is always valid, however it was made.
public struct Manifest: Hashable, Sendable, Codable {
    /// One file.
    public struct File: Hashable, Sendable, Codable {
        /// The path below the folder it is written to: relative, with `/`, without `.` and `..`.
        public var name: String
        /// Unit: bytes.
        public var size: Int64
        /// Permission bits.
        public var mode: UInt32
        /// Of the whole file.
        public var sha256: Digest
        /// The content, in order.
        public var chunks: [Digest]

        /// All parts.
        public init(name: String, size: Int64, mode: UInt32, sha256: Digest, chunks: [Digest]) {
            self.name = name
            self.size = size
            self.mode = mode
            self.sha256 = sha256
            self.chunks = chunks
        }
    }

    private enum CodingKeys: String, CodingKey {
        case format, kind, files
    }

    static let formatVersion = 1
    /// Larger ones are refused before they are parsed; unit: bytes.
    static let sizeLimit = 256 << 20

    /// What the files are together: `dataset`, `checkpoint`, `worker` or another word.
    public let kind: String
    /// Sorted by name.
    public let files: [File]

    /// Checks and sorts.
    ///
    /// - Throws: ``ContentError`` `.badName`, `.badManifest`.
    public init(kind: String, files: [File]) throws {
        let sorted = files.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
        try Self.check(kind: kind, sorted: sorted)
        self.kind = kind
        self.files = sorted
    }

    /// Every chunk that is needed, each once.
    public var chunks: [Digest] {
        var seen: Set<Digest> = []
        return files.flatMap(\.chunks).filter { seen.insert($0).inserted }
    }

    /// Of all files together; unit: bytes.
    public var size: Int64 { files.reduce(0) { $0 + $1.size } }

    /// The file of that name.
    public func file(_ name: String) -> File? { files.first { $0.name == name } }

    // MARK: Bytes

    /// The canonical bytes.
    public func encoded() -> [UInt8] {
        ManifestText.encode(format: Self.formatVersion, kind: kind, files: files)
    }

    /// Reads bytes that somebody else may have written.
    ///
    /// - Throws: ``ContentError`` `.badManifest`, `.badName`, `.newerFormat`.
    public init(decoding bytes: [UInt8]) throws {
        guard bytes.count <= Self.sizeLimit else {
            throw ContentError(.badManifest, "a manifest of \(bytes.count) bytes is too long")
        }
        if let (format, kind, files) = ManifestText.decode(bytes), format == Self.formatVersion {
            try Self.check(kind: kind, sorted: files)
            self.kind = kind
            self.files = files
            return
        }
        do {
            self = try JSONDecoder().decode(Manifest.self, from: Data(bytes))
        } catch let error as DecodingError {
            throw ContentError(.badManifest, "not a manifest: \(Self.words(for: error))")
        }
    }

    /// Reads and checks.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let format = try container.decode(Int.self, forKey: .format)
        guard format <= Self.formatVersion else {
            throw ContentError(
                .newerFormat,
                "the manifest is of format \(format), this program reads up to format \(Self.formatVersion)",
                hint: "use the version of coord that wrote it"
            )
        }
        let kind = try container.decode(String.self, forKey: .kind)
        let files = try container.decode([File].self, forKey: .files)
        try Self.check(kind: kind, sorted: files)
        self.kind = kind
        self.files = files
    }

    /// Writes the current format.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(Self.formatVersion, forKey: .format)
        try container.encode(kind, forKey: .kind)
        try container.encode(files, forKey: .files)
    }

    // MARK: Checks

    /// Throws unless `name` is a path that stays inside the folder it is joined to.
    ///
    /// - Throws: ``ContentError`` `.badName`.
    public static func checkName(_ name: String) throws {
        func refuse(_ reason: String) -> ContentError {
            let shown = String(name.unicodeScalars.prefix(80).map { $0.value < 0x20 ? "?" : Character($0) })
            return ContentError(
                .badName,
                "the file name '\(shown)' is refused: it \(reason)",
                hint: "use a relative path without '..'"
            )
        }
        let bytes = name.utf8
        if bytes.isEmpty { throw refuse("is empty") }
        if bytes.count > 1024 { throw refuse("has more than 1024 bytes") }
        if bytes.first == 0x2F { throw refuse("is absolute") }
        if bytes.contains(where: { $0 < 0x20 || $0 == 0x7F }) { throw refuse("holds a control character") }
        for part in bytes.split(separator: 0x2F, omittingEmptySubsequences: false) {
            if part.isEmpty { throw refuse("has an empty part") }
            if part.count > 255 { throw refuse("has a part of more than 255 bytes") }
            if part.count <= 2, part.allSatisfy({ $0 == 0x2E }) {
                throw refuse("holds '\(String(part) ?? "..")'")
            }
        }
    }

    private static func check(kind: String, sorted files: [File]) throws {
        let isWord = kind.utf8.allSatisfy { (0x61...0x7A).contains($0) || $0 == 0x2D }
        guard isWord, (1...40).contains(kind.utf8.count) else {
            throw ContentError(
                .badManifest,
                "a manifest's kind is a lower-case word, not '\(kind.prefix(40))'"
            )
        }
        var names: Set<String> = []
        var folders: Set<String> = []
        var previous: String?
        var lastFolder = "."
        for file in files {
            try checkName(file.name)
            if let previous, !previous.utf8.lexicographicallyPrecedes(file.name.utf8) {
                let reason = previous == file.name ? "is there twice" : "is not in its place"
                throw ContentError(.badManifest, "the manifest's file '\(file.name)' \(reason)")
            }
            previous = file.name
            names.insert(file.name)
            var folder = Files.parent(file.name)
            // Neighbours are mostly in one folder.
            if folder != lastFolder {
                lastFolder = folder
                while folder != ".", folders.insert(folder).inserted { folder = Files.parent(folder) }
            }
            // A size that the chunks cannot make up would have us reserve memory or disk for nothing.
            let isPossible =
                file.size >= Int64(file.chunks.count)
                && file.size <= Int64(file.chunks.count) * Int64(StoredChunk.limit)
            guard isPossible, file.mode & ~0o777 == 0 else {
                throw ContentError(
                    .badManifest,
                    "the manifest's file '\(file.name)' cannot be: \(file.size) bytes in \(file.chunks.count) "
                        + "chunks, mode \(String(file.mode, radix: 8))"
                )
            }
        }
        if let both = names.intersection(folders).min() {
            throw ContentError(.badManifest, "the manifest's '\(both)' is both a file and a folder")
        }
    }

    private static func words(for error: DecodingError) -> String {
        func place(_ path: [any CodingKey]) -> String {
            path.isEmpty
                ? ""
                : " at " + path.map { $0.intValue.map { "[\($0)]" } ?? $0.stringValue }.joined(separator: ".")
        }
        switch error {
        case .keyNotFound(let key, let context):
            return "'\(key.stringValue)' is missing" + place(context.codingPath)
        case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
            return context.codingPath.isEmpty ? "unreadable JSON" : "bad value" + place(context.codingPath)
        @unknown default:
            return "unreadable JSON"
        }
    }
}
