internal import Basics
internal import Logging
internal import Registry
internal import Wire

// What the trainers report: kept once, told to those who follow, decided by the run machine.
extension Coordinator {
    /// So many events go into one transaction, at most.
    static let mostTogether = 256

    /// Applies events exactly once, whatever was killed in between, and decides what follows.
    ///
    /// In one transaction, so that the news of a loss does not wait for a disk once for each line before it. At most the
    /// last of them is one that ``Succession`` heeds: what follows from an earlier one must not be kept before it is heard.
    func received(_ events: [(event: AgentEvent, host: String)]) {
        let new: [(event: AgentEvent, host: String)]
        do {
            new = try registry.write { transaction in
                try events.filter { event, host in
                    let sequence = Int64(event.sequence)
                    guard try transaction.advance(host: host, run: event.run, through: sequence) else {
                        return false
                    }
                    try keep(event, from: host, in: transaction)
                    return true
                }
            }
        } catch {
            // Going on would leave them out for ever; the next coordinator asks for them again.
            let words = events.map { "\($0.event.sequence) of \($0.event.run) from \($0.host)" }
            logger.critical("events \(words.joined(separator: ", ")) could not be kept: \(error)")
            ThisProcess.end(.cannotWrite)
        }
        for (event, host) in new { received(event, from: host) }
    }

    /// Decides what follows from an event that is kept.
    private func received(_ event: AgentEvent, from host: String) {
        if case .checkpoint(let manifest, _, _, _) = event.report {
            bringHome(manifest, of: event.run, from: host)
        }
        defer { if let active, active.isRecovered, active.machine == nil { takeUp() } }
        guard active?.id == event.run, active?.attempt == event.attempt else { return }
        if active?.machine == nil { active?.early.append(event) }
        follow(event, from: host)
        missTrainers(on: host)
    }

    /// What the registry keeps of an event.
    private func keep(_ event: AgentEvent, from host: String, in transaction: RegistryTransaction) throws {
        let run = event.run
        guard try transaction.run(run) != nil else { return }
        if active?.id == run, active?.attempt == event.attempt {
            // In one transaction with the event: whoever comes after us is not told it again.
            var succession = active?.machine?.succession ?? active?.succession ?? Succession()
            succession.note(event.report, of: event.member)
            try keep(succession, of: run, attempt: event.attempt, in: transaction)
        }
        switch event.report {
        case .steps(let steps):
            try transaction.put(
                steps.map {
                    StepMetrics(
                        run: run,
                        step: $0.step,
                        epoch: $0.epoch,
                        loss: $0.loss,
                        accuracy: $0.accuracy,
                        learningRate: $0.learningRate,
                        samples: $0.samples,
                        seconds: $0.seconds,
                        times: $0.times,
                        time: event.time
                    )
                }
            )
            if let last = steps.last {
                try transaction.updateRun(run) { $0.steps = max($0.steps, last.step) }
            }
        case .epoch(let epoch):
            try transaction.put(
                EpochMetrics(
                    run: run,
                    epoch: epoch.epoch,
                    step: epoch.step,
                    trainLoss: epoch.trainLoss,
                    trainAccuracy: epoch.trainAccuracy,
                    valLoss: epoch.valLoss,
                    valAccuracy: epoch.valAccuracy,
                    time: event.time
                )
            )
            try transaction.updateRun(run) { row in
                row.epoch = max(row.epoch, epoch.epoch)
                row.steps = max(row.steps, epoch.step)
            }
        case .worked(let steps, let lanes):
            try transaction.put(
                RunWorkerRow(
                    run: run,
                    rank: event.member,
                    host: host,
                    lanes: lanes,
                    stepsComputed: steps,
                    state: "working"
                )
            )
        case .checkpoint(let manifest, let weights, let size, let metric):
            try transaction.put(
                CheckpointRow(
                    manifest: manifest,
                    run: run,
                    epoch: metric.epoch,
                    step: metric.step,
                    metrics: CheckpointMetrics(
                        valAccuracy: metric.valAccuracy,
                        valLoss: metric.valLoss,
                        trainLoss: metric.trainLoss
                    ),
                    weights: weights,
                    size: ByteCount(size),
                    created: event.time,
                    hosts: [host]
                )
            )
        case .checkpointFailed(let epoch, let message):
            try transaction.log(
                "checkpoint",
                "epoch \(epoch) not kept: \(message)",
                who: host,
                run: run,
                host: host,
                time: event.time
            )
        case .finished(_, let bytes):
            try transaction.log(
                "exchange",
                "member \(event.member) sent \(bytes) bytes over its links",
                who: host,
                run: run,
                host: host,
                time: event.time
            )
        case .peerLost(_, let member, let isSilent, let reason):
            let who = member.map { "member \($0)" } ?? "a member"
            try transaction.log(
                "membership",
                "\(who) \(isSilent ? "is silent" : "is gone"): \(reason)",
                who: host,
                run: run,
                host: host,
                time: event.time
            )
        case .failed(let message, _):
            try transaction.log("trainer", message, who: host, run: run, host: host, time: event.time)
        case .exited(let end):
            try transaction.log(
                "trainer",
                "trainer \(event.member) ended: \(end)",
                who: host,
                run: run,
                host: host,
                time: event.time
            )
        case .parked(let reason):
            try transaction.log("membership", reason, who: host, run: run, host: host, time: event.time)
        case .refused(let generation, _, _, let reason):
            let words = "member \(event.member) does not open generation \(generation): \(reason)"
            try transaction.log("membership", words, who: host, run: run, host: host, time: event.time)
        case .accepted(let plan, let reason):
            // Each member reports it; the run may be over before a coordinator hears of it.
            let reason = "made by the workers: \(reason)"
            try keep(plan, reason: reason, mayBeKept: true, at: event.time, in: transaction)
        case .memory, .peakMemory, .spike:
            guard let (kind, message) = RunWatch.words(event.report, member: event.member, host: host) else {
                return
            }
            try transaction.log(kind, message, who: host, run: run, host: host, time: event.time)
        case .listening, .joined, .pace, .late, .standing, .state, .caughtUp, .opening, .confirmed: break
        }
    }

