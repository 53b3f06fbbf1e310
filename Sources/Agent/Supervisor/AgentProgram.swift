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
    let logger: Logger

    /// Ends the process after the reply is out.
    func end(wipe: Bool) {
        try? Files.remove(directory.socket)
        try? Files.remove(directory.identity)
        if wipe { try? Files.remove(directory.root) }
        exit(0)
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
        try directory.create()
        let lock = try FileLock(directory.lock)
        let logger = Logger(label: "agent")
        let store = try ChunkStore(directory: directory.store)
        let runs = try RunSupervisor(directory: directory, logger: logger)
        let pid = getpid()
        guard let process = ProcessIdentity(pid: pid) else { throw AgentError("/proc is not readable") }
        let services = AgentServices(
            cluster: cluster,
            instance: Digest.hex(Sealing.randomBytes(8)),
            worker: Digest(of: try Files.read(Machine.executable)),
            pid: pid,
            directory: directory,
            store: store,
            runs: runs,
            serve: ServeSupervisor(directory: directory, store: store, runs: runs, logger: logger),
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
        let listener = try UnixSocket.listen("agent.sock")
        services.serve.resume()
        if let ready {
            write(ready, "r", 1)
            close(ready)
        }
        logger.notice("agent is up", metadata: ["pid": "\(pid)"])
        while let socket = UnixSocket.accept(listener) {
            OSThread.start(name: "connection") {
                AgentConnection(channel: FrameChannel(socket: socket), agent: services).run()
            }
        }
        _ = consume lock
    }
}
