internal import CShims

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Why a file could not be read or written.
public struct FileError: ExplainedError {
    /// What was tried.
    public enum Operation: String, Sendable {
        /// Reading or listing.
        case read
        /// Creating, writing, renaming or removing.
        case write
        /// Taking the lock that somebody else holds.
        case lock
    }

    /// What was tried.
    public var operation: Operation
    /// The file or folder.
    public var path: String
    /// The system's error number.
    public var errno: Int32

    /// An error of a system call.
    public init(_ operation: Operation, _ path: String, errno: Int32) {
        self.operation = operation
        self.path = path
        self.errno = errno
    }

    /// True when there is no such file or folder.
    public var isMissing: Bool { errno == ENOENT || errno == ENOTDIR }

    /// Names the operation, the path and the system's reason.
    public var message: String {
        switch operation {
        case .lock where errno == EWOULDBLOCK: "\(path) is held by another process"
        default: "cannot \(operation.rawValue) \(path): \(SystemError.text(errno))"
        }
    }
    /// What helps against the reason.
    public var hint: String? {
        switch errno {
        case ENOSPC, EDQUOT: "free some space on the disk that holds it, then try again"
        case EACCES, EPERM: "check the owner and the mode of the file and its folder"
        case EROFS: "the file system is mounted read-only; use another folder"
        case EWOULDBLOCK: "wait until it ends"
        default: nil
        }
    }
    /// 73 for writes, 75 for locks, 65 for reads.
    public var exitCode: ExitCode {
        switch operation {
        case .read: .badInput
        case .write: .cannotWrite
        case .lock: .locked
        }
    }
}

/// Words for the system's error numbers.
public enum SystemError {
    /// `strerror`, in lower case.
    public static func text(_ errno: Int32) -> String {
        var buffer = [CChar](repeating: 0, count: 256)
        guard strerror_r(errno, &buffer, buffer.count) == 0 else { return "error \(errno)" }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            .lowercased()
    }
}

/// Whole-file operations.
///
/// All block: call them on a thread of your own or on a ``ThreadExecutor``.
public enum Files {
    /// What kind of thing a path names.
    public enum Kind: Sendable {
        /// An ordinary file.
        case file
        /// A folder.
        case directory
        /// Anything else (a socket, a device).
        case other
    }

    /// The kind of the thing at `path`, following links; nil when there is none.
    public static func kind(_ path: String) -> Kind? {
        var info = stat()
        guard stat(path, &info) == 0 else { return nil }
        switch info.st_mode & S_IFMT {
        case S_IFREG: return .file
        case S_IFDIR: return .directory
        default: return .other
        }
    }

    /// The size of a file in bytes.
    public static func size(_ path: String) throws -> Int64 {
        var info = stat()
        guard stat(path, &info) == 0 else { throw FileError(.read, path, errno: errno) }
        return Int64(info.st_size)
    }

    /// Reads a whole file.
    ///
    /// - Parameter limit: refuse files larger than this; unit: bytes.
    public static func read(_ path: String, limit: Int = .max) throws -> [UInt8] {
        let descriptor = coord_open(path, O_RDONLY, 0)
        guard descriptor >= 0 else { throw FileError(.read, path, errno: errno) }
        defer { close(descriptor) }
        var info = stat()
        guard fstat(descriptor, &info) == 0 else { throw FileError(.read, path, errno: errno) }
        guard info.st_mode & S_IFMT != S_IFDIR else { throw FileError(.read, path, errno: EISDIR) }
        guard info.st_size <= limit else { throw FileError(.read, path, errno: EFBIG) }
        var bytes: [UInt8] = []
        var capacity = max(Int(info.st_size), 4096)
        while true {
            let start = bytes.count
            let chunk = try [UInt8](unsafeUninitializedCapacity: capacity) { target, count in
                var got = 0
                while got < capacity {
                    let n = systemRead(descriptor, target.baseAddress.map { $0 + got }, capacity - got)
                    if n < 0 {
                        if errno == EINTR { continue }
                        throw FileError(.read, path, errno: errno)
                    }
                    if n == 0 { break }
                    got += n
                }
                count = got
            }
            if start == 0 { bytes = chunk } else { bytes += chunk }
            guard chunk.count == capacity else { return bytes }
            guard bytes.count <= limit else { throw FileError(.read, path, errno: EFBIG) }
            capacity = 65536
        }
    }

