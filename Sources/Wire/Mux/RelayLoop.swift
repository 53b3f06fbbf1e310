internal import Basics
internal import CShims
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Joins local TCP connections and mux connections to other machines, on one thread of its own.
///
/// A connection to one of its listeners becomes a stream on the mux connection that the listener names; a stream that comes
/// is dialled here, handed on to another mux connection, or refused, as `decide` says. Room is granted from end to end: what
/// a forwarding loop holds for a stream is at most the window that the far end gave.
public final class RelayLoop: Sendable {
    /// What becomes of a stream that comes in.
    public enum Verdict: Sendable, Equatable {
        /// Connect to this numeric address.
        case dial(String)
        /// Hand it on to the mux connection of that name.
        case forward(to: String)
        /// Turn it away, with the reason.
        case refuse(String)
    }

    enum Command: Sendable {
        case add(socket: Int32, name: String, role: MuxMachine.Role)
        case remove(String)
        case listen(socket: Int32, target: RelayTarget, through: String)
        case unlisten(RelayTarget, through: String)
    }

    /// A listener: where its connections lead, and by which mux connection.
    struct Door: Hashable {
        var target: RelayTarget
        var through: String
    }

    private struct State {
        var commands: [Command] = []
        var names: Set<String> = []
        var doors: [Door: String] = [:]
        var isClosed = false
    }

    /// What the thread and its owner share.
    final class Shared: Sendable {
        private let state = Mutex(State())
        let wake: Int32

        init() throws {
            wake = coord_event_make()
            guard wake >= 0 else { throw FileError(.write, "event", errno: -wake) }
        }
        deinit { systemClose(wake) }

        func put(_ command: Command) {
            let isClosed = state.withLock { state in
                if !state.isClosed { state.commands.append(command) }
                return state.isClosed
            }
            if isClosed { Self.discard(command) }
            coord_event_signal(wake)
        }
        /// Takes the commands; nil when the loop is to end.
        func take() -> [Command]? {
            coord_event_clear(wake)
            return state.withLock { state in
                defer { state.commands = [] }
                guard state.isClosed else { return state.commands }
                state.commands.forEach(Self.discard)
                return nil
            }
        }
        func close() {
            state.withLock { $0.isClosed = true }
            coord_event_signal(wake)
        }
        var names: Set<String> { state.withLock { $0.names } }
        func stands(_ name: String, _ stands: Bool) {
            state.withLock { state in
                if stands { state.names.insert(name) } else { state.names.remove(name) }
            }
        }
        func door(_ door: Door) -> String? { state.withLock { $0.doors[door] } }
        func keep(_ door: Door, _ address: String?) { state.withLock { $0.doors[door] = address } }
        func doors(where matches: (RelayTarget) -> Bool) -> [Door] {
            state.withLock { $0.doors.keys.filter { matches($0.target) } }
        }
        private static func discard(_ command: Command) {
            switch command {
            case .add(let socket, _, _), .listen(let socket, _, _): systemClose(socket)
            case .remove, .unlisten: break
            }
        }
    }

    private let shared: Shared

    /// Starts the thread.
    ///
    /// - Parameters:
    ///   - name: the thread's.
    ///   - decide: what becomes of a stream with that target from the connection of that name; on the loop's thread.
    ///   - ended: told of a mux connection that is over, with the reason; on the loop's thread, must not block.
    /// - Throws: `FileError` when no descriptor is left.
    public init(
        name: String,
        decide: @escaping @Sendable (RelayTarget, String) -> Verdict,
        ended: @escaping @Sendable (String, String) -> Void
    ) throws {
        let shared = try Shared()
        self.shared = shared
        OSThread.start(name: name) { RelayBody(shared, decide: decide, ended: ended).run() }
    }

    deinit { shared.close() }

    /// Takes a connected stream socket whose other end speaks mux; one of the same name before it is ended.
    public func add(_ socket: Int32, as name: String, role: MuxMachine.Role) {
        shared.stands(name, true)
        shared.put(.add(socket: socket, name: name, role: role))
    }

    /// Ends a mux connection; `ended` is not told.
    public func remove(_ name: String) {
        shared.stands(name, false)
        shared.put(.remove(name))
    }

    /// The mux connections that stand or are about to.
    public var names: Set<String> { shared.names }

    /// Listens on loopback for connections to a target; the same address each time it is asked.
    ///
    /// A connection that comes while the mux connection does not stand is closed.
    /// - Returns: `127.0.0.1:PORT`.
    /// - Throws: `FileError` when no port or descriptor is left.
    public func listen(for target: RelayTarget, through name: String) throws -> String {
        let door = Door(target: target, through: name)
        if let address = shared.door(door) { return address }
        var port: UInt16 = 0
        let socket = coord_tcp_listen("127.0.0.1", 0, &port)
        guard socket >= 0 else { throw FileError(.write, "127.0.0.1", errno: -socket) }
        let address = "127.0.0.1:\(port)"
        shared.keep(door, address)
        shared.put(.listen(socket: socket, target: target, through: name))
        return address
    }

    /// Ends the listeners for some targets; connections that stand go on.
    public func stopListening(where matches: (RelayTarget) -> Bool) {
        for door in shared.doors(where: matches) {
            shared.keep(door, nil)
            shared.put(.unlisten(door.target, through: door.through))
        }
    }

    /// Ends everything.
    public func close() { shared.close() }
}

// Inside the classes the name `close` is ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
