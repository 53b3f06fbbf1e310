internal import Basics
internal import CShims

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// The thread of a ``RelayLoop``: all its sockets, and one `poll`.
final class RelayBody {
    /// A mux connection.
    private final class Connection {
        let name: String
        let socket: Int32
        var machine: MuxMachine
        var writing: [UInt8] = []
        var written = 0
        var ends: [UInt32: End] = [:]

        init(_ name: String, _ socket: Int32, _ role: MuxMachine.Role) {
            self.name = name
            self.socket = socket
            machine = MuxMachine(role: role)
        }
        var wantsToWrite: Bool { written < writing.count || machine.queued > 0 }
    }

    /// Where a stream goes on here.
    private enum End {
        case local(Local)
        /// On another mux connection.
        case spliced(Connection, UInt32)
    }

    /// A TCP connection on this machine.
    private final class Local {
        enum Phase { case dialling, asking, open }
        let socket: Int32
        let connection: Connection
        let stream: UInt32
        var phase: Phase
        let deadline: ContinuousClock.Instant
        /// What came for the socket and is not written yet; at most a window.
        var pieces: [[UInt8]] = []
        var firstPiece = 0
        var sentOfFirst = 0
        /// Written since room was last granted; unit: bytes.
        var owed = 0
        var readEnd = false
        var cameEnd = false
        var saidEnd = false

        init(_ socket: Int32, _ connection: Connection, _ stream: UInt32, _ phase: Phase) {
            self.socket = socket
            self.connection = connection
            self.stream = stream
            self.phase = phase
            deadline = .now + RelayBody.dialPatience
        }
        var isDrained: Bool { firstPiece == pieces.count }
    }

    private struct Listener {
        var socket: Int32
        var door: RelayLoop.Door
    }

    /// How long connecting on this machine, or on the far one, may take.
    private static let dialPatience = Duration.seconds(6)
    /// What each end of a stream may have on its way to us; unit: bytes.
    private static let window = MuxMachine.maximumWindow
    /// Room is granted when so much was used; unit: bytes.
    private static let grantEvery = window / 16
    /// More than this waiting for a mux connection, and local sockets are not read; unit: bytes.
    private static let queueLimit = 512 << 10

