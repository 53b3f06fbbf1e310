internal import CShims

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Unix stream sockets by path; blocking.
public enum UnixSocket {
    /// Binds and listens; a stale socket file is replaced.
    ///
    /// - Returns: the listening descriptor.
    /// - Throws: ``FileError``; `ENAMETOOLONG` when the path has more than 107 bytes.
    public static func listen(_ path: String, mode: UInt32 = 0o600) throws -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw FileError(.write, path, errno: errno) }
        do {
            try Files.remove(path)
            guard try withAddress(path, { bind(descriptor, $0, $1) }) == 0,
                chmod(path, mode_t(mode)) == 0, systemListen(descriptor) == 0
            else { throw FileError(.write, path, errno: errno) }
        } catch {
            systemClose(descriptor)
            throw error
        }
        return descriptor
    }

    /// Waits for the next connection; nil when the listener is gone.
    public static func accept(_ listener: Int32) -> Int32? {
        while true {
            let descriptor = coord_accept(listener)
            if descriptor >= 0 { return descriptor }
            switch -descriptor {
            case EINTR, ECONNABORTED: continue
            case EMFILE, ENFILE, ENOMEM, ENOBUFS: usleep(50_000)  // others must end first
            default: return nil
            }
        }
    }

    /// Connects.
    ///
    /// - Throws: ``FileError``; `ENOENT` or `ECONNREFUSED` when nobody listens.
    public static func connect(_ path: String) throws -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw FileError(.read, path, errno: errno) }
        do {
            guard try withAddress(path, { systemConnect(descriptor, $0, $1) }) == 0 else {
                throw FileError(.read, path, errno: errno)
            }
        } catch {
            systemClose(descriptor)
            throw error
        }
        return descriptor
    }

    /// Two connected sockets.
    public static func pair() throws -> (Int32, Int32) {
        var ends: [Int32] = [-1, -1]
        let result = coord_socket_pair(&ends)
        guard result == 0 else { throw FileError(.write, "socket pair", errno: -result) }
        return (ends[0], ends[1])
    }

    /// Gives descriptors to the process at the other end; both have them then.
    ///
    /// - Throws: ``FileError``.
    public static func send(_ descriptors: [Int32], over socket: Int32) throws {
        var byte: UInt8 = 0
        let sent = coord_send_descriptors(socket, &byte, 1, descriptors, Int32(descriptors.count))
        guard sent == 1 else { throw FileError(.write, "descriptors", errno: Int32(-sent)) }
    }

    /// Takes exactly so many descriptors from the process at the other end.
    ///
    /// - Throws: ``FileError``; `EPROTO` when something else comes.
    public static func receive(_ count: Int, over socket: Int32) throws -> [Int32] {
        var descriptors = [Int32](repeating: -1, count: count)
        var byte: UInt8 = 0
        var came = Int32(count)
        let received = coord_receive_descriptors(socket, &byte, 1, &descriptors, &came)
        guard received >= 0 else { throw FileError(.read, "descriptors", errno: Int32(-received)) }
        guard received == 1, came == Int32(count) else {
            descriptors.prefix(Int(came)).forEach(systemClose)
            throw FileError(.read, "descriptors", errno: EPROTO)
        }
        return descriptors
    }

    /// Closes a descriptor; a thread that waits in `accept` on it is woken first.
    public static func close(_ descriptor: Int32) {
        shutdown(descriptor, Int32(SHUT_RDWR))
        systemClose(descriptor)
    }

    private static func withAddress(
        _ path: String,
        _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw FileError(.write, path, errno: ENAMETOOLONG)
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}

// Inside `UnixSocket` these names are ours.
private func systemListen(_ descriptor: Int32) -> Int32 { listen(descriptor, 64) }
private func systemClose(_ descriptor: Int32) { close(descriptor) }
private func systemConnect(
    _ descriptor: Int32,
    _ address: UnsafePointer<sockaddr>,
    _ size: socklen_t
) -> Int32 {
    connect(descriptor, address, size)
}
