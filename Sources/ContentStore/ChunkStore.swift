public import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A folder of chunks and manifests that are named by the SHA-256 of what they hold, written once and never
/// changed.
///
/// ```
/// FORMAT                    coord-store 2
/// chunks/ab/ab12…[.zst]     content, as it is or compressed
/// packs/ab12….pack          many chunks that came together, and an index
/// manifests/ab12…           JSON: which files are made of which chunks
/// trash/ab12….1790000000    a manifest that was deleted, and until when it can be restored
/// tmp/                      what is being written
/// ```
/// Whatever is read is verified. The value holds no state but the path and a copy of the packs' indexes, which
/// follows the folder: any number of threads and processes may use one folder at a time. All calls block.
///
/// The layout is described in `docs/formats/content-store.md`.
public struct ChunkStore: Sendable {
    /// Where the store lies.
    public let directory: String
    let shelf: PackShelf

    /// The version that this program writes and the newest that it reads.
    static let formatVersion = 2
    private static let formatWord = "coord-store"
    static let folders = ["chunks", "packs", "manifests", "trash", "tmp"]

    /// Opens a store, or makes a new one where nothing is; removes what an interrupted writer left.
    ///
    /// - Parameter directory: the store's own folder; created with mode 0700.
    /// - Throws: ``ContentError`` `.newerFormat`, `.notAStore`; `FileError`.
    public init(directory: String) throws {
        self.directory = directory
        shelf = PackShelf(folder: directory + "/packs")
        let format = directory + "/FORMAT"
        if Files.kind(format) == nil {
            try Files.createDirectory(directory, mode: 0o700)
            // A crash while a store is made leaves at most these.
            let strangers = try Files.list(directory)
                .filter { !Self.folders.contains($0) && !$0.hasPrefix("FORMAT") && $0 != "lock" }
            if let stranger = strangers.first {
                throw ContentError(
                    .notAStore,
                    "\(directory) is not a content store: it holds \(stranger)",
                    hint: "name a folder that is empty or does not exist yet"
                )
            }
            for folder in Self.folders { try Files.createDirectory("\(directory)/\(folder)", mode: 0o700) }
            try Files.writeAtomically("\(Self.formatWord) \(Self.formatVersion)\n", to: format)
        }
        _ = try Self.version(format)
        for folder in Self.folders { try Files.createDirectory("\(directory)/\(folder)", mode: 0o700) }
        try PendingFile.removeLeftovers(in: temporary)
    }

    /// Before the first pack: from here on a program that knows no packs refuses the store, instead of missing chunks.
    func announcePacks() throws {
        let format = directory + "/FORMAT"
        guard try Self.version(format) < Self.formatVersion else { return }
        try Files.writeAtomically("\(Self.formatWord) \(Self.formatVersion)\n", to: format)
    }

    private static func version(_ path: String) throws -> Int {
        let line = try Files.readText(path, limit: 4096).prefix { $0 != "\n" }
        let words = line.split(separator: " ")
        guard words.count == 2, words[0] == formatWord, let version = Int(words[1]), version > 0 else {
            throw ContentError(
                .notAStore,
                "\(path) does not name a content store: '\(line.prefix(40))'",
                hint: "name another folder, or restore the file: it holds '\(formatWord) \(formatVersion)'"
            )
        }
        guard version <= formatVersion else {
            throw ContentError(
                .newerFormat,
                "\(path) is of format \(version), this program reads up to format \(formatVersion)",
                hint: "use the version of coord that wrote it"
            )
        }
        return version
    }

    var packs: String { directory + "/packs" }
    var temporary: String { directory + "/tmp" }

    // MARK: Chunks

    /// Stores content, unless it is there already.
    ///
    /// - Parameter content: at most 16 MiB; larger things are cut by ``add(file:name:mode:)``.
    /// - Returns: its name.
    /// - Throws: `FileError`; nothing half-written is ever visible.
    /// - Cost: one SHA-256 over the content, one zstd attempt, two fsyncs when it is new.
    @discardableResult
    public func put(_ content: [UInt8]) throws -> Digest {
        try content.withUnsafeBytes { bytes in
            let digest = try stage(bytes)
            try Files.syncDirectory(folder(of: digest))
            return digest
        }
    }

    /// True when the chunk is in the store.
    public func has(_ chunk: Digest) -> Bool { location(of: chunk) != nil || shelf.slot(chunk) != nil }

    /// The content of a chunk.
    ///
    /// - Throws: ``ContentError`` `.missing`, or `.corrupt` naming the file.
    public func get(_ chunk: Digest) throws -> [UInt8] { try verified(chunk).content }

    /// Those of `chunks` that are not in the store, each once, in the order given.
    public func missing(from chunks: [Digest]) -> [Digest] {
        var seen: Set<Digest> = []
        // In a new store most folders are not there, which spares two questions a chunk.
        var folders: [UInt8: Bool] = [:]
        return shelf.missing(from: chunks).filter { chunk in
            guard seen.insert(chunk).inserted else { return false }
            let prefix = chunk.firstByte
            let isThere = folders[prefix] ?? (Files.kind(folder(of: chunk)) != nil)
            folders[prefix] = isThere
            return !isThere || location(of: chunk) == nil
        }
    }

