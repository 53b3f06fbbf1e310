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

// Faults that a person asks for: the agent harms its own trainer, and nobody else's.
extension RunSupervisor {
    /// How a trainer that is slowed down gets half of the time; unit: milliseconds.
    private static let slice = 5

    /// Harms a trainer; returns once it is done or, for what lasts, has begun.
    ///
    /// - Throws: ``AgentError`` when there is no such trainer, or no more.
    func injure(run: RunID, member: Int, _ injury: Injury) throws {
        let trainer = state.withLock { $0.runs[run]?.trainers[member] }
        guard let trainer, trainer.end == nil, let pid = trainer.pid, let process = ProcessIdentity(pid: pid)
        else {
            throw AgentError(
                "worker \(member) of run \(run) does not run here",
                hint: "coord run show names the workers of a run"
            )
        }
        logger.notice("drill: \(injury.kind.rawValue)", metadata: ["run": "\(run)", "rank": "\(member)"])
        switch injury.kind {
        case .kill: process.signal(SIGKILL)
        case .stop:
            process.signal(SIGSTOP)
            during(injury.seconds, of: process) { process.signal(SIGCONT) }
        case .slow:
            let end = ContinuousClock.now + .seconds(injury.seconds)
            OSThread.start(name: "drill-slow") {
                let never = DispatchSemaphore(value: 0)
                while ContinuousClock.now < end, process.signal(SIGSTOP) {
                    _ = never.wait(timeout: .now() + .milliseconds(Self.slice))
                    process.signal(SIGCONT)
                    _ = never.wait(timeout: .now() + .milliseconds(Self.slice))
                }
            }
        case .partition, .corrupt: try trainer.channel.send(TrainerCommand.injure(injury))
        }
    }

    /// Does something when the time is over, unless the process has ended by then.
    private func during(_ seconds: Double, of process: ProcessIdentity, then: @escaping @Sendable () -> Void)
    {
        OSThread.start(name: "drill") {
            if !process.waitForEnd(milliseconds: Int32(min(seconds * 1000, 3_600_000))) { then() }
        }
    }
}

extension ProcessIdentity {
    /// Sends a signal to this very process; false when it has ended.
    @discardableResult
    fileprivate func signal(_ number: Int32) -> Bool { isAlive && kill(pid, number) == 0 }
}
