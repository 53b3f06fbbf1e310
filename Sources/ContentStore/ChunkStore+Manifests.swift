public import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

extension ChunkStore {
    // MARK: Adding

    /// Cuts a file into chunks and stores those that are new.
    ///
    /// Nothing refers to the chunks before ``putManifest(kind:files:)``.
    ///
    /// - Parameters:
    ///   - path: the file; read once, in pieces.
    ///   - name: its name in the manifest.
    ///   - mode: its permission bits there; nil = as on the disk.
    /// - Cost: 8 MiB of memory, whatever the file's size.
    public func add(_ path: String, name: String, mode: UInt32? = nil) throws -> Manifest.File {
        try Manifest.checkName(name)
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileError(.read, path, errno: errno) }
        defer { close(descriptor) }
        var info = stat()
        guard fstat(descriptor, &info) == 0 else { throw FileError(.read, path, errno: errno) }
        guard info.st_mode & S_IFMT == S_IFREG else { throw FileError(.read, path, errno: EISDIR) }

        let chunker = Chunker.standard
        let window = UnsafeMutableRawBufferPointer.allocate(byteCount: 8 * chunker.maximum, alignment: 64)
        defer { window.deallocate() }
        var whole = DigestBuilder()
        var chunks: [Digest] = []
        var size: Int64 = 0
        var filled = 0
        var isAtEnd = false
        repeat {
            while !isAtEnd, filled < window.count {
                let n = read(descriptor, window.baseAddress.map { $0 + filled }, window.count - filled)
                if n < 0, errno == EINTR { continue }
                guard n >= 0 else { throw FileError(.read, path, errno: errno) }
                isAtEnd = n == 0
                filled += n
            }
            var start = 0
            // A cut is right only with a whole chunk's worth of bytes in sight, or the end.
            while start < filled, isAtEnd || filled - start >= chunker.maximum {
                let rest = UnsafeRawBufferPointer(rebasing: window[start..<filled])
                let chunk = UnsafeRawBufferPointer(rebasing: rest[..<chunker.firstCut(in: rest)])
                chunks.append(try stage(chunk))
                whole.update(chunk)
                start += chunk.count
            }
            size += Int64(start)
            let left = UnsafeRawBufferPointer(rebasing: window[start..<filled])
            if let target = window.baseAddress, let source = left.baseAddress {
                memmove(target, source, left.count)
            }
            filled = left.count
        } while !isAtEnd || filled > 0
        return Manifest.File(
            name: name,
            size: size,
            mode: mode ?? UInt32(info.st_mode & 0o777),
            sha256: whole.finish(),
            chunks: chunks
        )
    }

    /// Cuts bytes into chunks and stores those that are new.
    public func add(_ bytes: [UInt8], name: String, mode: UInt32 = 0o644) throws -> Manifest.File {
        try Manifest.checkName(name)
        return try bytes.withUnsafeBytes { raw in
            let chunks = try Chunker.standard.cuts(in: raw).map {
                try stage(UnsafeRawBufferPointer(rebasing: raw[$0]))
            }
            return Manifest.File(
                name: name,
                size: Int64(bytes.count),
                mode: mode,
                sha256: Digest(of: raw),
                chunks: chunks
            )
        }
    }

    /// Names a list of files whose chunks are in the store; from here on they are kept.
    ///
    /// - Returns: the manifest's name. The same list gives the same name, also twice.
    /// - Throws: ``ContentError`` `.missing` for a chunk that is not there, `.badName`, `.badManifest`;
    ///   `FileError`.
    @discardableResult
    public func putManifest(kind: String, files: [Manifest.File]) throws -> Digest {
        try putManifest(Manifest(kind: kind, files: files))
    }

    /// Stores a manifest whose chunks are in the store.
    @discardableResult
    public func putManifest(_ manifest: Manifest) throws -> Digest {
        let bytes = manifest.encoded()
        let name = Digest(of: bytes)
        try publish(manifest, bytes, as: name)
        return name
    }

    /// Takes a manifest from another store, when all of its chunks are here.
    ///
    /// To fetch something: decode the bytes, send what ``missingChunks(of:)-swift.method`` names, import the
    /// chunks, then this. Until then nothing of it can be seen, and whatever did arrive need not be sent
    /// again.
    ///
    /// - Throws: ``ContentError`` `.corrupt` when the bytes do not have that SHA-256, `.missing`,
    ///   `.badManifest`.
    public func importManifest(_ bytes: [UInt8], as name: Digest) throws {
        guard Digest(of: bytes) == name else {
            throw ContentError(
                .corrupt,
                "manifest \(name.short) arrived damaged: \(bytes.count) bytes that do not have its SHA-256",
                hint: "send it again; when it stays so, the sender is damaged: `coord checkpoint verify`"
            )
        }
        try publish(Manifest(decoding: bytes), bytes, as: name)
    }

    /// Takes a manifest that was checked when it arrived, when all of its chunks are here.
    ///
    /// - Throws: ``ContentError`` `.missing`; `FileError`.
    public func importManifest(_ arrived: ArrivedManifest) throws {
        try publish(arrived.manifest, arrived.bytes, as: arrived.name)
    }

    private func publish(_ manifest: Manifest, _ bytes: [UInt8], as name: Digest) throws {
        let path = manifestPath(name)
        // Garbage collection, which takes the lock exclusively, sees the chunks and the manifest or neither.
        try withLock(exclusive: false) {
            shelf.reload()
            let lacking = missingChunks(of: manifest)
            if let first = lacking.first {
                throw ContentError(
                    .missing,
                    "manifest \(name.short) needs \(lacking.count) chunks that are not in \(directory), "
                        + "the first is \(first.short)",
                    hint: "send the chunks first"
                )
            }
            if Files.kind(path) == .file { return }
            // Chunks of packs are on the disk since their pack has its name.
            let loose = shelf.missing(from: manifest.chunks)
            for folder in Set(loose.map { folder(of: $0) }) { try Files.syncDirectory(folder) }
            let file = try PendingFile(in: temporary, for: path)
            try bytes.withUnsafeBytes { try file.write($0) }
            try file.publish(as: path, mode: 0o444)
            try Files.syncDirectory(directory + "/manifests")
        }
    }

    // MARK: Looking

    /// The names of all manifests, sorted; those in the trash are not among them.
    public func manifests() throws -> [Digest] {
        try Files.list(directory + "/manifests").compactMap { Digest(hex: $0) }
    }

    /// The names of the newest manifests, the newest first.
    public func recentManifests(_ count: Int) throws -> [Digest] {
        let all = try manifests().compactMap { name -> (name: Digest, time: Int64)? in
            var info = stat()
            guard lstat(manifestPath(name), &info) == 0 else { return nil }
            return (name, Int64(info.st_mtim.tv_sec) * 1_000_000_000 + Int64(info.st_mtim.tv_nsec))
        }
        return all.sorted { $0.time > $1.time }.prefix(count).map(\.name)
    }

    /// True when the manifest is in the store and not in the trash.
    public func hasManifest(_ name: Digest) -> Bool { Files.kind(manifestPath(name)) == .file }

    /// The bytes of a manifest, verified, for ``importManifest(_:as:)`` of another store.
    ///
    /// - Throws: ``ContentError`` `.missing`, or `.corrupt` naming the file.
    public func manifestBytes(_ name: Digest) throws -> [UInt8] {
        let path = manifestPath(name)
        guard Files.kind(path) == .file else {
            throw ContentError(
                .missing,
                "manifest \(name.short) is not in \(directory)",
                hint: "`coord checkpoint verify` says what else is not whole; a backup of the store has it"
            )
        }
        return try Self.verifiedManifestBytes(path, name)
    }

    /// A manifest, verified.
    ///
    /// - Throws: ``ContentError`` `.missing`, `.corrupt`, `.badManifest`, `.newerFormat`.
    public func manifest(_ name: Digest) throws -> Manifest {
        try Manifest(decoding: manifestBytes(name))
    }

    /// The chunks of a manifest that are not in the store, each once.
    public func missingChunks(of manifest: Manifest) -> [Digest] { missing(from: manifest.chunks) }

    /// The chunks of a stored manifest that are not in the store, each once.
    public func missingChunks(of name: Digest) throws -> [Digest] { missingChunks(of: try manifest(name)) }

    /// The content of one file, verified chunk by chunk and as a whole.
    ///
    /// - Throws: ``ContentError`` `.missing` when the manifest has no such file or a chunk is gone,
    ///   `.corrupt`.
    public func readFile(_ manifest: Manifest, _ name: String) throws -> [UInt8] {
        guard let file = manifest.file(name) else {
            throw ContentError(
                .missing,
                "the \(manifest.kind) has no file '\(name)'",
                hint: "its files are: \(manifest.files.prefix(12).map(\.name).joined(separator: ", "))"
            )
        }
        var bytes: [UInt8] = []
        // Not more than a chunk in advance: the size is the manifest's word, the chunks are ours.
        bytes.reserveCapacity(min(Int(file.size), StoredChunk.limit))
        for chunk in file.chunks { bytes += try get(chunk) }
        try Self.check(file, size: Int64(bytes.count), sha256: Digest(of: bytes))
        return bytes
    }

    // MARK: Inside

    func manifestPath(_ name: Digest) -> String { "\(directory)/manifests/\(name.hex)" }

    static func verifiedManifestBytes(_ path: String, _ name: Digest) throws -> [UInt8] {
        let bytes = try Files.read(path, limit: Manifest.sizeLimit)
        guard Digest(of: bytes) == name else {
            throw ContentError(
                .corrupt,
                "\(path) is damaged: its content does not have the SHA-256 in its name",
                hint: "put the file of that name from a backup or from another host's store in its place"
            )
        }
        return bytes
    }

    static func check(_ file: Manifest.File, size: Int64, sha256: Digest) throws {
        guard size == file.size, sha256 == file.sha256 else {
            throw ContentError(
                .corrupt,
                "'\(file.name)' does not fit its manifest: \(size) bytes with SHA-256 \(sha256.short), "
                    + "not \(file.size) bytes with \(file.sha256.short)",
                hint: "the manifest was written wrongly; make it again from its source"
            )
        }
    }
}