    /// Reads a whole file as UTF-8; malformed bytes become U+FFFD.
    public static func readText(_ path: String, limit: Int = .max) throws -> String {
        String(decoding: try read(path, limit: limit), as: UTF8.self)
    }

    /// Replaces or creates a file so that a reader, also after a power cut, sees all of the old or all of the new.
    ///
    /// Temporary file beside it → fsync → rename → fsync of the folder.
    ///
    /// - Parameter mode: permission bits of the new file.
    public static func writeAtomically(
        _ bytes: UnsafeRawBufferPointer,
        to path: String,
        mode: UInt32 = 0o644
    ) throws {
        let temporary = "\(path).tmp-\(getpid())-\(Digest.hex(Sealing.randomBytes(4)))"
        let descriptor = coord_open(temporary, O_WRONLY | O_CREAT | O_EXCL, mode)
        guard descriptor >= 0 else { throw FileError(.write, path, errno: errno) }
        do {
            defer { close(descriptor) }
            try writeAll(bytes, to: descriptor, path: path)
            guard fsync(descriptor) == 0 else { throw FileError(.write, path, errno: errno) }
        } catch {
            unlink(temporary)
            throw error
        }
        guard rename(temporary, path) == 0 else {
            let code = errno
            unlink(temporary)
            throw FileError(.write, path, errno: code)
        }
        try syncDirectory(parent(path))
    }

    /// Replaces or creates a file; see the other overload.
    public static func writeAtomically(_ bytes: [UInt8], to path: String, mode: UInt32 = 0o644) throws {
        try bytes.withUnsafeBytes { try writeAtomically($0, to: path, mode: mode) }
    }

    /// Replaces or creates a text file; see the other overload.
    public static func writeAtomically(_ text: String, to path: String, mode: UInt32 = 0o644) throws {
        try writeAtomically(Array(text.utf8), to: path, mode: mode)
    }

    /// Appends bytes to a file, creating it if need be, and brings them to the disk.
    public static func append(_ bytes: [UInt8], to path: String, mode: UInt32 = 0o644) throws {
        let descriptor = coord_open(path, O_WRONLY | O_CREAT | O_APPEND, mode)
        guard descriptor >= 0 else { throw FileError(.write, path, errno: errno) }
        defer { close(descriptor) }
        try bytes.withUnsafeBytes { try writeAll($0, to: descriptor, path: path) }
        guard fdatasync(descriptor) == 0 else { throw FileError(.write, path, errno: errno) }
    }