    private let shared: RelayLoop.Shared
    private let decide: (RelayTarget, String) -> RelayLoop.Verdict
    private let ended: (String, String) -> Void
    private var connections: [String: Connection] = [:]
    private var locals: [ObjectIdentifier: Local] = [:]
    private var listeners: [Listener] = []
    private let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)

    init(
        _ shared: RelayLoop.Shared,
        decide: @escaping (RelayTarget, String) -> RelayLoop.Verdict,
        ended: @escaping (String, String) -> Void
    ) {
        self.shared = shared
        self.decide = decide
        self.ended = ended
    }

    deinit { scratch.deallocate() }

    func run() {
        while let commands = shared.take() {
            commands.forEach(apply)
            for connection in Array(connections.values) { flush(connection) }
            wait()
        }
        for connection in Array(connections.values) { drop(connection) }
        for local in Array(locals.values) { forget(local) }
        for listener in listeners { close(listener.socket) }
    }

    private func apply(_ command: RelayLoop.Command) {
        switch command {
        case .add(let socket, let name, let role):
            if let old = connections[name] { drop(old) }
            _ = coord_set_nonblocking(socket)
            connections[name] = Connection(name, socket, role)
            shared.stands(name, true)
        case .remove(let name): if let connection = connections[name] { drop(connection) }
        case .listen(let socket, let target, let through):
            listeners.append(Listener(socket: socket, door: RelayLoop.Door(target: target, through: through)))
        case .unlisten(let target, let through):
            let door = RelayLoop.Door(target: target, through: through)
            for listener in listeners where listener.door == door { close(listener.socket) }
            listeners.removeAll { $0.door == door }
        }
    }

    // MARK: Waiting

    private func wait() {
        let connections = Array(self.connections.values)
        let listeners = self.listeners
        let locals = Array(self.locals.values)
        var polls = [pollfd(fd: shared.wake, events: Int16(POLLIN), revents: 0)]
        for connection in connections {
            let events = connection.wantsToWrite ? POLLIN | POLLOUT : POLLIN
            polls.append(pollfd(fd: connection.socket, events: Int16(events), revents: 0))
        }
        for listener in listeners {
            polls.append(pollfd(fd: listener.socket, events: Int16(POLLIN), revents: 0))
        }
        var next: ContinuousClock.Instant?
        for local in locals {
            var events = 0
            if local.phase == .dialling || !local.isDrained { events |= Int(POLLOUT) }
            if mayRead(local) { events |= Int(POLLIN) }
            if local.phase != .open { next = min(next ?? local.deadline, local.deadline) }
            polls.append(pollfd(fd: local.socket, events: Int16(events), revents: 0))
        }
        let left = next.map { max(0, ($0 - .now) / .milliseconds(1)) + 1 }
        guard poll(&polls, nfds_t(polls.count), left.map { Int32($0) } ?? -1) > 0 || next != nil else {
            return
        }

        var at = 1
        for connection in connections {
            let seen = Int32(polls[at].revents)
            at += 1
            guard self.connections[connection.name] === connection else { continue }
            if seen & (POLLIN | POLLHUP | POLLERR) != 0 { read(connection) }
        }
        for listener in listeners {
            if polls[at].revents != 0 { accept(listener) }
            at += 1
        }
        for local in locals {
            let seen = Int32(polls[at].revents)
            at += 1
            guard self.locals[ObjectIdentifier(local)] != nil else { continue }
            advance(local, seen)
        }
    }

    private func mayRead(_ local: Local) -> Bool {
        local.phase == .open && !local.readEnd && local.connection.machine.sendable(local.stream) > 0
            && local.connection.machine.queued < Self.queueLimit
    }

    // MARK: Mux connections

    private func flush(_ connection: Connection) {
        while connections[connection.name] === connection {
            if connection.written == connection.writing.count {
                connection.writing = connection.machine.takeOutput()
                connection.written = 0
                if connection.writing.isEmpty { return }
            }
            let sent = connection.writing.withUnsafeBytes {
                coord_send(
                    connection.socket,
                    $0.baseAddress.map { $0 + connection.written },
                    $0.count - connection.written,
                    nil,
                    0
                )
            }
            if sent == -Int(EAGAIN) { return }
            guard sent > 0 else { return lost(connection, SystemError.text(Int32(-sent))) }
            connection.written += sent
        }
    }

    private func read(_ connection: Connection) {
        let count = coord_receive(connection.socket, scratch.baseAddress, scratch.count, nil, 0)
        if count == -Int(EAGAIN) { return }
        guard count > 0 else {
            return lost(connection, count == 0 ? "it was closed" : SystemError.text(Int32(-count)))
        }
        do throws(MuxError) {
            let read = UnsafeRawBufferPointer(rebasing: scratch[..<count])
            for event in try connection.machine.receive(read) { take(event, connection) }
        } catch {
            lost(connection, "\(error)")
        }
    }

    private func take(_ event: MuxMachine.Event, _ connection: Connection) {
        switch event {
        case .opened(let id, let target, let window): opened(id, target, window, connection)
        case .accepted(let id, let window):
            switch connection.ends[id] {
            case .local(let local): local.phase = .open
            case .spliced(let other, let stream): other.machine.accept(stream, window: window)
            case nil: break
            }
        case .refused(let id, let reason):
            switch connection.ends.removeValue(forKey: id) {
            case .local(let local): forget(local)
            case .spliced(let other, let stream):
                other.ends[stream] = nil
                other.machine.refuse(stream, reason)
            case nil: break
            }
        case .data(let id, let bytes):
            switch connection.ends[id] {
            case .local(let local):
                local.pieces.append(bytes)
                write(local)
            case .spliced(let other, let stream):
                // The far side's room was passed on to this one, so there is enough.
                if other.machine.sendable(stream) >= bytes.count { other.machine.send(stream, bytes) }
            case nil: break
            }
        case .credit(let id, let count):
            if case .spliced(let other, let stream) = connection.ends[id] {
                other.machine.grant(stream, count)
            }
        case .ended(let id):
            switch connection.ends[id] {
            case .local(let local):
                local.cameEnd = true
                write(local)
            case .spliced(let other, let stream):
                other.machine.end(stream)
                if !connection.machine.holds(id) {
                    connection.ends[id] = nil
                    other.ends[stream] = nil
                }
            case nil: break
            }
        case .reset(let id, let reason):
            switch connection.ends.removeValue(forKey: id) {
            case .local(let local): forget(local)
            case .spliced(let other, let stream):
                other.ends[stream] = nil
                other.machine.reset(stream, reason)
            case nil: break
            }
        }
    }

    private func opened(_ id: UInt32, _ bytes: [UInt8], _ window: Int, _ connection: Connection) {
        guard let target = RelayTarget(bytes) else {
            return connection.machine.refuse(id, "the target makes no sense")
        }
        switch decide(target, connection.name) {
        case .refuse(let reason): connection.machine.refuse(id, reason)
        case .forward(let name):
            guard let other = connections[name], other !== connection,
                let stream = other.machine.open(target: bytes, window: window)
            else { return connection.machine.refuse(id, "\(name) can't be reached from here now") }
            connection.ends[id] = .spliced(other, stream)
            other.ends[stream] = .spliced(connection, id)
        case .dial(let text):
            guard let address = NumericAddress(text) else {
                return connection.machine.refuse(id, "'\(text)' is no address")
            }
            let socket = coord_tcp_connect(address.host, address.port)
            guard socket >= 0 else {
                return connection.machine.refuse(id, "\(target): \(SystemError.text(-socket))")
            }
            let local = Local(socket, connection, id, .dialling)
            locals[ObjectIdentifier(local)] = local
            connection.ends[id] = .local(local)
        }
    }

    private func lost(_ connection: Connection, _ reason: String) {
        drop(connection)
        ended(connection.name, reason)
    }

    private func drop(_ connection: Connection) {
        close(connection.socket)
        if connections[connection.name] === connection {
            connections[connection.name] = nil
            shared.stands(connection.name, false)
        }
        let ends = connection.ends
        connection.ends = [:]
        for case .spliced(let other, let stream) in ends.values {
            other.ends[stream] = nil
            other.machine.reset(stream, "the way to \(connection.name) broke")
        }
        for local in Array(locals.values) where local.connection === connection {
            // What has come whole is still handed over.
            if !(local.cameEnd && local.saidEnd) { forget(local) }
        }
    }

    // MARK: Connections on this machine

    private func accept(_ listener: Listener) {
        while true {
            let socket = coord_tcp_accept(listener.socket)
            guard socket >= 0 else { return }
            guard let connection = connections[listener.door.through],
                let stream = connection.machine.open(target: listener.door.target.bytes, window: Self.window)
            else {
                close(socket)
                continue
            }
            let local = Local(socket, connection, stream, .asking)
            locals[ObjectIdentifier(local)] = local
            connection.ends[stream] = .local(local)
        }
    }

    private func advance(_ local: Local, _ seen: Int32) {
        if local.phase == .dialling, seen != 0 {
            var failure: Int32 = 0
            var size = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(local.socket, SOL_SOCKET, SO_ERROR, &failure, &size)
            if failure != 0 || seen & POLLOUT == 0 {
                local.connection.machine.refuse(local.stream, SystemError.text(failure))
                return forget(local)
            }
            local.phase = .open
            local.connection.machine.accept(local.stream, window: Self.window)
        }
        if local.phase != .open {
            let isOver = ContinuousClock.now >= local.deadline || seen & (POLLHUP | POLLERR) != 0
            if isOver {
                local.connection.machine.reset(local.stream, "nobody answered in time")
                forget(local)
            }
            return
        }
        if seen & POLLOUT != 0 || (!local.isDrained && seen & (POLLHUP | POLLERR) != 0) { write(local) }
        guard locals[ObjectIdentifier(local)] != nil else { return }
        if !local.readEnd, seen & (POLLIN | POLLHUP | POLLERR) != 0 {
            let room = local.connection.machine.sendable(local.stream)
            if room > 0 {
                read(local, atMost: min(room, MuxMachine.maximumPiece, scratch.count))
            } else if seen & (POLLHUP | POLLERR) != 0 {
                broke(local)
            }
        }
    }

    private func read(_ local: Local, atMost limit: Int) {
        let count = coord_receive(local.socket, scratch.baseAddress, limit, nil, 0)
        if count == -Int(EAGAIN) { return }
        guard count >= 0 else { return broke(local) }
        if count > 0 {
            return local.connection.machine.send(
                local.stream,
                UnsafeRawBufferPointer(rebasing: scratch[..<count])
            )
        }
        local.readEnd = true
        local.saidEnd = true
        local.connection.machine.end(local.stream)
        closeIfOver(local)
    }

    private func write(_ local: Local) {
        while !local.isDrained {
            let sent = local.pieces[local.firstPiece].withUnsafeBytes {
                coord_send(
                    local.socket,
                    $0.baseAddress.map { $0 + local.sentOfFirst },
                    $0.count - local.sentOfFirst,
                    nil,
                    0
                )
            }
            if sent == -Int(EAGAIN) { break }
            guard sent > 0 else { return broke(local) }
            local.owed += sent
            local.sentOfFirst += sent
            if local.sentOfFirst == local.pieces[local.firstPiece].count {
                local.pieces[local.firstPiece] = []
                local.firstPiece += 1
                local.sentOfFirst = 0
            }
        }
        if local.isDrained || local.firstPiece > 256 {
            local.pieces.removeFirst(local.firstPiece)
            local.firstPiece = 0
        }
        if local.owed >= Self.grantEvery {
            local.connection.machine.grant(local.stream, local.owed)
            local.owed = 0
        }
        if local.isDrained, local.cameEnd {
            shutdown(local.socket, Int32(SHUT_WR))
            closeIfOver(local)
        }
    }

    private func closeIfOver(_ local: Local) {
        if local.saidEnd, local.cameEnd, local.isDrained { forget(local) }
    }

    /// The socket failed: the other end learns it.
    private func broke(_ local: Local) {
        local.connection.machine.reset(local.stream, "the connection broke")
        forget(local)
    }

    private func forget(_ local: Local) {
        guard locals.removeValue(forKey: ObjectIdentifier(local)) != nil else { return }
        local.connection.ends[local.stream] = nil
        close(local.socket)
    }
}
