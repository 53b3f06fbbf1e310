internal import Basics
internal import CSSH
internal import Glibc

/// One authenticated connection to a host, over libssh.
///
/// libssh's session runs non-blocking: every wait is a poll(2) of ours with a deadline, so nothing that the other
/// side does or leaves undone can hold a thread longer than that.
///
/// Safety: libssh wants one thread for a session and its channels at a time. ``SSHHost`` gives a session either to
/// one caller of `run` or to one stream's thread and takes it back only when they are done; the hand-over goes through
/// a lock.
final class SSHSession: @unchecked Sendable {
    let handle: ssh_session
    /// Our descriptor of the connection, for poll(2) and for shutting it down.
    let socket: Int32
    let endpoint: ResolvedEndpoint
    /// What the connection runs through; nil = TCP of its own.
    private let carrier: (any Carrier)?

    // libssh 0.10 closes the descriptor it was given on errors, but not on ssh_disconnect, and does not tell. It gets
    // a duplicate, closed at the end only when it still names the same socket.
    private let lent: Int32
    private let received: UnsafeMutablePointer<ssh_counter_struct>
    private(set) var isClosed = false
    private var lastReceived: UInt64 = 0
    private var lastHeard = ContinuousClock.now
    private var lastBeat = ContinuousClock.now

    /// Takes a connected socket and owns it from now on.
    ///
    /// - Throws: ``RemoteError`` `.handshakeFailed`.
    init(
        socket: Int32,
        endpoint: ResolvedEndpoint,
        carrier: (any Carrier)? = nil,
        hostKeyKinds: [String],
        ciphers: String = SSHCiphers.own
    ) throws {
        let lent = dup3(socket)
        guard lent >= 0, let handle = ssh_new() else {
            if lent >= 0 { systemClose(lent) }
            systemClose(socket)
            carrier?.end()
            throw RemoteError(
                host: endpoint.host,
                phase: .handshake,
                code: .handshakeFailed,
                message: "cannot make an SSH session for \(endpoint.name): out of memory or descriptors"
            )
        }
        self.socket = socket
        self.lent = lent
        self.handle = handle
        self.endpoint = endpoint
        self.carrier = carrier
        received = .allocate(capacity: 1)
        received.initialize(to: ssh_counter_struct())
        // The config file was read by the system's client already (SSHConfig); libssh would let its Port win.
        set(SSH_OPTIONS_PROCESS_CONFIG, 0)
        set(SSH_OPTIONS_NODELAY, 1)
        set(SSH_OPTIONS_FD, lent)
        // With a name and files libssh would put the kinds of keys that it knows first; that is ours to do.
        set(SSH_OPTIONS_HOST, "host")
        set(SSH_OPTIONS_KNOWNHOSTS, "/dev/null")
        set(SSH_OPTIONS_GLOBAL_KNOWNHOSTS, "/dev/null")
        set(SSH_OPTIONS_USER, endpoint.user)
        set(SSH_OPTIONS_CIPHERS_C_S, ciphers)
        set(SSH_OPTIONS_CIPHERS_S_C, ciphers)
        set(SSH_OPTIONS_HOSTKEYS, Self.algorithms(preferring: hostKeyKinds))
        ssh_set_counters(handle, received, nil)
        ssh_set_blocking(handle, 0)
    }

    deinit { close() }