    /// What the run makes of an event.
    func follow(_ event: AgentEvent, from host: String) {
        guard let active else { return }
        defer { drillHears(event.report, of: event.member) }
        switch event.report {
        case .listening(let address, _, _): feed(.listening(member: event.member, address: address))
        case .peerLost(let generation, let member, let isSilent, let reason):
            feed(
                .peerLost(
                    reporter: event.member,
                    generation: generation,
                    member: member,
                    isSilent: isSilent,
                    reason: reason
                )
            )
        case .steps(let steps):
            self.active?.add(steps)
            if let last = steps.last, let active = self.active {
                tell(
                    active.id,
                    .step(
                        run: active.id,
                        metric: last,
                        totalSteps: active.totalSteps,
                        samplesPerSecond: active.samplesPerSecond,
                        secondsLeft: active.secondsLeft
                    )
                )
            }
        case .epoch(let epoch):
            guard epoch.epoch > active.lastEpoch?.epoch ?? 0 else { return }
            self.active?.lastEpoch = epoch
            let speed = active.samplesPerSecond
            write { try $0.updateRun(active.id) { $0.samplesPerSecond = speed } }
            advise()
            tell(active.id, .epoch(run: active.id, metric: epoch, epochs: active.record.spec.epochs))
        case .finished(let weights, _):
            self.active?.weights = weights
            feed(.finished(member: event.member))
        case .failed(let message, let hint): feed(.failed(member: event.member, message: message, hint: hint))
        case .exited(let end): feed(.exited(member: event.member, end: end))
        case .checkpointFailed(let epoch, let message):
            if active.mayBeLast(epoch) { self.active?.checkpointFailure = message }
            tell(active.id, .note("\(host): checkpoint of epoch \(epoch) was not kept: \(message)"))
        case .pace(let generation, let pace):
            feed(.pace(member: event.member, generation: generation, pace))
        case .late(let generation, let members, let milliseconds):
            let waited = Duration.milliseconds(milliseconds)
            feed(.late(reporter: event.member, generation: generation, members: members, waited))
        case .standing(let generation, let standing):
            for (member, host) in joining(in: generation) {
                hand(
                    .standing(run: active.id, member: member, generation: generation, standing),
                    to: host,
                    of: generation
                )
            }
        case .state(let generation, let manifest): supply(manifest, of: generation, from: host)
        case .caughtUp(let generation): feed(.caughtUp(member: event.member, generation: generation))
        case .accepted(let plan, let reason): feed(.accepted(plan, by: event.member, reason: reason))
        case .opening(let generation, let mark):
            feed(.opening(member: event.member, generation: generation, mark: mark))
        case .refused(let generation, let mark, let promised, _):
            feed(.refused(member: event.member, generation: generation, mark: mark, promised: promised))
        case .confirmed(let generation, let mark): feed(.confirmed(generation: generation, mark: mark))
        case .parked(let reason): tell(active.id, .note("\(host): \(reason)"))
        case .spike:
            if let (_, message) = RunWatch.words(event.report, member: event.member, host: host) {
                tell(active.id, .note(message))
            }
        case .joined, .worked, .checkpoint, .memory, .peakMemory: break
        }
    }