    /// Writes all bytes to an open descriptor.
    public static func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32, path: String) throws {
        var rest = bytes
        while !rest.isEmpty {
            let n = systemWrite(descriptor, rest.baseAddress, rest.count)
            if n < 0 {
                if errno == EINTR { continue }
                throw FileError(.write, path, errno: errno)
            }
            rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(n))
        }
    }

    /// Makes a folder's entries durable.
    public static func syncDirectory(_ path: String) throws {
        let descriptor = coord_open(path, O_RDONLY | O_DIRECTORY, 0)
        guard descriptor >= 0 else { throw FileError(.write, path, errno: errno) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw FileError(.write, path, errno: errno) }
    }

    /// Creates a folder and those above it.
    ///
    /// - Parameter mode: permission bits of the folders that are new.
    public static func createDirectory(_ path: String, mode: UInt32 = 0o755) throws {
        if kind(path) == .directory { return }
        let above = parent(path)
        if above != path, kind(above) == nil { try createDirectory(above, mode: mode) }
        if mkdir(path, mode_t(mode)) != 0, errno != EEXIST || kind(path) != .directory {
            throw FileError(.write, path, errno: errno)
        }
    }

    /// The names in a folder, sorted, without `.` and `..`.
    public static func list(_ path: String) throws -> [String] {
        guard let directory = opendir(path) else { throw FileError(.read, path, errno: errno) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Renames a file or folder and brings both folders to the disk.
    public static func move(_ path: String, to target: String) throws {
        guard rename(path, target) == 0 else { throw FileError(.write, target, errno: errno) }
        try syncDirectory(parent(target))
    }

    /// Removes a file, or a folder with all that is in it; nothing happens when there is none.
    ///
    /// Links are not followed.
    public static func remove(_ path: String) throws {
        var info = stat()
        guard lstat(path, &info) == 0 else {
            if errno == ENOENT { return }
            throw FileError(.write, path, errno: errno)
        }
        if info.st_mode & S_IFMT == S_IFDIR {
            for name in try list(path) { try remove(path + "/" + name) }
            guard rmdir(path) == 0 else { throw FileError(.write, path, errno: errno) }
        } else {
            guard unlink(path) == 0 else { throw FileError(.write, path, errno: errno) }
        }
    }

    /// Sets permission bits.
    public static func setMode(_ path: String, _ mode: UInt32) throws {
        guard chmod(path, mode_t(mode)) == 0 else { throw FileError(.write, path, errno: errno) }
    }

    /// True for a folder (no link to one) that belongs to this user and that nobody else may enter.
    public static func isPrivateDirectory(_ path: String) -> Bool {
        var info = stat()
        return lstat(path, &info) == 0 && info.st_mode & S_IFMT == S_IFDIR && info.st_uid == getuid()
            && info.st_mode & 0o077 == 0
    }

    /// True for a file that nobody but its owner may read or write.
    public static func isPrivateFile(_ path: String) -> Bool {
        var info = stat()
        return stat(path, &info) == 0 && info.st_mode & S_IFMT == S_IFREG && info.st_mode & 0o077 == 0
    }

    /// Bytes that an ordinary user may still write on the disk that holds `path`.
    public static func freeSpace(_ path: String) throws -> ByteCount {
        var info = statvfs()
        guard statvfs(path, &info) == 0 else { throw FileError(.read, path, errno: errno) }
        return ByteCount(Int64(info.f_bavail) * Int64(info.f_frsize))
    }

    /// The folder above: `/a/b` → `/a`, `a` → `.`, `/` → `/`.
    public static func parent(_ path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// The last part: `/a/b.txt` → `b.txt`.
    public static func name(_ path: String) -> String {
        path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
    }

    /// The absolute path, links resolved; the path itself when nothing is there.
    public static func resolved(_ path: String) -> String {
        guard let real = realpath(path, nil) else { return path }
        defer { free(real) }
        return String(cString: real)
    }

    /// Makes a new, empty, private folder under `$TMPDIR` or `/tmp`.
    public static func makeTemporaryDirectory(prefix: String) throws -> String {
        let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        let path = "\(base)/\(prefix)-\(Digest.hex(Sealing.randomBytes(6)))"
        guard mkdir(path, 0o700) == 0 else { throw FileError(.write, path, errno: errno) }
        return path
    }
}

/// A lock that a process holds until it ends, however it ends.
public struct FileLock: ~Copyable {
    private let descriptor: Int32

    /// Takes the lock without waiting.
    ///
    /// - Throws: ``FileError`` with ``FileError/Operation/lock`` when another process holds it.
    public init(_ path: String) throws {
        let opened = coord_open(path, O_RDWR | O_CREAT, 0o600)
        guard opened >= 0 else { throw FileError(.write, path, errno: errno) }
        let result = coord_try_lock(opened)
        guard result == 0 else {
            close(opened)
            throw FileError(.lock, path, errno: -result)
        }
        descriptor = opened
    }

    deinit { close(descriptor) }
}

// Inside `Files` the name `read` is ours.
private func systemRead(_ descriptor: Int32, _ target: UnsafeMutableRawPointer?, _ count: Int) -> Int {
    read(descriptor, target, count)
}

private func systemWrite(_ descriptor: Int32, _ source: UnsafeRawPointer?, _ count: Int) -> Int {
    write(descriptor, source, count)
}
