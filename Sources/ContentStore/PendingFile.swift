internal import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A file that nobody can see under its name until it is whole and on the disk.
///
/// It is removed when it is dropped before ``publish(as:mode:)``; what a killed process left is removed when
/// the store is opened the next time, recognised by the process's id and start time.
final class PendingFile {
    let path: String
    private let target: String
    private let descriptor: Int32
    private var isPublished = false

    /// - Parameter target: named in errors: where the file will stand.
    init(in folder: String, for target: String) throws {
        path = "\(folder)/\(Self.owner)-\(Digest.hex(Sealing.randomBytes(6)))"
        self.target = target
        descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw FileError(.write, target, errno: errno) }
    }

    func write(_ bytes: UnsafeRawBufferPointer) throws {
        try Files.writeAll(bytes, to: descriptor, path: target)
    }

    /// What was written there.
    func read(_ offset: Int64, _ count: Int) throws -> [UInt8] {
        try [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            while filled < count {
                let n = pread(
                    descriptor,
                    buffer.baseAddress.map { $0 + filled },
                    count - filled,
                    off_t(offset) + off_t(filled)
                )
                if n < 0, errno == EINTR { continue }
                guard n > 0 else { throw FileError(.read, target, errno: n == 0 ? EIO : errno) }
                filled += n
            }
        }
    }

    /// Brings the file to the disk and gives it its name; the folder is the caller's to synchronise.
    func publish(as name: String, mode: UInt32) throws {
        guard fchmod(descriptor, mode_t(mode)) == 0, fsync(descriptor) == 0, rename(path, name) == 0 else {
            throw FileError(.write, target, errno: errno)
        }
        isPublished = true
    }

    deinit {
        close(descriptor)
        if !isPublished { unlink(path) }
    }

    /// Removes what processes that are gone left in `folder`.
    static func removeLeftovers(in folder: String) throws {
        for name in try Files.list(folder) {
            let parts = name.split(separator: "-")
            if parts.count == 3, let pid = Int32(parts[0]), let start = UInt64(parts[1]),
                ProcessIdentity(pid: pid)?.startTime == start
            {
                continue
            }
            try Files.remove("\(folder)/\(name)")
        }
    }

    private static let owner: String = {
        let identity = ProcessIdentity(pid: getpid())
        return "\(getpid())-\(identity?.startTime ?? 0)"
    }()
}

extension ChunkStore {
    /// Runs `body` under the store's lock, shared to add and exclusive to take away; waits for it.
    ///
    /// The lock holds between threads and processes alike and ends with its holder.
    func withLock<R>(exclusive: Bool, _ body: () throws -> R) throws -> R {
        let path = directory + "/lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw FileError(.write, path, errno: errno) }
        defer { close(descriptor) }
        var request = flock()
        request.l_type = Int16(exclusive ? F_WRLCK : F_RDLCK)
        request.l_whence = Int16(SEEK_SET)
        let openFileLockAndWait: Int32 = 38  // F_OFD_SETLKW, which Swift doesn't import
        while fcntl(descriptor, openFileLockAndWait, &request) != 0 {
            guard errno == EINTR else { throw FileError(.lock, path, errno: errno) }
        }
        return try body()
    }
}
