internal import Basics
internal import Dispatch
internal import Logging
internal import Synchronization
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Starts trainers, passes commands to them and keeps what they report.
final class RunSupervisor: Sendable {
    struct Trainer {
        var start: TrainerStart
        var channel: FrameChannel
        var pid: Int32?
        var address: String?
        var isFinished = false
        /// One that joined has caught up.
        var hasState = false
        /// We killed it: nobody else did.
        var isExpelled = false
        var end: ProcessEnd?
        /// What it was told or said it would open: should it end, its last words.
        var generations: [GenerationView] = []
    }

    struct Run {
        var spool: EventSpool
        var trainers: [Int: Trainer] = [:]
        var generation: GenerationPlan?
        /// The last plan that came from a coordinator, as trainers here see it.
        var announced: GenerationPlan?
    }

    struct State {
        var runs: [RunID: Run] = [:]
        var listeners: [Int: DispatchSemaphore] = [:]
        var nextListener = 0
        /// When a coordinator said something last.
        var heard = ContinuousClock.now
        var isCoordinated = true
    }

    private let directory: AgentDirectory
    private let ledger: CheckpointLedger
    let logger: Logger
    private let memory = MemoryWatch()
    let state: Mutex<State>
    /// Children die with the thread that started them, so one thread starts all and lives as long as the agent.
    private let spawner = Mailbox<@Sendable () -> Void>()

    /// A coordinator that says nothing for so long is away, whatever its connections look like; it asks each 10 s.
    static let coordinatorPatience = Duration.seconds(25)
    /// When the others are told of an end, while no coordinator does it; unit: seconds.
    static let newsOfEnd = [0.0, 1, 3, 8, 20]

    /// What the kernel takes first when memory runs out: a trainer is the one thing here that can be lost.
    private static let memoryPriority = 800

    init(directory: AgentDirectory, ledger: CheckpointLedger, logger: Logger) throws {
        self.directory = directory
        self.ledger = ledger
        self.logger = logger
        var state = State()
        for name in (try? Files.list(directory.runs)) ?? [] {
            guard let id = RunID(name) else { continue }
            state.runs[id] = Run(spool: try EventSpool(directory: directory.run(id)))
        }
        self.state = Mutex(state)
        let spawner = self.spawner
        OSThread.start(name: "spawner") {
            while true { spawner.take()() }
        }
        OSThread.start(name: "presence") { [weak self] in
            let never = DispatchSemaphore(value: 0)
            while let supervisor = self {
                supervisor.lookForCoordinator()
                _ = never.wait(timeout: .now() + 2)
            }
        }
    }

    // MARK: Commands

