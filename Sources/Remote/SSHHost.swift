internal import Basics
internal import CSSH
internal import Dispatch
internal import Glibc
internal import Synchronization

/// A machine that answers SSH.
///
/// Each connection has a thread that owns it. A stream of ``openStream(_:onEnd:)`` has a connection of its own; those of
/// ``openStreams(_:count:connections:onEnd:)`` share as many as were asked for; `run` takes an idle connection
/// or makes one. So nothing waits for anything else (a full stream cannot hold up a command), a stream that dies takes
/// only itself along, several streams use several cores for their ciphers, and `MaxSessions 1` is enough. The price is a handshake
/// for each stream, 30 ms and a few round trips.
public final class SSHHost: Host {
    private struct State {
        var idle: [SSHSession] = []
        /// Sockets of the connections in use, to shut them down.
        var inUse: [ObjectIdentifier: Int32] = [:]
        var isTrusted = false
        var isClosed = false
    }

    /// The host's name in the cluster file.
    public var name: String { endpoint.name }
    /// Where it answers.
    public let endpoint: SSHEndpoint

    private let connector: SSHConnector
    private let source: SSHConfigSource
    private var timeouts: SSHTimeouts { connector.timeouts }
    private let state = Mutex(State())
    /// Until the host's key was judged once, one connection at a time: a person is asked once.
    private let first = DispatchSemaphore(value: 1)
    /// sshd drops connections beyond 10 that have not logged in (MaxStartups).
    private let logins = DispatchSemaphore(value: 6)

    /// Signalled when the host is closed, for those who wait before they try again.
    private let closing = DispatchSemaphore(value: 0)

    /// At most this many connections wait for the next command.
    private static let idleLimit = 2

    /// A host that is asked too often at once (MaxStartups) hangs up before its first word; soon after it does not.
    private static let patience = RetryPolicy(limit: .seconds(15))

    /// Describes a host; connects when it is used.
    ///
    /// - Parameters:
    ///   - passphrase: asked for the passphrase of an encrypted key, once for each connection.
    ///   - onPhase: told of each phase that a connection enters, on the thread that connects.
    public convenience init(
        _ endpoint: SSHEndpoint,
        policy: HostKeyPolicy = .strict,
        passphrase: PassphraseSource? = nil,
        timeouts: SSHTimeouts = SSHTimeouts(),
        onPhase: (@Sendable (RemoteError.Phase) -> Void)? = nil
    ) {
        let connector = SSHConnector(
            endpoint: endpoint,
            policy: policy,
            passphrase: passphrase,
            timeouts: timeouts,
            onPhase: onPhase
        )
        self.init(connector, source: .shared)
    }

    init(_ connector: SSHConnector, source: SSHConfigSource) {
        endpoint = connector.endpoint
        self.connector = connector
        self.source = source
        // libssh writes with send(2) without MSG_NOSIGNAL.
        PipeSignal.ignore()
    }

    deinit { close() }

    /// Runs a command to its end; see ``Host/run(_:input:timeout:limit:)``.
    public func run(
        _ command: String,
        input: [UInt8],
        timeout: Duration,
        limit: Int
    ) throws -> CommandResult {
        try exchange(command, deadline: Deadline(after: timeout), limit: limit, input: Self.once(input))
    }

    /// Runs a command to its end; see ``Host/run(_:input:silence:)``.
    public func run(_ command: String, input: [UInt8], silence: Duration) throws -> CommandResult {
        try exchange(command, deadline: Deadline(after: silence), stall: silence, input: Self.once(input))
    }

    private static func once(_ input: [UInt8]) -> CommandInput {
        var rest = input
        return { buffer in
            swap(&buffer, &rest)
            rest = []
        }
    }

    /// Starts a command and gives a socket that is its standard input and output; see ``Host/openStream(_:onEnd:)``.
    public func openStream(_ command: String, onEnd: (@Sendable (StreamEnd) -> Void)?) throws -> Int32 {
        let session = try connect(deadline: Deadline(after: timeouts.total))
        return try start([onEnd], command, on: session)[0]
    }