    /// Ends the connection.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        ssh_disconnect(handle)
        ssh_free(handle)
        var ours = stat()
        var theirs = stat()
        if fstat(socket, &ours) == 0, fstat(lent, &theirs) == 0, ours.st_ino == theirs.st_ino,
            ours.st_dev == theirs.st_dev
        {
            systemClose(lent)
        }
        systemClose(socket)
        carrier?.end()
        received.deallocate()
    }

    private func set(_ option: ssh_options_e, _ value: Int32) {
        var value = value
        ssh_options_set(handle, option, &value)
    }

    private func set(_ option: ssh_options_e, _ value: String) {
        _ = value.withCString { ssh_options_set(handle, option, $0) }
    }

    /// The algorithms for the host's key, those of known keys first.
    ///
    /// Else a host whose RSA key is known would show its Ed25519 key and look like another host.
    static func algorithms(preferring kinds: [String]) -> String {
        let all = [
            "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
        ]
        let ordered = all.filter(kinds.contains) + all.filter { !kinds.contains($0) }
        return ordered.map { $0 == "ssh-rsa" ? "rsa-sha2-512,rsa-sha2-256" : $0 }.joined(separator: ",")
    }

    // MARK: Waiting

    /// What we have sent and the other side, or what carries us there, has taken; unit: bytes.
    var acknowledged: UInt64 {
        var queued: Int32 = 0
        guard ioctl(socket, UInt(TIOCOUTQ), &queued) == 0 else { return 0 }
        return received.pointee.out_bytes - min(received.pointee.out_bytes, UInt64(max(queued, 0)))
    }

    /// What has arrived here and libssh has not read; unit: bytes.
    var arrived: Int {
        var waiting: Int32 = 0
        return ioctl(socket, UInt(FIONREAD), &waiting) == 0 ? Int(waiting) : 0
    }

    /// What libssh says went wrong, and what carried a connection that broke; fit for a message.
    var reason: String {
        let own = Self.printable(String(cString: ssh_get_error(UnsafeMutableRawPointer(handle))))
        guard isBroken, let failure = carrier?.failure else {
            return own.isEmpty ? "it does not keep to the protocol" : own
        }
        return own.isEmpty ? failure : "\(own); \(failure)"
    }

    /// What encrypts what we send; nil before the handshake.
    var cipher: String? { ssh_get_cipher_out(handle).map { String(cString: $0) } }

    /// True when the connection can't be used any more.
    var isBroken: Bool {
        ssh_get_error_code(UnsafeMutableRawPointer(handle)) == Int32(SSH_FATAL.rawValue)
            || ssh_is_connected(handle) == 0
    }

    /// Blocks until the socket is ready, or a second has passed.
    func wait(_ phase: RemoteError.Phase, deadline: Deadline? = nil) throws {
        var others: [pollfd] = []
        try wait(phase, deadline: deadline, listens: true, others: &others)
    }

    /// Blocks until the socket, or another descriptor, is ready, or a second has passed.
    ///
    /// - Parameter others: further descriptors to wait for, and what became of them.
    /// - Throws: ``RemoteError`` `.connectionLost` when the other side has been silent for too long.
    func wait(
        _ phase: RemoteError.Phase,
        deadline: Deadline? = nil,
        listens: Bool,
        others: inout [pollfd]
    ) throws {
        let flags = ssh_get_poll_flags(handle)
        let events = (listens ? Int16(POLLIN) : 0) | (flags & SSH_WRITE_PENDING != 0 ? Int16(POLLOUT) : 0)
        others.append(pollfd(fd: events == 0 ? -1 : socket, events: events, revents: 0))
        defer { others.removeLast() }
        let patience = min(Int32(endpoint.keepalive.interval.components.seconds * 1000), 1000)
        _ = poll(&others, nfds_t(others.count), min(deadline?.milliseconds ?? 1000, patience))
        if listens { try beat(phase) } else { lastHeard = .now }
    }

    private func beat(_ phase: RemoteError.Phase) throws {
        let now = ContinuousClock.now
        if received.pointee.in_bytes != lastReceived {
            lastReceived = received.pointee.in_bytes
            lastHeard = now
        }
        // Before the login is done a keepalive would be an error of protocol; the phases have their own deadlines.
        guard phase == .command || phase == .stream || phase == .upload else { return }
        let silence = lastHeard.duration(to: now)
        let keepalive = endpoint.keepalive
        if silence > keepalive.patience {
            throw lost(phase, "nothing heard for \(keepalive.patience.components.seconds) s")
        }
        if silence > keepalive.interval, lastBeat.duration(to: now) > keepalive.interval {
            lastBeat = now
            ssh_send_keepalive(handle)
        }
    }

    /// Repeats a call of libssh until it is done.
    ///
    /// - Throws: ``RemoteError`` `.timedOut` with the phase's name, `.connectionLost`.
    func perform(_ phase: RemoteError.Phase, deadline: Deadline, _ step: () -> Int32) throws -> Int32 {
        while true {
            let result = step()
            let again = phase == .authenticate ? Int32(SSH_AUTH_AGAIN.rawValue) : SSH_AGAIN
            guard result == again else { return result }
            guard !isBroken || phase == .handshake && ssh_get_error_code(UnsafeMutableRawPointer(handle)) == 0
            else {
                return SSH_ERROR
            }
            guard !deadline.hasPassed else { throw timedOut(phase) }
            try wait(phase, deadline: deadline)
        }
    }

    func timedOut(_ phase: RemoteError.Phase) -> RemoteError {
        RemoteError(
            host: endpoint.host,
            phase: phase,
            code: .timedOut,
            message: "\(endpoint.name) (\(endpoint.login)) took too long in phase \(phase.rawValue)",
            hint: phase == .handshake
                ? "something listens on \(endpoint.place) but does not answer as an SSH server; check the port"
                : "try `\(endpoint.command)`; when that is slow too, the host is overloaded or the network is bad"
        )
    }

    func lost(_ phase: RemoteError.Phase, _ why: String? = nil) -> RemoteError {
        RemoteError(
            host: endpoint.host,
            phase: phase,
            code: .connectionLost,
            message: "the connection to \(endpoint.name) (\(endpoint.login)) broke: \(why ?? reason)"
        )
    }

    /// Text of the other side without control characters, at most 300 characters of it.
    static func printable(_ text: String) -> String { ForeignText.line(text) }

    // MARK: Handshake

    /// Agrees on keys and ciphers.
    ///
    /// - Returns: the host's key, not yet trusted.
    /// - Throws: ``RemoteError`` `.handshakeFailed`, `.timedOut`.
    func handshake(deadline: Deadline) throws -> HostKey {
        do {
            try Greeting(socket: socket, endpoint: endpoint).skip(deadline: deadline)
        } catch var error as RemoteError {
            if let failure = carrier?.failure {
                error.message += "; \(failure)"
                // The host may never have been asked: no reason to ask it again at once.
                if carrier is ProxyCarrier { error.code = .unreachable }
            }
            throw error
        }
        let result = try perform(.handshake, deadline: deadline) { ssh_connect(handle) }
        guard result == SSH_OK else {
            throw RemoteError(
                host: endpoint.host,
                phase: .handshake,
                code: .handshakeFailed,
                message:
                    "\(endpoint.name) (\(endpoint.place)) is no SSH server that we can talk to: \(reason)",
                hint: "check the port with `\(endpoint.command)`"
            )
        }
        // libssh has made the socket a blocking one, and sends whole windows: whoever reads no more - a frozen host, a
        // ProxyCommand - would hold this thread up beyond every deadline. It sends only after poll said that it can.
        _ = fcntl(socket, F_SETFL, O_NONBLOCK)
        var key: ssh_key?
        var text: UnsafeMutablePointer<CChar>?
        defer {
            ssh_key_free(key)
            ssh_string_free_char(text)
        }
        guard ssh_get_server_publickey(handle, &key) == SSH_OK,
            ssh_pki_export_pubkey_base64(key, &text) == SSH_OK,
            let text, let hostKey = HostKey(base64: String(cString: text))
        else {
            throw RemoteError(
                host: endpoint.host,
                phase: .handshake,
                code: .handshakeFailed,
                message: "\(endpoint.name) (\(endpoint.place)) shows a host key that cannot be read"
            )
        }
        return hostKey
    }
}

// Inside the class the name `close` is ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
private func dup3(_ descriptor: Int32) -> Int32 { fcntl(descriptor, F_DUPFD_CLOEXEC, 3) }
