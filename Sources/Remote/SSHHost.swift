internal import Basics
internal import CSSH
internal import Dispatch
internal import Glibc
internal import Synchronization

/// A machine that answers SSH.
///
/// Each stream has a connection of its own, with a thread that owns it; `run` and `upload` take an idle connection or
/// make one. So nothing waits for anything else (a full stream cannot hold up a command), a stream that dies takes
/// only itself along, several streams use several cores for their ciphers, and `MaxSessions 1` is enough. The price is a handshake
/// for each stream, 30 ms and a few round trips.
public final class SSHHost: Host {
    private struct State {
        var idle: [SSHSession] = []
        /// Sockets of the connections in use, to shut them down.
        var inUse: [ObjectIdentifier: Int32] = [:]
        var resolved: ResolvedEndpoint?
        var isTrusted = false
        var isClosed = false
    }

    /// The host's name in the cluster file.
    public var name: String { endpoint.name }
    /// Where it answers.
    public let endpoint: SSHEndpoint

    private let policy: HostKeyPolicy
    private let timeouts: SSHTimeouts
    private let onPhase: (@Sendable (RemoteError.Phase) -> Void)?
    private let state = Mutex(State())
    /// Until the host's key was judged once, one connection at a time: a person is asked once.
    private let first = DispatchSemaphore(value: 1)
    /// sshd drops connections beyond 10 that have not logged in (MaxStartups).
    private let logins = DispatchSemaphore(value: 6)

    /// At most this many connections wait for the next command.
    private static let idleLimit = 2

    /// Describes a host; connects when it is used.
    ///
    /// - Parameter onPhase: told of each phase that a connection enters, on the thread that connects.
    public init(
        _ endpoint: SSHEndpoint,
        policy: HostKeyPolicy = .strict,
        timeouts: SSHTimeouts = SSHTimeouts(),
        onPhase: (@Sendable (RemoteError.Phase) -> Void)? = nil
    ) {
        self.endpoint = endpoint
        self.policy = policy
        self.timeouts = timeouts
        self.onPhase = onPhase
        // libssh writes with send(2) without MSG_NOSIGNAL.
        PipeSignal.ignore()
    }

    deinit { close() }

    /// Runs a command to its end; see ``Host/run(_:input:timeout:)``.
    public func run(_ command: String, input: [UInt8], timeout: Duration) throws -> CommandResult {
        var rest = input
        return try exchange(command, deadline: Deadline(after: timeout)) { buffer in
            swap(&buffer, &rest)
            rest = []
        }
    }