    /// Starts a command several times over a few connections; see ``Host/openStreams(_:count:connections:onEnd:)``.
    ///
    /// - Cost: the handshakes of all connections at the same time; a thread a connection, 8 MiB of address space a stream.
    public func openStreams(
        _ command: String,
        count: Int,
        connections: Int,
        onEnd: (@Sendable (_ index: Int, _ end: StreamEnd) -> Void)?
    ) throws -> [Int32] {
        precondition(count >= 1 && connections >= 1, "\(count) streams over \(connections) connections")
        let groups = (0..<min(count, connections)).map { Array(stride(from: $0, to: count, by: connections)) }
        let opened = Mutex<[Int: Int32]>([:])
        let failure = Mutex<(any Error)?>(nil)
        let all = DispatchGroup()
        for group in groups {
            all.enter()
            OwnThread.start("coord-open") { [self] in
                defer { all.leave() }
                do {
                    let streams = try openGroup(command, group, onEnd)
                    opened.withLock { $0.merge(streams) { $1 } }
                } catch {
                    failure.withLock { $0 = error }
                }
            }
        }
        // Each phase of connecting has its deadline.
        all.wait()
        let streams = opened.withLock { $0 }
        if let error = failure.withLock({ $0 }) {
            for stream in streams.values { systemClose(stream) }
            throw error
        }
        return streams.sorted { $0.key < $1.key }.map(\.value)
    }

    /// Opens streams over one connection, or more when the host starts fewer commands on one (MaxSessions).
    private func openGroup(
        _ command: String,
        _ indices: [Int],
        _ onEnd: (@Sendable (Int, StreamEnd) -> Void)?
    ) throws -> [Int: Int32] {
        var opened: [Int: Int32] = [:]
        do {
            while opened.count < indices.count {
                let rest = indices[opened.count...]
                let session = try connect(deadline: Deadline(after: timeouts.total))
                let ends = rest.map { index in onEnd.map { onEnd in { @Sendable end in onEnd(index, end) } } }
                for (index, stream) in zip(rest, try start(ends, command, on: session)) {
                    opened[index] = stream
                }
            }
        } catch {
            for stream in opened.values { systemClose(stream) }
            throw error
        }
        return opened
    }

    /// Starts a command as often as the connection takes it, at least once; the connection belongs to the streams then.
    private func start(
        _ ends: [(@Sendable (StreamEnd) -> Void)?],
        _ command: String,
        on session: SSHSession
    ) throws -> [Int32] {
        var streams: [PumpedStream] = []
        var theirs: [Int32] = []
        do {
            let deadline = Deadline(after: timeouts.open)
            for onEnd in ends {
                let channel: SSHChannel
                do {
                    channel = try SSHChannel(session, .command(SSHCommand.plain(command)), deadline: deadline)
                } catch let error as RemoteError where error.code == .channelRefused && !streams.isEmpty {
                    break
                }
                var pair: [Int32] = [-1, -1]
                let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
                guard socketpair(AF_UNIX, kind, 0, &pair) == 0 else {
                    throw session.lost(.open, SystemError.text(errno))
                }
                let stream = PumpedStream(session, channel, local: pair[0])
                stream.onEnd = onEnd
                streams.append(stream)
                theirs.append(pair[1])
            }
        } catch {
            for stream in streams {
                stream.onEnd = nil
                stream.finish(nil)
            }
            for descriptor in theirs { systemClose(descriptor) }
            release(session, isReusable: false)
            throw error
        }
        HandedPump(StreamPump(session: session, streams: streams)).start("coord-stream") { session in
            self.release(session, isReusable: false)
        }
        return theirs
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
        closing.signal()
        for session in idle { session.close() }
    }

    /// Connects far enough to see a host's key, without showing it anything of ours.
    ///
    /// - Throws: ``RemoteError``; the keys of jumps on the way must be known.
    public static func fetchHostKey(
        _ endpoint: SSHEndpoint,
        timeouts: SSHTimeouts = SSHTimeouts()
    ) throws -> HostKey {
        PipeSignal.ignore()
        let route = try SSHRoute.resolve(endpoint, timeout: timeouts.resolve)
        let connector = SSHConnector(endpoint: endpoint, policy: .strict, timeouts: timeouts)
        return try connector.fetchKey(route, deadline: Deadline(after: timeouts.total))
    }

