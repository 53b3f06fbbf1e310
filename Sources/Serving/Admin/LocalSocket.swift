internal import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Unix sockets of this machine.
///
/// Programs are started by ``ChildProcess`` only, which closes all descriptors but those it is given.
enum LocalSocket {
    private static let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)

    /// Two ends that are connected.
    static func pair() throws -> (Int32, Int32) {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
            throw ServingError(.failed, "cannot make a pair of sockets: \(SystemError.text(errno))")
        }
        return (ends[0], ends[1])
    }

    /// Listens at a path; what is there is removed first.
    static func listen(_ path: String) throws -> Int32 {
        try Files.remove(path)
        return try named(path) { descriptor, address, size in
            guard bind(descriptor, address, size) == 0, chmod(path, 0o600) == 0 else { return -1 }
            return systemListen(descriptor, 16)
        }
    }

    /// Connects to a path.
    static func connect(_ path: String) throws -> Int32 {
        try named(path) { systemConnect($0, $1, $2) }
    }

    /// Waits for the next client; nil when the listener was shut.
    static func accept(_ listener: Int32) -> Int32? {
        while true {
            let client = systemAccept(listener)
            if client >= 0 { return client }
            guard errno == EINTR || errno == ECONNABORTED else { return nil }
        }
    }

    /// Ends a blocked ``accept(_:)``.
    static func shut(_ descriptor: Int32) { shutdown(descriptor, Int32(SHUT_RDWR)) }

    /// Gives a descriptor back.
    static func close(_ descriptor: Int32) { systemClose(descriptor) }

    private static func named(
        _ path: String,
        _ use: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        let room = MemoryLayout.size(ofValue: address.sun_path)
        guard bytes.count < room else {
            throw ServingError(
                .usage,
                "the path \(path) is longer than a socket's \(room - 1) bytes",
                hint: "use a folder with a shorter path"
            )
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let descriptor = socket(AF_UNIX, kind, 0)
        guard descriptor >= 0 else { throw FileError(.write, path, errno: errno) }
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                use(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else {
            let code = errno
            systemClose(descriptor)
            throw FileError(.write, path, errno: code)
        }
        return descriptor
    }
}

// Inside `LocalSocket` the names `listen`, `accept`, `connect` and `close` are ours.
private func systemListen(_ descriptor: Int32, _ backlog: Int32) -> Int32 { listen(descriptor, backlog) }
private func systemConnect(_ descriptor: Int32, _ to: UnsafePointer<sockaddr>, _ size: socklen_t) -> Int32 {
    connect(descriptor, to, size)
}
private func systemAccept(_ listener: Int32) -> Int32 { accept(listener, nil, nil) }
private func systemClose(_ descriptor: Int32) { close(descriptor) }
