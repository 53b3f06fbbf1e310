internal import Basics
internal import Glibc

/// Makes authenticated connections to a host, through all that lies on the way.
struct SSHConnector: Sendable {
    var endpoint: SSHEndpoint
    var policy: HostKeyPolicy
    var passphrase: PassphraseSource?
    var timeouts: SSHTimeouts
    var ciphers = SSHCiphers.own
    /// Told when the way is begun, and when the host itself is to be trusted.
    var onPhase: (@Sendable (RemoteError.Phase) -> Void)?

    /// Connects to the last station of a route.
    ///
    /// Each station's key is checked before anything of ours is shown to it.
    ///
    /// - Throws: ``RemoteError``, which names the station; `FileError`.
    /// - Cost: about eight round trips a station.
    func connect(_ route: SSHRoute, deadline: Deadline) throws -> SSHSession {
        try tryingKinds(route) { try connect(route, preferring: $0, deadline: deadline) }
    }

    private func connect(_ route: SSHRoute, preferring kind: String?, deadline: Deadline) throws -> SSHSession
    {
        var way: SSHSession?
        onPhase?(.connect)
        for station in route.stations {
            let (session, key) = try meet(station, through: way, preferring: kind, deadline: deadline)
            do {
                if !station.isJump { onPhase?(.trust) }
                try SSHTrust(endpoint: endpoint, station: station, policy: policy).check(key)
                try session.authenticate(
                    passphrase: passphrase,
                    timeout: timeouts.authenticate,
                    deadline: deadline.limited(to: timeouts.authenticate)
                )
            } catch {
                session.close()
                throw error
            }
            way = session
        }
        guard let way else { preconditionFailure("a route of \(endpoint.name) without a station") }
        return way
    }

    /// Judges the key of the last station, which is shown nothing of ours.
    ///
    /// - Throws: ``RemoteError``; `FileError`.
    func check(_ route: SSHRoute, deadline: Deadline) throws {
        try tryingKinds(route) { kind in
            let key = try fetchKey(route, preferring: kind, deadline: deadline)
            try SSHTrust(endpoint: endpoint, station: route.target, policy: policy).check(key)
        }
    }

    /// Repeats while the host shows another key than the pinned fingerprint's and may have that one too.
    private func tryingKinds<R>(_ route: SSHRoute, _ body: (String?) throws -> R) throws -> R {
        var first: RemoteError?
        for kind in SSHTrust(endpoint: endpoint, station: route.target, policy: policy).kindsToTry {
            do {
                return try body(kind)
            } catch let error as RemoteError where error.code == .hostKeyChanged {
                // What the host shows by itself is what a person will compare.
                first = first ?? error
            }
        }
        guard let first else { preconditionFailure("no kind of key to try for \(endpoint.name)") }
        throw first
    }

    /// The key of the last station, which is shown nothing of ours.
    ///
    /// - Parameter kind: preferred when the host has several.
    /// - Throws: ``RemoteError``; the jumps on the way must be known.
    func fetchKey(_ route: SSHRoute, preferring kind: String? = nil, deadline: Deadline) throws -> HostKey {
        let jumps = SSHRoute(stations: route.stations.dropLast())
        let way = jumps.stations.isEmpty ? nil : try connect(jumps, deadline: deadline)
        let (session, key) = try meet(route.target, through: way, preferring: kind, deadline: deadline)
        session.close()
        return key
    }

    /// Opens a connection and agrees on keys; `way` belongs to it from now on.
    private func meet(
        _ station: ResolvedEndpoint,
        through way: SSHSession?,
        preferring kind: String?,
        deadline: Deadline
    ) throws -> (SSHSession, HostKey) {
        let kinds: [String]
        let socket: Int32
        var carrier: (any Carrier)?
        do {
            let known = try SSHTrust(endpoint: endpoint, station: station, policy: policy).knownKinds()
            kinds = kind.map { [$0] } ?? known
        } catch {
            way?.close()
            throw error
        }
        if let way {
            let jump = JumpCarrier()
            socket = try forward(to: station, through: way, jump, deadline.limited(to: timeouts.connect))
            carrier = jump
        } else if let command = station.proxyCommand {
            let proxy = try ProxyCarrier(command, for: station)
            socket = proxy.socket
            carrier = proxy
        } else {
            socket = try Dialer.connect(station, timeouts: timeouts, deadline: deadline)
        }
        let session = try SSHSession(
            socket: socket,
            endpoint: station,
            carrier: carrier,
            hostKeyKinds: kinds,
            ciphers: ciphers
        )
        do {
            return (session, try session.handshake(deadline: deadline.limited(to: timeouts.handshake)))
        } catch {
            session.close()
            throw error
        }
    }

    /// A socket whose bytes the jump carries to the next station, on a thread that has the jump from now on.
    private func forward(
        to station: ResolvedEndpoint,
        through way: SSHSession,
        _ jump: JumpCarrier,
        _ deadline: Deadline
    ) throws -> Int32 {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        let stream: PumpedStream
        do {
            let channel = try SSHChannel(way, .forward(station), deadline: deadline)
            guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
                throw way.lost(.connect, SystemError.text(errno))
            }
            stream = PumpedStream(way, channel, local: ends[0])
        } catch {
            way.close()
            throw error
        }
        stream.beforeClose = { jump.ended($0) }
        HandedPump(StreamPump(session: way, streams: [stream])).start("coord-jump") { way in way.close() }
        return ends[1]
    }
}

/// A pump on its way to the thread that will own it.
///
/// Safety: whoever makes it gives the pump away to one thread and touches it no more.
struct HandedPump: @unchecked Sendable {
    private let pump: StreamPump
    init(_ pump: StreamPump) { self.pump = pump }

    /// Runs the pump on a new thread.
    func start(_ name: String, release: @escaping @Sendable (SSHSession) -> Void) {
        OwnThread.start(name) { self.pump.run { release(self.pump.session) } }
    }
}
