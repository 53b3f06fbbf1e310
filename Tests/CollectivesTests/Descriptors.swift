#if canImport(Glibc)
import Glibc
#endif

/// The TCP ports of every open socket of this process.
func ownSocketPorts() -> [(local: Int, remote: Int)] {
    (Int32(0)..<4096).compactMap { descriptor in
        guard let local = port(descriptor, getsockname) else { return nil }
        return (local, port(descriptor, getpeername) ?? 0)
    }
}

private func port(
    _ descriptor: Int32,
    _ call: (Int32, UnsafeMutablePointer<sockaddr>?, UnsafeMutablePointer<socklen_t>?) -> Int32
) -> Int? {
    var address = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let result = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { call(descriptor, $0, &length) }
    }
    guard result == 0, address.sin_family == sa_family_t(AF_INET) else { return nil }
    return Int(UInt16(bigEndian: address.sin_port))
}