    /// Connects far enough to see a host's key, and judges it by a policy; jumps on the way are logged in to.
    ///
    /// - Throws: ``RemoteError`` of the phase `trust`, and of those before it.
    public static func checkHostKey(
        _ endpoint: SSHEndpoint,
        policy: HostKeyPolicy,
        timeouts: SSHTimeouts = SSHTimeouts()
    ) throws {
        PipeSignal.ignore()
        let route = try SSHRoute.resolve(endpoint, timeout: timeouts.resolve)
        let connector = SSHConnector(endpoint: endpoint, policy: policy, timeouts: timeouts)
        try connector.check(route, deadline: Deadline(after: timeouts.total))
    }

    /// How we come to a host, by the ssh configuration.
    ///
    /// - Throws: ``RemoteError`` when `~/.ssh/config` can't be read; `FileError`.
    /// - Cost: one `ssh -G` a station.
    public static func place(of endpoint: SSHEndpoint) throws -> SSHPlace {
        let route = try SSHRoute.resolve(endpoint)
        let target = route.target
        var keys = try HostKeys.list(endpoint.knownHosts).keys(for: target.knownAs)
        if let pinned = endpoint.hostKeyFingerprint.flatMap({ HostKeyPin($0).key }) { keys = [pinned] }
        for file in target.knownHostsElsewhere where keys.isEmpty {
            keys = ((try? HostKeys.list(file)) ?? KnownHosts(text: "")).keys(for: target.knownAs)
        }
        return SSHPlace(
            address: target.address,
            port: target.port,
            isDirect: route.stations.count == 1 && target.proxyCommand == nil,
            keys: keys
        )
    }

    /// How an endpoint is called in its file of known hosts.
    ///
    /// - Throws: ``RemoteError`` when `~/.ssh/config` can't be read.
    public static func knownHostsName(_ endpoint: SSHEndpoint) throws -> String {
        try SSHRoute.resolve(endpoint).target.knownAs
    }

    // MARK: Connections

    /// Runs a command on an idle connection, or on a new one when there is none or it died unnoticed.
    func exchange(
        _ command: String,
        deadline: Deadline,
        stall: Duration? = nil,
        limit: Int = CommandLimits.output,
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
                    limit: limit,
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
        let session = try connectPatiently(deadline: deadline)
        let isClosed = state.withLock { state in
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

    /// Waits; true when the host was closed meanwhile.
    private func isClosed(within pause: Duration) -> Bool {
        let milliseconds = Int(pause / .milliseconds(1))
        guard closing.wait(timeout: .now() + .milliseconds(milliseconds)) == .success else { return false }
        // For whoever else waits.
        closing.signal()
        return true
    }

    /// Connects; tries again when the host hangs up before it says a word.
    ///
    /// Nothing has happened then that could happen twice. What else may pass by itself (a closed port, no route) is
    /// told at once: whether a host is worth waiting for is for the caller to say.
    private func connectPatiently(deadline: Deadline) throws -> SSHSession {
        let started = ContinuousClock.now
        var failures = 0
        var lastWords: RemoteError?
        while true {
            do {
                connector.onPhase?(.resolve)
                let route = try SSHRoute.resolve(endpoint, source: source, timeout: timeouts.resolve)
                return try connector.connect(route, deadline: deadline)
            } catch let error as RemoteError where error.phase == .handshake && error.code == .connectionLost
            {
                failures += 1
                lastWords = error
                let elapsed = ContinuousClock.now - started
                let random = Double.random(in: 0..<1)
                let pause = Self.patience.pause(failures: failures, elapsed: elapsed, random: random)
                guard let pause, deadline.leaves(pause), !isClosed(within: pause) else { throw error }
            } catch let error as RemoteError where error.code == .timedOut {
                // That time ran out in the last try says less than why there was one.
                throw lastWords ?? error
            }
        }
    }
}

extension SSHTimeouts {
    /// All phases together.
    var total: Duration { resolve + connect + handshake + authenticate + open }
}

// Inside the class the name `close` is ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
