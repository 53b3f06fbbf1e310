internal import Basics
internal import Synchronization
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// The way to a host where relayed links meet: this host's own `ssh`, started again whenever it ends, until the run is over.
///
/// The key lies in a file of mode 0600 in the run's folder as long as the way is kept, and nowhere else.
final class HubDialer: Sendable {
    /// How long the first connection may take.
    private static let patience = 15_000

    private struct State {
        var child: ChildProcess?
        var isClosed = false
    }

    private let access: HubAccess
    private let folder: String
    private let state = Mutex(State())
    private let ended = Mailbox<Void>()

    /// - Parameter folder: the run's.
    init(_ access: HubAccess, folder: String) {
        self.access = access
        self.folder = folder
    }

    private var key: String { folder + "/hub.key" }
    private var knownHosts: String { folder + "/hub.known_hosts" }
    private var log: String { folder + "/hub.log" }

    /// Connects, and keeps connected.
    ///
    /// - Parameter connected: given each new connection's socket, which speaks mux.
    /// - Throws: ``AgentError`` with ssh's words when the first connection does not come about.
    func open(_ connected: @escaping @Sendable (Int32) -> Void) throws {
        guard systemAccess(Self.client, X_OK) == 0 else {
            throw AgentError("this host has no ssh client", exitCode: .unreachable)
        }
        try Files.createDirectory(folder, mode: 0o700)
        try Files.writeAtomically(access.key.bytes, to: key, mode: 0o600)
        let lines = access.hostKeys.map { "coord-hub \($0)\n" }.joined()
        try Files.writeAtomically(Array(lines.utf8), to: knownHosts, mode: 0o600)
        let first = Mailbox<Bool>()
        OSThread.start(name: "hub") { [self] in keep(connected, first) }
        guard first.take(milliseconds: Self.patience) == true else {
            close()
            let words = (try? Files.readText(log, limit: 64 << 10))?.split(separator: "\n").last.map(
                String.init
            )
            throw AgentError(
                "ssh to \(access.hub) at \(access.address) failed: \(words ?? "no answer")",
                exitCode: .unreachable
            )
        }
    }

    /// Ends the way and removes the key.
    func close() {
        state.withLock { state in
            state.isClosed = true
            state.child?.signal(SIGTERM)
        }
        ended.put(())
        for path in [key, knownHosts] { try? Files.remove(path) }
    }

    private static let client = "/usr/bin/ssh"

    /// One child after another; they end with this thread, so it starts them itself.
    private func keep(_ connected: @Sendable (Int32) -> Void, _ first: Mailbox<Bool>) {
        var pause = 200
        while !state.withLock({ $0.isClosed }) {
            let begin = ContinuousClock.now
            let stood = connect(connected, first)
            if stood, ContinuousClock.now - begin > .seconds(10) { pause = 200 }
            first.put(false)
            // Closing wakes it.
            if ended.take(milliseconds: pause) != nil { return }
            pause = min(pause * 2, 5000)
        }
    }

    /// True when the connection stood before it ended.
    private func connect(_ connected: @Sendable (Int32) -> Void, _ first: Mailbox<Bool>) -> Bool {
        guard let (ours, theirs) = try? UnixSocket.pair() else { return false }
        let errors = systemOpen(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        let child = state.withLock { state -> ChildProcess? in
            guard !state.isClosed else { return nil }
            state.child = try? ChildProcess(
                [Self.client] + arguments,
                files: [theirs, theirs, errors],
                startsSession: true,
                diesWithParent: true
            )
            return state.child
        }
        systemClose(theirs)
        if errors >= 0 { systemClose(errors) }
        guard let child else {
            systemClose(ours)
            return false
        }
        var stood = false
        if let channel = try? FrameChannel.afterSentinel(socket: ours, timeoutMilliseconds: 12_000),
            let socket = try? channel.duplicateSocket()
        {
            stood = true
            connected(socket)
            first.put(true)
        } else {
            child.signal(SIGTERM)
        }
        // Wait without reaping: until it is forgotten, its number must stay its own.
        var info = siginfo_t()
        while waitid(P_PID, id_t(child.pid), &info, WEXITED | WNOWAIT) < 0, errno == EINTR {}
        state.withLock { $0.child = nil }
        _ = child.wait()
        return stood
    }

    /// No configuration of the user's, no other key, no key of the host but the pinned ones, no question.
    private var arguments: [String] {
        let options = [
            "BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "HostKeyAlias=coord-hub",
            "CheckHostIP=no", "UserKnownHostsFile=\(knownHosts)", "GlobalKnownHostsFile=/dev/null",
            "ConnectTimeout=5", "ServerAliveInterval=5", "ServerAliveCountMax=3", "LogLevel=ERROR",
        ]
        return ["-F", "/dev/null", "-T"] + options.flatMap { ["-o", $0] }
            + ["-i", key, "-p", "\(access.port)", "-l", access.user, "--", access.address, "coord-relay"]
    }

}

// Inside the class the names `access`, `close` and `open` are ours.
private func systemAccess(_ path: String, _ mode: Int32) -> Int32 { access(path, mode) }
private func systemClose(_ descriptor: Int32) { close(descriptor) }
private func systemOpen(_ path: String, _ flags: Int32, _ mode: mode_t) -> Int32 { open(path, flags, mode) }
