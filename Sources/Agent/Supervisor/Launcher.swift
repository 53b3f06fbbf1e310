internal import Basics
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// `coord-worker start`: sees to it that an agent of this very build runs, and ends.
enum Launcher {
    /// - Parameter boot: `auto` or `none`: whether the agent is to come back after a reboot; nil leaves that as it is.
    static func run(directory: AgentDirectory, cluster: String, boot: String? = nil) throws {
        try directory.create()
        let installer = BootInstaller()
        let entry = BootEntry(
            root: Files.resolved(directory.root),
            cluster: cluster,
            program: Machine.executable
        )
        let status = try boot.map { choice in
            let before = (try? Files.read(directory.boot)).flatMap {
                try? MessageCoding.decode(BootStatus.self, from: $0)
            }
            let status =
                choice == "auto"
                ? installer.install(entry, before: before) : installer.none(directory, cluster: cluster)
            try Files.writeAtomically(MessageCoding.encode(status), to: directory.boot, mode: 0o600)
            return status
        }
        if let running = runningAgent(directory) {
            let worker = Digest(of: try Files.read(Machine.executable))
            if running.worker == worker { return }
            try replace(running, directory: directory)
        }
        // Where logind ends a session's processes at logout, the agent must not be one of them.
        if status?.starter == .unit, installer.logoutReason() != nil, installer.startUnit(entry),
            runningAgent(directory) != nil
        {
            return
        }
        let log = open(directory.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard log >= 0 else { throw FileError(.write, directory.log, errno: errno) }
        var ready: [Int32] = [-1, -1]
        guard pipe(&ready) == 0 else { throw FileError(.write, "pipe", errno: errno) }
        _ = try ChildProcess(
            [Machine.executable, "agent", "--directory", directory.root, "--cluster", cluster, "--ready"],
            files: [-1, log, log, ready[1]],
            startsSession: true
        )
        close(ready[1])
        close(log)
        var byte: UInt8 = 0
        guard read(ready[0], &byte, 1) == 1 else {
            let tail =
                (try? Files.readText(directory.log))?.split(separator: "\n").last.map(String.init) ?? ""
            throw AgentError("the agent did not start: \(tail)", hint: "look at \(directory.log)")
        }
    }

    private static func runningAgent(_ directory: AgentDirectory) -> AgentIdentity? {
        guard let bytes = try? Files.read(directory.identity),
            let identity = try? MessageCoding.decode(AgentIdentity.self, from: bytes),
            identity.process.isAlive
        else { return nil }
        return identity
    }

    /// Ends an agent of another build, unless it has trainers at work.
    private static func replace(_ agent: AgentIdentity, directory: AgentDirectory) throws {
        // Its protocol may differ from ours: the process table and signals always work.
        let trainers = ProcessTable.entries(of: directory.root).filter { $0.part == "train" }
        guard trainers.isEmpty else {
            throw AgentError(
                "an agent of another build has a run in progress here (\(agent.worker.short), \(trainers.count) trainers)",
                hint: "wait for the run, or coord run stop",
                exitCode: .locked
            )
        }
        kill(agent.process.pid, SIGTERM)
        if !agent.process.waitForEnd(milliseconds: 3000) { kill(agent.process.pid, SIGKILL) }
        _ = agent.process.waitForEnd(milliseconds: 2000)
    }
}

/// `coord-worker bridge`: joins standard input and output to the agent, as `docker system dial-stdio` does.
enum Bridge {
    /// Gives both to the agent and waits for the end of the conversation, so that no byte of it passes through here.
    static func run(directory: AgentDirectory) throws {
        guard chdir(directory.root) == 0 else { throw FileError(.read, directory.root, errno: errno) }
        guard let agent = try? UnixSocket.connect("bridge.sock") else {
            // An agent of an older build takes conversations only.
            return try join(UnixSocket.connect("agent.sock"))
        }
        try say(bridgeSentinel)
        try UnixSocket.send([0, 1], over: agent)
        var byte: UInt8 = 0
        while read(agent, &byte, 1) < 0, errno == EINTR {}
    }

    private static func say(_ text: String) throws {
        try Array(text.utf8).withUnsafeBytes { try Files.writeAll($0, to: 1, path: "standard output") }
    }

    /// Says the sentinel and carries bytes both ways until the socket ends.
    static func join(_ socket: Int32) throws {
        try say(bridgeSentinel)
        let ended = Mailbox<Void>()
        OSThread.start(name: "bridge-in") {
            copy(from: 0, to: socket)
            shutdown(socket, Int32(SHUT_WR))
        }
        OSThread.start(name: "bridge-out") {
            copy(from: socket, to: 1)
            ended.put(())
        }
        ended.take()
    }

    private static func copy(from source: Int32, to target: Int32) {
        var buffer = [UInt8](repeating: 0, count: 256 << 10)
        while true {
            let n = read(source, &buffer, buffer.count)
            if n < 0, errno == EINTR { continue }
            guard n > 0 else { return }
            var sent = 0
            while sent < n {
                let w = buffer.withUnsafeBytes { write(target, $0.baseAddress.map { $0 + sent }, n - sent) }
                if w < 0, errno == EINTR { continue }
                guard w > 0 else { return }
                sent += w
            }
        }
    }
}