    /// The stored form of a chunk, verified, for ``importChunk(_:as:)`` of another store.
    ///
    /// - Returns: a byte for the encoding (0 as it is, 1 zstd), then the bytes.
    public func exportChunk(_ chunk: Digest) throws -> [UInt8] { try verified(chunk).stored.wire }

    /// Takes the stored form of a chunk from another store.
    ///
    /// Nothing is trusted: the content's SHA-256 is checked before the chunk can be seen.
    ///
    /// - Throws: ``ContentError`` `.corrupt` when these bytes are not that chunk.
    public func importChunk(_ wire: [UInt8], as chunk: Digest) throws {
        guard let stored = StoredChunk(wire: wire), stored.content(verifiedAs: chunk) != nil else {
            throw ContentError(
                .corrupt,
                "chunk \(chunk.short) arrived damaged: \(wire.count) bytes that do not have its SHA-256",
                hint: "send it again; when it stays so, the sender is damaged: `coord checkpoint verify`"
            )
        }
        if !freshen(chunk) { try write(stored, as: chunk) }
        try Files.syncDirectory(folder(of: chunk))
    }

    /// Moves a damaged chunk out of the way, so that it counts as missing and can be sent or made again.
    ///
    /// - Returns: where its bytes are now; nil when there is no such chunk.
    public func setAside(_ chunk: Digest) throws -> String? {
        try Files.createDirectory(directory + "/trash/damaged", mode: 0o700)
        guard let (path, _) = location(of: chunk) else { return try setAsideInPack(chunk) }
        let target = "\(directory)/trash/damaged/\(Files.name(path))"
        try Files.move(path, to: target)
        try Files.syncDirectory(folder(of: chunk))
        return target
    }

    // MARK: Inside

    func folder(of chunk: Digest) -> String { "\(directory)/chunks/\(chunk.hex.prefix(2))" }

    func location(of chunk: Digest) -> (path: String, encoding: ChunkEncoding)? {
        let base = "\(folder(of: chunk))/\(chunk.hex)"
        for encoding in ChunkEncoding.allCases where Files.kind(base + encoding.ending) == .file {
            return (base + encoding.ending, encoding)
        }
        return nil
    }

    /// Stores content without synchronising the folder: ``putManifest(kind:files:)`` does that for all of its
    /// chunks.
    func stage(_ content: UnsafeRawBufferPointer) throws -> Digest {
        precondition(content.count <= StoredChunk.limit, "a chunk of \(content.count) bytes")
        let digest = Digest(of: content)
        if !freshen(digest) { try write(StoredChunk(content: content), as: digest) }
        return digest
    }

    func write(_ stored: StoredChunk, as chunk: Digest) throws {
        let folder = folder(of: chunk)
        if Files.kind(folder) == nil {
            try Files.createDirectory(folder, mode: 0o700)
            try Files.syncDirectory(directory + "/chunks")
        }
        let target = "\(folder)/\(chunk.hex)\(stored.encoding.ending)"
        let file = try PendingFile(in: temporary, for: target)
        try stored.bytes.withUnsafeBytes { try file.write($0) }
        try file.publish(as: target, mode: 0o444)
    }

    /// Marks a chunk as just used, so that a garbage plan made meanwhile leaves it; false when it is not
    /// there.
    func freshen(_ chunk: Digest) -> Bool {
        guard let (path, _) = location(of: chunk) else { return shelf.freshen(chunk) }
        // A failure means that somebody else owns the file: then nobody but them collects it.
        _ = utimensat(AT_FDCWD, path, nil, 0)
        return true
    }

    private func verified(_ chunk: Digest) throws -> (stored: StoredChunk, content: [UInt8]) {
        guard let (path, encoding) = location(of: chunk) else {
            if let slot = shelf.slot(chunk) { return try verified(chunk, slot) }
            throw absent(chunk)
        }
        // Twice the limit: what is longer cannot be a chunk, however it is encoded.
        let stored = StoredChunk(
            encoding: encoding,
            bytes: try Files.read(path, limit: 2 * StoredChunk.limit)
        )
        guard let content = stored.content(verifiedAs: chunk) else {
            throw ContentError(
                .corrupt,
                "\(path) is damaged: its content does not have the SHA-256 in its name",
                hint: "put the file of that name from a backup or from another host's store in its place"
            )
        }
        return (stored, content)
    }

    private func verified(
        _ chunk: Digest,
        _ slot: PackShelf.Slot
    ) throws -> (stored: StoredChunk, content: [UInt8]) {
        let stored = StoredChunk(
            encoding: slot.encoding,
            bytes: try slot.pack.read(slot.offset, slot.length)
        )
        guard let content = stored.content(verifiedAs: chunk) else {
            throw ContentError(
                .corrupt,
                "\(slot.pack.path) is damaged: chunk \(chunk.short) in it does not have its SHA-256",
                hint: "put the file of that name from a backup in its place"
            )
        }
        return (stored, content)
    }

    func absent(_ chunk: Digest) -> ContentError {
        ContentError(
            .missing,
            "chunk \(chunk.short) is not in \(directory)",
            hint: "`coord checkpoint verify` says what else is not whole; a backup of the store has it"
        )
    }
}
