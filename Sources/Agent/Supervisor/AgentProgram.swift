internal import Basics
internal import ContentStore
internal import Dispatch
internal import Logging
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// What the connections of an agent share.
struct AgentServices: Sendable {
    let cluster: String
    let instance: String
    let worker: Digest
    let pid: Int32
    let directory: AgentDirectory
    let store: ChunkStore
    let runs: RunSupervisor
    let serve: ServeSupervisor
    let ledger: CheckpointLedger
    let keeper: LeaseKeeper
    let connections: ConnectionTable
    let relay: RelayService
    let logger: Logger

    /// Ends the process after the reply is out.
    func end(wipe: Bool) {
        logger.notice("agent ends")
        try? Files.remove(directory.bridges)
        try? Files.remove(directory.socket)
        try? Files.remove(directory.identity)
        if wipe { try? Files.remove(directory.root) }
        ThisProcess.end(.ok)
    }
}

/// What `agent.json` says of the running agent.
struct AgentIdentity: Codable, Sendable {
    var process: ProcessIdentity
    var worker: Digest
    var instance: String
}

/// `coord-worker agent`: one for each (user, cluster), detached, alive until `coord down`.
enum AgentProgram {
    /// - Parameter ready: written to and closed when the agent can be reached.
    static func run(directory: AgentDirectory, cluster: String, ready: Int32?) throws {
        signal(SIGPIPE, SIG_IGN)
        signal(SIGHUP, SIG_IGN)
        try directory.create()
        let lock = try FileLock(directory.lock)
        let logger = Logger(label: "agent")
        // What an agent that was killed left behind; the lock says that it is nobody's by now.
        let orphans = Sweep(directory, cluster: cluster).endOrphans()
        for words in orphans.ended { logger.warning("ended \(words), which had no agent any more") }
        for words in orphans.left { logger.error("\(words) has no agent and does not end") }
        let store = try ChunkStore(directory: directory.store)
        let ledger = try CheckpointLedger(directory: directory.root)
        let runs = try RunSupervisor(directory: directory, ledger: ledger, logger: logger)
        let serve = ServeSupervisor(directory: directory, store: store, runs: runs, logger: logger)
        let keeper = LeaseKeeper(
            directory: directory,
            sources: LeaseKeeper.Sources(
                trainers: { runs.processes },
                isServing: { serve.isServing },
                unsaved: { ledger.unsaved.count }
            ),
            logger: logger
        )
        let pid = getpid()
        // Only root may; where it is not allowed, trainers and coord-serve still go first.
        ProcessTable.setMemoryPriority(pid, -500)
        guard let process = ProcessIdentity(pid: pid) else { throw AgentError("/proc is not readable") }
        let services = AgentServices(
            cluster: cluster,
            instance: Digest.hex(Sealing.randomBytes(8)),
            worker: Digest(of: try Files.read(Machine.executable)),
            pid: pid,
            directory: directory,
            store: store,
            runs: runs,
            serve: serve,
            ledger: ledger,
            keeper: keeper,
            connections: ConnectionTable(),
            relay: try RelayService(runs: runs, logger: logger),
            logger: logger
        )
        try Files.writeAtomically(
            MessageCoding.encode(
                AgentIdentity(process: process, worker: services.worker, instance: services.instance)
            ),
            to: directory.identity,
            mode: 0o600
        )
        // A path of more than 107 bytes does not fit a socket address; the name alone does.
        guard chdir(directory.root) == 0 else { throw FileError(.read, directory.root, errno: errno) }
        let bridges = try UnixSocket.listen("bridge.sock")
        let listener = try UnixSocket.listen("agent.sock")
        services.serve.resume()
        keeper.start { reason in
            logger.notice("ends by itself: \(reason)")
            services.end(wipe: false)
        }
        if let ready {
            write(ready, "r", 1)
            close(ready)
        }
        logger.notice("agent is up", metadata: ["pid": "\(pid)"])
        OSThread.start(name: "bridges") {
            while let bridge = UnixSocket.accept(bridges) {
                OSThread.start(name: "connection") { talk(over: bridge, services) }
            }
        }
        while let socket = UnixSocket.accept(listener) {
            OSThread.start(name: "connection") {
                AgentConnection(channel: FrameChannel(socket: socket), agent: services).run()
            }
        }
        _ = consume lock
    }

    /// Takes the ends that a bridge hands over, and answers on them.
    private static func talk(over bridge: Int32, _ services: AgentServices) {
        do {
            let ends = try UnixSocket.receive(2, over: bridge)
            let channel = FrameChannel(reading: ends[0], writing: ends[1], life: bridge)
            AgentConnection(channel: channel, agent: services).run()
        } catch {
            services.logger.info("a bridge handed nothing over: \(error)")
            UnixSocket.close(bridge)
        }
    }
}
