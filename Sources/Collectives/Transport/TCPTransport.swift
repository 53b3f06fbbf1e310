internal import CShims

/// Direct TCP between numeric addresses: `127.0.0.1:4711`, `[::1]:4711`; port 0 asks for a free one.
///
/// Links have no delay, keepalive probes each second and an end after 5 s without an acknowledgement.
public struct TCPTransport: Transport {
    /// Nothing to configure.
    public init() {}

    /// Listens on an address of this machine.
    public func listen(at address: String) throws(CollectivesError) -> any Listener {
        let (host, port) = try Self.parse(address)
        var actual: UInt16 = 0
        let descriptor = coord_tcp_listen(host, port, &actual)
        guard descriptor >= 0 else {
            throw CollectivesError(.system, "can't listen on \(address) (\(systemText(-descriptor)))")
        }
        let shown = host.contains(":") ? "[\(host)]" : host
        return TCPListener(descriptor: descriptor, address: "\(shown):\(actual)")
    }

    /// Starts to connect to an address.
    public func connect(to address: String) throws(CollectivesError) -> any Link {
        let (host, port) = try Self.parse(address)
        let descriptor = coord_tcp_connect(host, port)
        guard descriptor >= 0 else {
            throw CollectivesError(.peerLost, "can't connect to \(address) (\(systemText(-descriptor)))")
        }
        return SocketLink(descriptor: descriptor)
    }

    /// Cuts an address at its last colon; without a port it is 0.
    static func parse(_ address: String) throws(CollectivesError) -> (host: String, port: UInt16) {
        let bad = CollectivesError(.badAddress, "'\(address)' is no numeric address with a port")
        if address.hasPrefix("[") {
            guard let end = address.firstIndex(of: "]") else { throw bad }
            let host = String(address[address.index(after: address.startIndex)..<end])
            let rest = address[address.index(after: end)...]
            if rest.isEmpty { return (host, 0) }
            guard rest.hasPrefix(":"), let port = UInt16(rest.dropFirst()) else { throw bad }
            return (host, port)
        }
        let parts = address.split(separator: ":", omittingEmptySubsequences: false)
        guard let host = parts.first, !host.isEmpty, parts.count <= 2 else { throw bad }
        if parts.count == 1 { return (String(host), 0) }
        guard let port = UInt16(parts[1]) else { throw bad }
        return (String(host), port)
    }
}

private struct TCPListener: Listener {
    let descriptor: Int32
    let address: String

    func accept() -> (any Link)? {
        let accepted = coord_tcp_accept(descriptor)
        return accepted >= 0 ? SocketLink(descriptor: accepted) : nil
    }
    func close() { closeDescriptor(descriptor) }
}