    /// Starts a trainer process.
    func train(_ start: TrainerStart) throws {
        let folder = directory.run(start.run)
        try Files.createDirectory(folder, mode: 0o700)
        try state.withLock { state in
            if state.runs[start.run] == nil {
                state.runs[start.run] = Run(spool: try EventSpool(directory: folder))
            }
            if let old = state.runs[start.run]?.trainers[start.member], old.end == nil,
                let pid = old.pid, ProcessIdentity(pid: pid) != nil
            {
                throw AgentError("member \(start.member) of run \(start.run) already runs", exitCode: .locked)
            }
        }
        let (ours, theirs) = try UnixSocket.pair()
        let logPath = folder + "/trainer-\(start.member).log"
        let log = open(logPath, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard log >= 0 else { throw FileError(.write, logPath, errno: errno) }
        defer {
            close(log)
            close(theirs)
        }
        let child = try spawn(
            [Machine.executable, "train", "--directory", directory.root],
            environment: Self.environment(for: start.record.kernels),
            files: [-1, log, log, theirs],
            memoryPriority: Self.memoryPriority
        )
        let channel = FrameChannel(socket: ours)
        state.withLock {
            $0.runs[start.run]?.trainers[start.member] = Trainer(
                start: start,
                channel: channel,
                pid: child.pid
            )
        }
        logger.info("started trainer", metadata: ["run": "\(start.run)", "pid": "\(child.pid)"])
        try channel.send(TrainerCommand.start(start))
        OSThread.start(name: "trainer-\(start.member)") { [self] in
            readReports(of: start, from: channel)
            channel.close()
            ended(start, child.wait())
        }
    }

    /// OpenBLAS chooses its kernels before main: the variable must be there at exec.
    private static func environment(for kernels: KernelSet) -> [String] {
        Machine.environment.filter { !$0.hasPrefix("OPENBLAS_") }
            + ["OPENBLAS_CORETYPE=\(kernels.openBLASCoreType)", "OPENBLAS_NUM_THREADS=1"]
    }

    /// Tries two steps of a run in a process of their own.
    ///
    /// - Throws: ``AgentError`` with the end of what the process printed when it did not get that far.
    func preflight(_ start: TrainerStart) throws -> PreflightReport {
        let (ours, theirs) = try UnixSocket.pair()
        let logPath = directory.root + "/preflight.log"
        let log = open(logPath, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard log >= 0 else { throw FileError(.write, logPath, errno: errno) }
        let child: ChildProcess
        do {
            defer {
                close(log)
                close(theirs)
            }
            child = try spawn(
                [Machine.executable, "preflight", "--directory", directory.root],
                environment: Self.environment(for: start.record.kernels),
                files: [-1, log, log, theirs],
                memoryPriority: Self.memoryPriority
            )
        }
        defer { _ = child.wait() }
        let channel = FrameChannel(socket: ours)
        do {
            try channel.send(TrainerCommand.start(start))
            if let frame = try channel.receive(timeoutMilliseconds: 120_000) {
                return try MessageCoding.decode(PreflightReport.self, from: frame.payload)
            }
        } catch {
            // Said below, with what the process has to say about it.
            child.signal(SIGKILL)
        }
        let said = (try? Files.readText(logPath))?.split(separator: "\n").first.map(String.init)
        throw AgentError("two steps could not be tried: \(said ?? "it took more than two minutes")")
    }

    /// Starts a child from the thread that never ends.
    ///
    /// - Parameter memoryPriority: how soon the kernel takes it when memory runs out, 0 to 1000.
    func spawn(
        _ arguments: [String],
        environment: [String],
        files: [Int32],
        memoryPriority: Int
    ) throws -> ChildProcess {
        let result = Mailbox<Result<ChildProcess, any Error>>()
        let environment =
            environment.filter { !$0.hasPrefix(ProcessTable.marker + "=") }
            + ["\(ProcessTable.marker)=\(Files.resolved(directory.root))"]
        spawner.put {
            result.put(
                Result {
                    try ChildProcess(
                        arguments,
                        environment: environment,
                        files: files,
                        startsSession: true,
                        diesWithParent: true
                    )
                }
            )
        }
        let child = try result.take().get()
        // What it starts itself is of the same rank.
        ProcessTable.setMemoryPriority(child.pid, memoryPriority)
        return child
    }

    /// The trainers' processes that live.
    var processes: [Int32] {
        memory.look()
        return state.withLock { state in
            state.runs.values.flatMap(\.trainers.values).filter { $0.end == nil }.compactMap(\.pid)
        }
    }

    /// The last event of each run.
    var lastEvents: [RunID: Int] { state.withLock { $0.runs.mapValues(\.spool.last) } }

    /// Passes a new generation to the run's trainers here.
    ///
    /// - Parameter seen: the same with the addresses that trainers on this host dial.
    func announce(_ plan: GenerationPlan, seen: GenerationPlan) {
        let channels = state.withLock { state -> [FrameChannel] in
            guard state.runs[plan.run] != nil else { return [] }
            if plan.number >= state.runs[plan.run]?.generation?.number ?? 0
                || plan.attempt != state.runs[plan.run]?.generation?.attempt
            {
                state.runs[plan.run]?.generation = plan
            }
            if !seen.secret.bytes.isEmpty { state.runs[plan.run]?.announced = seen }
            let members = Set(plan.members.map(\.member))
            let told = (state.runs[plan.run]?.trainers ?? [:]).values
                .filter {
                    members.contains($0.start.member) && $0.end == nil && $0.start.attempt == plan.attempt
                }
            for trainer in told {
                state.runs[plan.run]?.trainers[trainer.start.member]?.generations.append(plan.view)
            }
            return told.map(\.channel)
        }
        // A trainer that just died can't be told; its end is reported by itself.
        for channel in channels { try? channel.send(TrainerCommand.generation(seen)) }
    }

    /// Passes one trainer what it waits for.
    func tell(run: RunID, member: Int, _ command: TrainerCommand) {
        let trainer = state.withLock { $0.runs[run]?.trainers[member] }
        // A trainer that just died can't be told; its end is reported by itself.
        if let trainer, trainer.end == nil { try? trainer.channel.send(command) }
    }

    /// Kills one trainer.
    func expel(run: RunID, member: Int) {
        state.withLock { state in
            if let trainer = state.runs[run]?.trainers[member], trainer.end == nil, let pid = trainer.pid {
                state.runs[run]?.trainers[member]?.isExpelled = true
                kill(pid, SIGKILL)
            }
        }
    }

    /// Ends the run's trainers here: asked first, killed after two seconds.
    func endRun(_ run: RunID) {
        let trainers = state.withLock { $0.runs[run].map { Array($0.trainers.values) } ?? [] }
        for trainer in trainers where trainer.end == nil { try? trainer.channel.send(TrainerCommand.stop) }
        for trainer in trainers where trainer.end == nil {
            guard let pid = trainer.pid, let process = ProcessIdentity(pid: pid) else { continue }
            if !process.waitForEnd(milliseconds: 2000) { expel(run: run, member: trainer.start.member) }
        }
    }

    /// Ends all trainers.
    func endAll() {
        for run in state.withLock({ Array($0.runs.keys) }) { endRun(run) }
    }

    // MARK: What is known

    /// Where a trainer of this agent listens; nil when it does not, or is not ours.
    func address(of member: Int, in run: RunID) -> String? {
        state.withLock { state in
            guard let trainer = state.runs[run]?.trainers[member], trainer.end == nil else { return nil }
            return trainer.address
        }
    }

    func status() -> (trainers: [AgentStatus.Trainer], generations: [GenerationPlan]) {
        state.withLock { state in
            let trainers = state.runs.sorted { $0.key < $1.key }.flatMap { run, value in
                value.trainers.sorted { $0.key < $1.key }.map { member, trainer in
                    AgentStatus.Trainer(
                        run: run,
                        attempt: trainer.start.attempt,
                        member: member,
                        pid: trainer.end == nil ? trainer.pid : nil,
                        address: trainer.address,
                        isFinished: trainer.isFinished,
                        end: trainer.end,
                        joins: trainer.start.joins && !trainer.hasState
                    )
                }
            }
            return (trainers, state.runs.values.compactMap(\.generation))
        }
    }

    /// Sends events to `channel` until it closes: those behind `cursors`, then new ones.
    ///
    /// The other side says from time to time what it has kept; that need not be kept here any longer.
    func follow(_ cursors: [RunID: Int], on channel: FrameChannel) {
        let wake = DispatchSemaphore(value: 0)
        wake.signal()  // what is there already goes out first
        let number = state.withLock { state in
            state.nextListener += 1
            state.listeners[state.nextListener] = wake
            return state.nextListener
        }
        lookForCoordinator(isHeard: true)
        defer { lookForCoordinator() }  // after the listener is gone: deferred code runs last
        let closed = ClosedFlag()
        forget(cursors)
        OSThread.start(name: "follow-end") { [self] in
            while let frame = try? channel.receive() {
                if case .events(let kept) = try? MessageCoding.decode(AgentRequest.self, from: frame.payload)
                {
                    forget(kept)
                }
            }
            closed.flag.store(true, ordering: .releasing)
            wake.signal()
        }
        var cursors = cursors
        while !closed.flag.load(ordering: .acquiring) {
            wake.wait()
            do {
                let spools = state.withLock { $0.runs.mapValues(\.spool) }
                for (run, spool) in spools {
                    while true {
                        let events = try spool.read(after: cursors[run, default: 0], limit: 200)
                        for event in events { try channel.send(event) }
                        guard let last = events.last else { break }
                        cursors[run] = last.sequence
                    }
                }
            } catch {
                break
            }
        }
        channel.close()
        _ = state.withLock { $0.listeners.removeValue(forKey: number) }
    }

    private func forget(_ cursors: [RunID: Int]) {
        let spools = state.withLock { $0.runs.mapValues(\.spool) }
        for (run, sequence) in cursors {
            do {
                try spools[run]?.forget(through: sequence)
            } catch {
                logger.warning("cannot drop events that are known: \(error)", metadata: ["run": "\(run)"])
            }
        }
    }

    /// A flag that two threads share.
    private final class ClosedFlag: Sendable {
        let flag = Atomic<Bool>(false)
    }

    // MARK: Reports

    private func readReports(of start: TrainerStart, from channel: FrameChannel) {
        do {
            while let frame = try channel.receive() {
                record(start, try MessageCoding.decode(TrainerReport.self, from: frame.payload))
            }
        } catch {
            logger.warning("trainer's channel broke: \(error)", metadata: ["run": "\(start.run)"])
        }
    }

    private func ended(_ start: TrainerStart, _ exit: ProcessExit) {
        let isExpelled = state.withLock {
            $0.runs[start.run]?.trainers[start.member]?.isExpelled ?? false
        }
        let end = ProcessEnd(exit, cause: exit == .signalled(SIGKILL) && !isExpelled ? memory.cause() : nil)
        state.withLock { state in
            guard state.runs[start.run]?.trainers[start.member]?.start == start else { return }
            state.runs[start.run]?.trainers[start.member]?.end = end
        }
        logger.info("trainer ended: \(end)", metadata: ["run": "\(start.run)", "rank": "\(start.member)"])
        record(start, .exited(end))
        tellOthers(start)
    }

    private func record(_ start: TrainerStart, _ report: TrainerReport) {
        let (spool, listeners) = state.withLock { state -> (EventSpool?, [DispatchSemaphore]) in
            switch report {
            case .listening(let address, _, _):
                state.runs[start.run]?.trainers[start.member]?.address = address
            case .finished: state.runs[start.run]?.trainers[start.member]?.isFinished = true
            case .caughtUp: state.runs[start.run]?.trainers[start.member]?.hasState = true
            case .accepted(let plan, _):
                state.runs[start.run]?.trainers[start.member]?.generations.append(plan.view)
                if plan.number > state.runs[start.run]?.generation?.number ?? 0 {
                    state.runs[start.run]?.generation = plan
                }
            default: break
            }
            return (state.runs[start.run]?.spool, Array(state.listeners.values))
        }
        do {
            // Before the event is out: whoever has the checkpoint says so after it was noted here.
            if case .checkpoint(let manifest, _, _, _) = report { try ledger.made(manifest) }
        } catch {
            logger.error("cannot note a checkpoint: \(error)", metadata: ["run": "\(start.run)"])
        }
        do {
            let wasFull = spool?.isFull ?? false
            _ = try spool?.append(
                run: start.run,
                attempt: start.attempt,
                member: start.member,
                report: report,
                time: Machine.unixTime
            )
            if let isFull = spool?.isFull, isFull != wasFull {
                logger.warning(
                    isFull
                        ? "no space for events: they are kept in memory" : "there is space for events again",
                    metadata: ["run": "\(start.run)"]
                )
            }
        } catch {
            // The trainers go on; what can't be kept can't be told later.
            logger.error("cannot keep an event: \(error)", metadata: ["run": "\(start.run)"])
        }
        for listener in listeners { listener.signal() }
    }
}
