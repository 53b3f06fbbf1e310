internal import Basics
internal import Dispatch
internal import Logging
internal import Synchronization
internal import Wire

/// Carries out what a ``LeaseMachine`` decides: looks at what goes on, ends the agent, stops the host.
///
/// The terms lie in `terms.json` (mode 0600: the command may hold a token), so that they hold in the next agent too.
final class LeaseKeeper: Sendable {
    /// What is looked at.
    struct Sources: Sendable {
        /// The trainers' processes.
        var trainers: @Sendable () -> [Int32]
        var isServing: @Sendable () -> Bool
        var unsaved: @Sendable () -> Int
    }

    private struct State {
        var machine: LeaseMachine
        var failure: String?
        /// CPU time of each trainer at the last look; unit: clock ticks.
        var ticks: [Int32: UInt64] = [:]
        var looked: SuspendingClock.Instant
    }

    /// Less of one CPU than this share and a trainer only waits.
    private static let waiting = 0.01
    /// Clock ticks a second of `/proc/PID/stat`.
    private static let tickRate = 100.0

    private let directory: AgentDirectory
    private let sources: Sources
    private let logger: Logger
    private let state: Mutex<State>
    private let wake = DispatchSemaphore(value: 0)

    init(directory: AgentDirectory, sources: Sources, logger: Logger) {
        self.directory = directory
        self.sources = sources
        self.logger = logger
        let kept = (try? Files.read(directory.terms)).flatMap {
            try? MessageCoding.decode(AgentTerms.self, from: $0)
        }
        let now = SuspendingClock.now
        state = Mutex(State(machine: LeaseMachine(terms: kept ?? .unsaid, now: now), looked: now))
    }

    /// Looks again and again, on a thread of its own.
    ///
    /// - Parameter end: ends the agent.
    func start(end: @escaping @Sendable (String) -> Void) {
        OSThread.start(name: "lease") { [self] in
            while true {
                _ = wake.wait(timeout: .now() + interval)
                switch look() {
                case .end(let reason): end(reason)
                case .stop(let reason): _ = stop(because: reason)
                case nil: break
                }
            }
        }
    }

    // MARK: Events

    /// - Throws: ``FileError`` when the terms can't be kept: then nothing may begin that relies on them.
    func agree(_ terms: AgentTerms) throws {
        try Files.writeAtomically(MessageCoding.encode(terms), to: directory.terms, mode: 0o600)
        state.withLock { state in
            if terms != state.machine.terms { state.failure = StopCommand.doubt(about: terms.stop) }
            state.machine.agreed(terms, at: .now)
        }
        wake.signal()
    }

    func contacted() { state.withLock { $0.machine.contacted(at: .now) } }

    /// - Throws: ``AgentError`` while the stop command runs: what begins now would be cut off.
    func used() throws {
        try state.withLock { state in
            guard !state.machine.isStopping else {
                throw AgentError(
                    "this host is being stopped",
                    hint: "start it again, then coord up",
                    exitCode: .locked
                )
            }
            state.machine.used(at: .now)
        }
    }

    /// Runs the stop command because somebody asked for it; again and again while it fails.
    ///
    /// - Returns: how it went; nil when there is none.
    func stopOnDemand() -> StopResult? {
        guard state.withLock({ $0.machine.demandStop() }) else { return nil }
        return stop(because: "coord down")
    }

    /// A snapshot for people.
    func status() -> LeaseStatus {
        _ = look(decides: false)
        return state.withLock { state in
            var status = state.machine.status(at: .now)
            status.stopFailure = state.failure
            return status
        }
    }

    // MARK: Looking

    /// Often enough for the shortest of the times.
    private var interval: DispatchTimeInterval {
        let terms = state.withLock { $0.machine.terms }
        let shortest = terms.stop == nil ? terms.lease : terms.idleStop
        return .milliseconds(Int(min(5, max(0.2, shortest / 10)) * 1000))
    }

    private func look(decides: Bool = true) -> LeaseMachine.Action? {
        let trainers = sources.trainers()
        var facts = LeaseMachine.Facts()
        facts.isTraining = !trainers.isEmpty
        facts.isServing = sources.isServing()
        facts.unsaved = sources.unsaved()
        return state.withLock { state in
            let now = SuspendingClock.now
            let elapsed = (now - state.looked) / .seconds(1)
            guard decides else {
                // Too short a time to measure: whoever lives is taken to be as busy as before.
                facts.isWorking = state.machine.isWorking && facts.isTraining
                state.machine.look(facts)
                return nil
            }
            let ticks = Dictionary(uniqueKeysWithValues: trainers.map { ($0, ProcessTable.cpuTicks($0)) })
            facts.isWorking = ticks.contains { pid, used in
                guard let before = state.ticks[pid] else { return true }
                return Double(used &- min(before, used)) >= Self.waiting * Self.tickRate * elapsed
            }
            state.ticks = ticks
            state.looked = now
            return state.machine.tick(facts, at: now)
        }
    }

    // MARK: Stopping

    private func stop(because reason: String) -> StopResult {
        guard let command = state.withLock({ $0.machine.terms.stop }) else {
            return StopResult(isSuccess: false, text: "there is no stop command")
        }
        logger.notice("stopping this host: \(reason)")
        let result = StopCommand.run(command, log: directory.stopLog)
        state.withLock { state in
            state.machine.stopEnded(isSuccess: result.isSuccess, at: .now)
            state.failure = result.isSuccess ? nil : result.text
        }
        if result.isSuccess {
            logger.notice("the stop command said yes: \(result.text)")
        } else {
            logger.error("the stop command failed, it is tried again: \(result.text)")
        }
        return result
    }
}