    /// Starts a command and gives a socket that is its standard input and output; see ``Host/openStream(_:onEnd:)``.
    public func openStream(_ command: String, onEnd: (@Sendable (StreamEnd) -> Void)?) throws -> Int32 {
        let deadline = Deadline(after: timeouts.total)
        let session = try connect(deadline: deadline)
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        let pump: StreamPump
        do {
            let channel = try SSHChannel(
                session,
                command: SSHCommand.plain(command),
                deadline: deadline.limited(to: timeouts.open)
            )
            guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
                throw session.lost(.open, SystemError.text(errno))
            }
            pump = StreamPump(session: session, channel: channel, local: ends[0])
        } catch {
            release(session, isReusable: false)
            throw error
        }
        let owned = Handed(pump)
        OwnThread.start("coord-stream") {
            let end = owned.value.run()
            let local = owned.value.local
            // Unread bytes in a closed socket would turn the other side's end of file into an error.
            shutdown(local, Int32(SHUT_RDWR))
            var scrap = [UInt8](repeating: 0, count: 65536)
            while recv(local, &scrap, scrap.count, Int32(MSG_DONTWAIT)) > 0 {}
            systemClose(local)
            self.release(owned.value.session, isReusable: false)
            onEnd?(end)
        }
        return ends[1]
    }

    /// Safety: whoever makes it gives the value away to one thread and touches it no more.
    private struct Handed: @unchecked Sendable {
        let value: StreamPump
        init(_ value: StreamPump) { self.value = value }
    }

    /// Ends all connections; see ``Host/close()``.
    public func close() {
        let idle = state.withLock { state in
            state.isClosed = true
            // Those in use belong to other threads, which close them when their calls fail.
            for socket in state.inUse.values { shutdown(socket, Int32(SHUT_RDWR)) }
            defer { state.idle = [] }
            return state.idle
        }
        for session in idle { session.close() }
    }

    /// Connects far enough to see a host's key, without showing it anything of ours.
    ///
    /// - Throws: ``RemoteError``.
    public static func fetchHostKey(
        _ endpoint: SSHEndpoint,
        timeouts: SSHTimeouts = SSHTimeouts()
    ) throws -> HostKey {
        let resolved = endpoint.resolved()
        let deadline = Deadline(after: timeouts.total)
        let socket = try Dialer.connect(resolved, timeouts: timeouts, deadline: deadline)
        let session = try SSHSession(socket: socket, endpoint: resolved, hostKeyKinds: [])
        defer { session.close() }
        return try session.handshake(deadline: deadline.limited(to: timeouts.handshake))
    }

    /// How an endpoint is called in its file of known hosts.
    public static func knownHostsName(_ endpoint: SSHEndpoint) -> String {
        let resolved = endpoint.resolved()
        return KnownHosts.name(address: resolved.address, port: resolved.port)
    }

    // MARK: Connections

    /// Runs a command on an idle connection, or on a new one when there is none or it died unnoticed.
    func exchange(
        _ command: String,
        deadline: Deadline,
        stall: Duration? = nil,
        input: CommandInput
    ) throws -> CommandResult {
        while true {
            let kept = takeIdle()
            let session = try kept ?? connect(deadline: deadline)
            var hasStarted = false
            do {
                let result = try session.run(
                    command,
                    input: input,
                    open: deadline.limited(to: timeouts.open),
                    deadline: deadline,
                    stall: stall,
                    started: { hasStarted = true }
                )
                release(session, isReusable: true)
                return result
            } catch {
                release(session, isReusable: false)
                if kept == nil || hasStarted || deadline.hasPassed { throw error }
            }
        }
    }

    private func takeIdle() -> SSHSession? {
        state.withLock { state in
            guard let session = state.idle.popLast() else { return nil }
            state.inUse[ObjectIdentifier(session)] = session.socket
            return session
        }
    }

    /// Gives a connection back, or closes it.
    private func release(_ session: SSHSession, isReusable: Bool) {
        let isKept = state.withLock { state in
            state.inUse[ObjectIdentifier(session)] = nil
            guard isReusable, !state.isClosed, !session.isBroken, state.idle.count < Self.idleLimit else {
                return false
            }
            state.idle.append(session)
            return true
        }
        if !isKept { session.close() }
    }

    private func connect(deadline: Deadline) throws -> SSHSession {
        let isTrusted = state.withLock { $0.isTrusted }
        let gate = isTrusted ? logins : first
        while gate.wait(timeout: .now() + .milliseconds(Int(deadline.milliseconds))) == .timedOut {
            if deadline.hasPassed {
                throw RemoteError(
                    host: name,
                    phase: .connect,
                    code: .timedOut,
                    message: "too many connections to \(name) are being opened at once"
                )
            }
        }
        defer { gate.signal() }
        onPhase?(.resolve)
        let resolved =
            state.withLock { $0.resolved } ?? endpoint.resolved()
        if let jump = resolved.proxyJump {
            throw RemoteError(
                host: name,
                phase: .resolve,
                code: .unreachable,
                message: "~/.ssh/config reaches \(name) through \(jump), which is not supported yet"
            )
        }
        let trust = SSHTrust(endpoint: endpoint, resolved: resolved, policy: policy)
        let kinds = try trust.knownKinds()
        onPhase?(.connect)
        let socket = try Dialer.connect(resolved, timeouts: timeouts, deadline: deadline)
        let session = try SSHSession(socket: socket, endpoint: resolved, hostKeyKinds: kinds)
        do {
            let key = try session.handshake(deadline: deadline.limited(to: timeouts.handshake))
            onPhase?(.trust)
            try trust.check(key)
            try session.authenticate(deadline: deadline.limited(to: timeouts.authenticate))
        } catch {
            session.close()
            throw error
        }
        let isClosed = state.withLock { state in
            state.resolved = resolved
            state.isTrusted = true
            if !state.isClosed { state.inUse[ObjectIdentifier(session)] = session.socket }
            return state.isClosed
        }
        guard !isClosed else {
            session.close()
            throw session.lost(.connect, "it was closed here")
        }
        return session
    }
}

extension SSHTimeouts {
    /// All phases together.
    var total: Duration { resolve + connect + handshake + authenticate + open }
}

// Inside the class the name `close` is ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
