internal import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

extension ChunkStore {
    /// Writes the files of a manifest into a folder.
    ///
    /// Each file appears at once and whole: temporary file → verified → fsync → rename. A link that stands
    /// where a file belongs is replaced; one that stands where a folder belongs is an error: nothing is
    /// written through it. Files that are in the folder already and not in the manifest stay.
    ///
    /// - Parameter folder: created when missing. Its own path may hold links, the names below it not.
    /// - Throws: ``ContentError`` `.missing`, `.corrupt`, `.linkInTheWay`; `FileError`.
    public func materialize(_ manifest: Manifest, into folder: String) throws {
        // Before the first byte is written, not at the third file.
        if let first = missingChunks(of: manifest).first {
            throw ContentError(
                .missing,
                "chunk \(first.short) of the \(manifest.kind) is not in \(directory)",
                hint: "send the missing chunks first"
            )
        }
        try Files.createDirectory(folder)
        let root = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard root >= 0 else { throw FileError(.write, folder, errno: errno) }
        defer { close(root) }
        for file in manifest.files { try write(file, below: root, folder) }
    }

    private func write(_ file: Manifest.File, below root: Int32, _ folder: String) throws {
        let shown = "\(folder)/\(file.name)"
        var parts = file.name.split(separator: "/").map(String.init)
        let name = parts.removeLast()
        let parent = try Self.openFolder(parts, below: root, folder)
        defer { close(parent) }
        let temporary = ".coord-\(Digest.hex(Sealing.randomBytes(6)))"
        let descriptor = openat(parent, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw FileError(.write, shown, errno: errno) }
        var isDone = false
        defer {
            close(descriptor)
            if !isDone { unlinkat(parent, temporary, 0) }
        }
        var whole = DigestBuilder()
        var size: Int64 = 0
        for chunk in file.chunks {
            let content = try get(chunk)
            whole.update(content)
            size += Int64(content.count)
            try content.withUnsafeBytes { try Files.writeAll($0, to: descriptor, path: shown) }
        }
        try Self.check(file, size: size, sha256: whole.finish())
        guard fchmod(descriptor, mode_t(file.mode)) == 0, fsync(descriptor) == 0,
            renameat(parent, temporary, parent, name) == 0
        else { throw FileError(.write, shown, errno: errno) }
        isDone = true
        guard fsync(parent) == 0 else { throw FileError(.write, shown, errno: errno) }
    }

    /// Opens, and makes where missing, the folders below `root`, following no link.
    private static func openFolder(_ parts: [String], below root: Int32, _ folder: String) throws -> Int32 {
        var current = dup(root)
        guard current >= 0 else { throw FileError(.write, folder, errno: errno) }
        var shown = folder
        for part in parts {
            shown += "/" + part
            let made = mkdirat(current, part, 0o755) == 0
            let next = openat(current, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
            let code = errno
            if made { fsync(current) }
            var info = stat()
            let isLink =
                next < 0 && fstatat(current, part, &info, AT_SYMLINK_NOFOLLOW) == 0
                && info.st_mode & S_IFMT == S_IFLNK
            close(current)
            if isLink {
                throw ContentError(
                    .linkInTheWay,
                    "\(shown) is a symbolic link: nothing is written through it",
                    hint: "remove the link"
                )
            }
            guard next >= 0 else { throw FileError(.write, shown, errno: code) }
            current = next
        }
        return current
    }
}