    /// Says once what could help when the run learns its training samples by heart.
    ///
    /// - Parameter isLast: no later epoch will do.
    func advise(isLast: Bool = false) {
        let begin = ContinuousClock.now
        guard let active, !active.isAdvised, isLast || adviceThrift.wait(at: begin) == nil else { return }
        defer { adviceThrift.spent(from: begin, to: .now) }
        let epochs = read { try $0.epochs(of: active.id) }
        guard let advice = RunWatch.advice(on: epochs, spec: active.record.spec) else { return }
        self.active?.isAdvised = true
        // A coordinator that was started again has not said it yet, the one before has.
        guard read({ try $0.events(EventFilter(kinds: ["watch.overfitting"], run: active.id)) }).isEmpty
        else { return }
        log("watch.overfitting", advice, run: active.id)
        tell(active.id, .note(advice))
    }

    /// Gives the machine an event and does what it says.
    func feed(_ event: RunMachine.Event) {
        guard var machine = active?.machine else { return }
        let actions = machine.handle(event, now: .now)
        active?.machine = machine
        if let active, active.succession.kept(attempt: 0) != machine.succession.kept(attempt: 0) {
            write { try keep(machine.succession, of: active.id, attempt: active.attempt, in: $0) }
        }
        for action in actions { perform(action) }
        if let deadline = machine.deadline {
            timers.append((deadline, { $0.feed(.tick) }))
        }
    }

    /// Keeps what the next generation must reckon with, where that changed, before anybody acts on it.
    private func keep(
        _ succession: Succession,
        of run: RunID,
        attempt: Int,
        in transaction: RegistryTransaction
    ) throws {
        let kept = succession.kept(attempt: attempt)
        guard active?.succession.kept(attempt: attempt) != kept else { return }
        try transaction.put(succession: kept, of: run)
        active?.succession = succession
    }

    func perform(_ action: RunMachine.Action) {
        guard let active else { return }
        switch action {
        case .announce(let plan, let reason): announce(plan, reason: reason)
        case .adopt(let plan, let reason):
            announce(plan, reason: "made by the workers: \(reason)", mayBeKept: true)
        case .park(let reason):
            log("membership", "waits: \(reason)", run: active.id)
            tell(active.id, .note("waits: \(reason)"))
        case .expel(let member, let reason):
            guard let host = active.machine?.members[member]?.host else { return }
            log("membership", "expelled member \(member): \(reason)", run: active.id, host: host)
            hosts[host]?.session.perform(
                { try $0.call(.expel(run: active.id, member: member)) },
                failed: { _ in }
            )
        case .start(let host): startAgain(on: host)
        case .note(let words):
            log("membership", words, run: active.id)
            tell(active.id, .note(words))
        case .finish:
            self.active?.isFinishing = true
            finishIfComplete()
        case .interrupt(let reason): restart(because: reason)
        case .fail(let message, let hint): fail(active.id, message, hint)
        }
    }

    /// Keeps a generation and says so.
    ///
    /// - Parameter mayBeKept: somebody may have told of it before; then nothing is said.
    private func keep(
        _ plan: GenerationPlan,
        reason: String,
        mayBeKept: Bool,
        at time: Double,
        in transaction: RegistryTransaction
    ) throws {
        let members = plan.members.map { GenerationMember(rank: $0.member, host: $0.host, lanes: $0.lanes) }
        let known = try transaction.generations(of: plan.run).first { $0.number == plan.number }
        guard !mayBeKept || known?.members != members || known?.reason != reason else { return }
        try transaction.put(
            GenerationRow(run: plan.run, number: plan.number, members: members, reason: reason, time: time)
        )
        try transaction.log(
            "membership",
            "generation \(plan.number): \(reason)",
            who: "coordinator",
            run: plan.run,
            host: nil,
            time: time
        )
    }

    private func announce(_ plan: GenerationPlan, reason: String, mayBeKept: Bool = false) {
        write { transaction in
            try keep(plan, reason: reason, mayBeKept: mayBeKept, at: now, in: transaction)
            try transaction.updateRun(plan.run) { row in
                row.state = .running
                if row.started == nil { row.started = now }
            }
        }
        drillSees(plan, reason)
        let sumHosts = plan.sumHosts
        if !sumHosts.isEmpty, active?.plan?.sumHosts != sumHosts {
            let places = sumHosts.joined(separator: ", ")
            log(
                "route",
                "gradients are added up on \(places): others meet only over a third host",
                run: plan.run
            )
        }
        active?.plan = plan
        for host in active?.hosts ?? [] {
            hosts[host]?.session.perform({ try $0.call(.generation(plan)) }, failed: { _ in })
        }
        tell(plan.run, .generation(run: plan.run, number: plan.number, members: plan.members, reason: reason))
    }
}
