internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Logging
internal import Registry
internal import Remote
internal import Synchronization
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// The coordinator: what the user asked for on one side, what the hosts report on the other.
///
/// One thread owns it and takes one message after another; whatever blocks (a host, a transfer, a large read) runs on
/// other threads and comes back as a message. What it knows lies in the registry: it may be killed at any moment.
final class Coordinator {
    /// What other threads tell.
    enum Message: Sendable {
        case control(ControlRequest, ControlPeer)
        /// What happened to a host, told by its session with that number.
        case host(String, session: Int, HostSession.News)
        /// Work on another thread is done; carries on here.
        case resume(@Sendable (Coordinator) -> Void)
    }

    /// A checkpoint on its way home.
    struct Pull {
        var run: RunID
        var then: [@Sendable (Coordinator, Bool) -> Void]
    }

    /// A host of the cluster file in force.
    struct HostEntry {
        var spec: HostSpec
        var session: HostSession
        var phase: HostPhase
        var facts: HostFacts?
        var status: AgentStatus?
        /// When `status` came.
        var heard = ContinuousClock.now
        /// True when trying again can't help: a key was refused, the folder can't be used.
        var isHopeless = false
        /// Tries to bring it up that have failed since it was ready.
        var failures = 0
    }

    private let lock: FileLock
    let workspace: Workspace
    let store: ChunkStore
    let registry: Registry
    let mailbox = Mailbox<Message>()
    let logger = Logger(label: "coordinator")
    var file: ClusterFile?
    var hosts: [String: HostEntry] = [:]
    var active: ActiveRun? { didSet { workspace.runWorker = active?.record.worker } }
    /// Passphrases that people have said, by the key's file; in memory only.
    var passphrases: [String: WireSecret] = [:]
    /// `coord up` that waits for hosts.
    var bringUps: [BringUp] = []
    /// Commands that follow a run.
    var followers: [(run: RunID, peer: ControlPeer)] = []
    /// When something wants to be done that nobody reports.
    var timers: [(at: ContinuousClock.Instant, body: (Coordinator) -> Void)] = []
    /// Chunks for several hosts, while anybody sends some.
    weak var currentShare: ChunkShare?
    /// Checkpoints on their way home, and who waits for each.
    var pulls: [Digest: Pull] = [:]
    /// The preflight under way.
    var preflight: Preflight?
    /// Where relayed links of the hosts meet on this machine; made when hosts need it.
    var hub: RelayHub?
    /// How the run's hosts reach each other, as it was found out last.
    var routes: [FoundRoute] = []
    /// Hosts of relayed pairs to which a relay connection is being made, and how long to wait before the next try.
    var relaying: [String: Duration] = [:]
    /// The fault that a person asked for.
    var drill: Drill?
    /// How often checkpoints are weighed against each other, and the run for which they are to be.
    var policyThrift = Thrift()
    var policyDueFor: RunID?
    /// How often all epochs are looked at for advice.
    var adviceThrift = Thrift()
    /// Hosts with a release under way.
    var releasing: Set<String> = []
    /// The account's pods, as they were last.
    var pods: PodWatch

    /// - Parameters:
    ///   - lock: held until the process ends, however it ends.
    ///   - podInterval: how often the account of rented pods is looked at.
    init(workspace: Workspace, lock: consuming FileLock, podInterval: Duration = .seconds(60)) throws {
        self.lock = lock
        pods = PodWatch(interval: podInterval)
        self.workspace = workspace
        store = try workspace.openStore()
        registry = try Registry(path: workspace.registryPath, access: .readWrite)
    }

    // MARK: The loop

    /// Takes messages for ever.
    func run() -> Never {
        recover()
        beat()
        watchPods()
        while true {
            let next = timers.map(\.at).min()
            if let next {
                let wait = max(0, (next - .now) / .milliseconds(1))
                if let message = mailbox.take(milliseconds: Int(wait.rounded(.up))) { handle(message) }
            } else {
                handle(mailbox.take())
            }
            let due = timers.filter { $0.at <= .now }
            timers.removeAll { $0.at <= .now }
            for timer in due { timer.body(self) }
        }
    }

    private func handle(_ message: Message) {
        switch message {
        case .control(let request, let peer): received(request, from: peer)
        case .host(let name, _, .event(let event)) where hears(message):
            received([(event, name)] + eventsBehind(event))
        case .host(let name, _, let news): if hears(message) { received(news, from: name) }
        case .resume(let body): body(self)
        }
    }

    /// A session that was replaced has nothing to say any more.
    private func hears(_ message: Message) -> Bool {
        if case .host(let name, let session, _) = message {
            hosts[name]?.session.number == session
        } else {
            true
        }
    }

    /// The events that have come right behind one, up to the first that decides who may go on.
    private func eventsBehind(_ first: AgentEvent) -> [(event: AgentEvent, host: String)] {
        var isOver = Succession.heeds(first.report)
        let messages = mailbox.take(atMost: Self.mostTogether) { message in
            guard !isOver, hears(message), case .host(_, _, .event(let event)) = message else { return false }
            isOver = Succession.heeds(event.report)
            return true
        }
        return messages.compactMap { message in
            if case .host(let name, _, .event(let event)) = message { (event, name) } else { nil }
        }
    }

