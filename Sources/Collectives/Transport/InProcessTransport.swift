internal import CShims
internal import Synchronization

/// Socket pairs between threads of one process; addresses are any names, empty or `:0` for a new one.
///
/// Members of one test share one instance.
public final class InProcessTransport: Transport {
    private struct State {
        var listeners: [String: InProcessListener] = [:]
        var nextName = 1
    }
    private let state = Mutex(State())

    /// A world of its own: nobody listens yet.
    public init() {}

    /// Registers a name.
    public func listen(at address: String) throws(CollectivesError) -> any Listener {
        let wake = try WakeEvent()
        let made: InProcessListener? = state.withLock { state in
            let isNamed = !address.isEmpty && !address.hasSuffix(":0")
            let name = isNamed ? address : "member:\(state.nextName)"
            if !isNamed { state.nextName += 1 }
            guard state.listeners[name] == nil else { return nil }
            let listener = InProcessListener(address: name, wake: wake) { [weak self] in
                self?.state.withLock { $0.listeners[name] = nil }
            }
            state.listeners[name] = listener
            return listener
        }
        guard let made else { throw CollectivesError(.system, "'\(address)' is listened on already") }
        return made
    }

    /// Joins the caller to the listener of that name.
    public func connect(to address: String) throws(CollectivesError) -> any Link {
        guard let listener = state.withLock({ $0.listeners[address] }) else {
            throw CollectivesError(.peerLost, "can't connect to \(address) (nobody listens)")
        }
        var ends: [Int32] = [-1, -1]
        let made = coord_socket_pair(&ends)
        guard made == 0 else {
            throw CollectivesError(.system, "no descriptors left for a link (\(systemText(-made)))")
        }
        _ = coord_set_nonblocking(ends[0])
        _ = coord_set_nonblocking(ends[1])
        guard listener.push(ends[1]) else {
            ends.forEach(closeDescriptor)
            throw CollectivesError(.peerLost, "can't connect to \(address) (nobody listens)")
        }
        return SocketLink(descriptor: ends[0])
    }
}

private final class InProcessListener: Listener {
    let address: String
    private let wake: WakeEvent
    private let waiting = Mutex<[Int32]?>([])  // nil once closed
    private let forget: @Sendable () -> Void

    init(address: String, wake: WakeEvent, forget: @escaping @Sendable () -> Void) {
        self.address = address
        self.wake = wake
        self.forget = forget
    }

    var descriptor: Int32 { wake.descriptor }

    func push(_ end: Int32) -> Bool {
        let isOpen = waiting.withLock { queue in
            queue?.append(end)
            return queue != nil
        }
        if isOpen { wake.signal() }
        return isOpen
    }

    func accept() -> (any Link)? {
        wake.clear()
        return waiting.withLock { queue in
            guard let first = queue?.first else { return nil }
            queue?.removeFirst()
            return SocketLink(descriptor: first)
        }
    }

    func close() {
        forget()
        let rest = waiting.withLock { queue in
            defer { queue = nil }
            return queue ?? []
        }
        rest.forEach(closeDescriptor)
    }
}
