internal import Basics
internal import ContentStore
internal import Logging
internal import Synchronization
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Starts `coord-serve`, brings it back when it dies, and speaks to it over its admin socket.
final class ServeSupervisor: Sendable {
    private struct State {
        var setup: ServeSetup?
        var process: ProcessIdentity?
        var isStopping = false
        var starts: [Double] = []
    }

    private let directory: AgentDirectory
    private let store: ChunkStore
    private let runs: RunSupervisor
    private let logger: Logger
    private let state = Mutex(State())
    /// One request at a time: `coord-serve` answers in order.
    private let conversation = Mutex(())

    init(directory: AgentDirectory, store: ChunkStore, runs: RunSupervisor, logger: Logger) {
        self.directory = directory
        self.store = store
        self.runs = runs
        self.logger = logger
    }

    /// The kernel takes trainers before it, and it before the agent.
    private static let memoryPriority = 400

    /// True while `coord-serve` lives.
    var isServing: Bool { state.withLock { $0.process?.isAlive ?? false } }

    private var setupPath: String { directory.serve + "/setup.json" }

    /// Brings back what was served before the agent ended.
    func resume() {
        guard let bytes = try? Files.read(setupPath),
            let setup = try? MessageCoding.decode(ServeSetup.self, from: bytes)
        else { return }
        do {
            try start(setup)
        } catch {
            logger.error("cannot bring coord-serve back: \(error)")
        }
    }

    /// Puts a version's files where `coord-serve` can read them and asks for the switch.
    func release(_ version: ServedVersion, setup: ServeSetup) throws -> ServeReply {
        let folder = directory.serve + "/versions/\(version.checkpoint.hex)"
        try Files.createDirectory(folder, mode: 0o700)
        try store.materialize(try store.manifest(version.checkpoint), into: folder)
        let (running, isAlive) = state.withLock { ($0.setup, $0.process?.isAlive ?? false) }
        if running != setup || !isAlive {
            if isAlive { stop() }
            try start(setup)
            try Files.writeAtomically(MessageCoding.encode(setup), to: setupPath, mode: 0o600)
        }
        return try ask(.release(version: version, folder: folder))
    }

    /// Passes a request on.
    ///
    /// - Throws: ``AgentError`` when nothing is served here.
    func ask(_ request: ServeRequest, bytes: [UInt8]? = nil) throws -> ServeReply {
        try conversation.withLock { _ in
            guard let socket = try? UnixSocket.connect(directory.serve + "/serve.sock") else {
                throw AgentError(
                    "nothing is served on this host",
                    hint: "release a version first: coord deploy --host HOST"
                )
            }
            let channel = FrameChannel(socket: socket)
            defer { channel.close() }
            try channel.send(request)
            if let bytes { try channel.send(Frame(.bytes, bytes)) }
            guard let frame = try channel.receive(timeoutMilliseconds: 60_000) else {
                throw AgentError(
                    "coord-serve closed the connection",
                    hint: "look at \(directory.serve)/serve.log"
                )
            }
            return try MessageCoding.decode(ServeReply.self, from: frame.payload)
        }
    }

    /// What is served; nil when nothing is.
    func status() -> ServeStatus? {
        guard state.withLock({ $0.process?.isAlive ?? false }), case .status(let status)? = try? ask(.status)
        else {
            return nil
        }
        return status
    }

    /// Ends `coord-serve`; it finishes what is in flight.
    func stop() {
        guard
            let process = state.withLock({ state -> ProcessIdentity? in
                state.isStopping = true
                return state.process
            }), process.isAlive
        else { return }
        kill(process.pid, SIGTERM)
        if !process.waitForEnd(milliseconds: 5000) { kill(process.pid, SIGKILL) }
        _ = process.waitForEnd(milliseconds: 2000)
    }

    private func start(_ setup: ServeSetup) throws {
        let programs = directory.root + "/bin/serve-\(setup.program.short)"
        if Files.kind(programs + "/coord-serve") == nil {
            try Files.createDirectory(programs, mode: 0o700)
            try store.materialize(try store.manifest(setup.program), into: programs)
        }
        let logPath = directory.serve + "/serve.log"
        let log = open(logPath, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard log >= 0 else { throw FileError(.write, logPath, errno: errno) }
        defer { close(log) }
        var ready: [Int32] = [-1, -1]
        guard pipe(&ready) == 0 else { throw FileError(.write, "pipe", errno: errno) }
        defer { close(ready[0]) }
        var arguments = [
            programs + "/coord-serve", "--directory", directory.serve, "--listen", setup.listen, "--ready-fd",
            "3",
        ]
        if let variable = setup.tokenVariable { arguments += ["--token-env", variable] }
        let kernels = Machine.kernels ?? .v2
        let environment =
            Machine.environment.filter { !$0.hasPrefix("OPENBLAS_") }
            + ["OPENBLAS_CORETYPE=\(kernels.openBLASCoreType)", "OPENBLAS_NUM_THREADS=1"]
        try? Files.remove(directory.serve + "/serve.sock")
        let child: ChildProcess
        do {
            defer { close(ready[1]) }
            child = try runs.spawn(
                arguments,
                environment: environment,
                files: [-1, log, log, ready[1]],
                memoryPriority: Self.memoryPriority
            )
        }
        // The program writes to descriptor 3 when it answers, or closes it by ending.
        var byte: UInt8 = 0
        let started = read(ready[0], &byte, 1) == 1
        guard started, let identity = ProcessIdentity(pid: child.pid) else {
            let end = child.wait()
            let tail = (try? Files.readText(logPath))?.split(separator: "\n").last.map(String.init) ?? ""
            throw AgentError(
                "coord-serve did not start (\(end)): \(tail)",
                hint: "look at \(logPath); another program may listen on \(setup.listen)"
            )
        }
        state.withLock { state in
            state.setup = setup
            state.process = identity
            state.isStopping = false
            state.starts.append(Machine.unixTime)
        }
        OSThread.start(name: "serve-watch") { [self] in
            let end = child.wait()
            let again = state.withLock { state -> Bool in
                guard state.process == identity else { return false }
                state.process = nil
                let now = Machine.unixTime
                state.starts.removeAll { $0 < now - 60 }
                return !state.isStopping && state.starts.count < 4
            }
            logger.warning("coord-serve ended: \(end)")
            if again { resume() }
        }
    }
}
