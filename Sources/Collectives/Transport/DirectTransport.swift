internal import CShims

/// Unix sockets to the processes of this machine, with memory shared beside them; TCP to all others.
///
/// A listener has, beside its TCP port, an abstract unix name made of its address. Whoever can connect to that name is
/// on the same machine and in the same network namespace; everybody else finds nothing there and dials the address.
public struct DirectTransport: Transport {
    private let remote = TCPTransport()

    /// Nothing to configure.
    public init() {}

    /// True.
    public var sharesMemory: Bool { true }

    /// Listens on an address of this machine, and under its name.
    public func listen(at address: String) throws(CollectivesError) -> any Listener {
        let listener = try remote.listen(at: address)
        let named = coord_unix_listen(Self.name(listener.address))
        guard named >= 0 else { return listener }  // taken, or not allowed: TCP reaches everybody
        let either = coord_either(named, listener.descriptor)
        guard either >= 0 else {
            closeDescriptor(named)
            return listener
        }
        return DirectListener(remote: listener, named: named, descriptor: either)
    }

    /// Connects to the process that has this address, the near way when it is on this machine.
    public func connect(to address: String) throws(CollectivesError) -> any Link {
        let near = coord_unix_connect(Self.name(address))
        if near >= 0 { return SocketLink(descriptor: near, passesDescriptors: true) }
        return try remote.connect(to: address)
    }

    private static func name(_ address: String) -> String { "coord-\(address)" }
}

private struct DirectListener: Listener {
    let remote: any Listener
    let named: Int32
    /// Readable when one of both is.
    let descriptor: Int32

    var address: String { remote.address }

    func accept() -> (any Link)? {
        let accepted = coord_accept(named)
        guard accepted >= 0 else { return remote.accept() }
        guard coord_set_nonblocking(accepted) == 0 else {
            closeDescriptor(accepted)
            return nil
        }
        return SocketLink(descriptor: accepted, passesDescriptors: true)
    }

    func close() {
        closeDescriptor(descriptor)
        closeDescriptor(named)
        remote.close()
    }
}