    /// Does something later on this thread.
    func after(_ delay: Duration, _ body: @escaping (Coordinator) -> Void) {
        timers.append((.now + delay, body))
    }

    /// Does something that blocks on a thread of its own, and carries on here with what came of it.
    func away<Value: Sendable>(
        _ name: String,
        _ work: @escaping @Sendable () throws -> Value,
        then: @escaping @Sendable (Coordinator, Result<Value, any Error>) -> Void
    ) {
        OSThread.start(name: name) { [mailbox] in
            let result = Result { try work() }
            mailbox.put(.resume { then($0, result) })
        }
    }

    // MARK: Memory

    var now: Double { Machine.unixTime }

    /// Writes to the registry; a registry that can't be written ends the coordinator, which loses nothing by it.
    @discardableResult
    func write<Value>(_ body: (RegistryTransaction) throws -> Value) -> Value {
        do {
            return try registry.write(body)
        } catch {
            logger.critical("the registry can't be written: \(error)")
            ThisProcess.end(.cannotWrite)
        }
    }

    /// Reads from the registry; see ``write(_:)``.
    func read<Value>(_ body: (RegistrySnapshot) throws -> Value) -> Value {
        do {
            return try registry.read(body)
        } catch {
            logger.critical("the registry can't be read: \(error)")
            ThisProcess.end(.cannotWrite)
        }
    }

    /// Keeps an event for `coord events`.
    func log(
        _ kind: String,
        _ message: String,
        who: String = "coordinator",
        run: RunID? = nil,
        host: String? = nil
    ) {
        logger.info("\(kind): \(message)")
        write { try $0.log(kind, message, who: who, run: run, host: host, time: now) }
    }

    /// Tells those who follow a run.
    func tell(_ run: RunID, _ event: ControlEvent) {
        for follower in followers where follower.run == run { follower.peer.send(event) }
    }

    /// Ends the commands that follow a run.
    func release(_ run: RunID, error: (any ExplainedError)? = nil) {
        for follower in followers where follower.run == run { follower.peer.finish(error) }
        followers.removeAll { $0.run == run }
    }

    /// Any error as one that can be told.
    func explained(_ error: any Error) -> any ExplainedError {
        error as? any ExplainedError ?? CoordinatorError("\(error)", exitCode: .bug)
    }
}

/// The program behind `coord`'s commands: started by `coord up`, detached, one for each workspace.
public enum CoordinatorProgram {
    /// Runs until `coord down` or a signal.
    ///
    /// - Parameter ready: a descriptor to write to when commands can connect.
    /// - Throws: ``FileError`` `.lock` when another coordinator lives; ``RegistryError``.
    public static func run(workspace: Workspace, ready: Int32?) throws -> Never {
        signal(SIGPIPE, SIG_IGN)
        // The workspace has read it: agents on this machine, and what they run, need not inherit it.
        unsetenv(PodAccount.keyVariable)
        let lock = try FileLock(workspace.lockPath)
        let coordinator = try Coordinator(
            workspace: workspace,
            lock: lock,
            podInterval: Machine.environment(podIntervalVariable).flatMap { Double($0) }.map {
                .seconds(min(86_400, max(0.1, $0)))
            } ?? .seconds(60)
        )
        let mailbox = coordinator.mailbox
        try ControlServer(workspace: workspace).start { request, peer in
            mailbox.put(.control(request, peer))
        }
        if let ready {
            write(ready, "r", 1)
            close(ready)
        }
        coordinator.run()
    }

    /// Names the environment variable with the seconds between two looks at the account of rented pods.
    private static let podIntervalVariable = "COORD_POD_INTERVAL"

    /// The workspace's coordinator, if one lives.
    public static func running(_ workspace: Workspace) -> CoordinatorClient? {
        try? CoordinatorClient(workspace)
    }

    /// Connects to the workspace's coordinator, and starts one when there is none.
    ///
    /// - Throws: ``CoordinatorError`` with the end of its log when it does not come up.
    public static func connect(_ workspace: Workspace) throws -> CoordinatorClient {
        if let client = try? CoordinatorClient(workspace) { return client }
        let log = open(workspace.logPath, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard log >= 0 else { throw FileError(.write, workspace.logPath, errno: errno) }
        defer { close(log) }
        var ready: [Int32] = [-1, -1]
        guard pipe(&ready) == 0 else { throw FileError(.write, "pipe", errno: errno) }
        defer { close(ready[0]) }
        do {
            defer { close(ready[1]) }
            _ = try ChildProcess(
                [Machine.executable, "coordinator", "--directory", workspace.directory],
                files: [-1, log, log, ready[1]],
                startsSession: true
            )
        }
        var byte: UInt8 = 0
        if Glibc.read(ready[0], &byte, 1) == 1 { return try CoordinatorClient(workspace) }
        // Another command started one at the same moment, or the last one is about to end.
        for _ in 0..<100 {
            if let client = try? CoordinatorClient(workspace) { return client }
            usleep(50_000)
        }
        let tail =
            (try? Files.readText(workspace.logPath))?.split(separator: "\n").last.map(String.init) ?? ""
        throw CoordinatorError("the coordinator did not start: \(tail)", hint: "look at \(workspace.logPath)")
    }
}
