internal import Basics
internal import ClusterFile
internal import Registry
internal import Wire

// After a death, the coordinator's own or a host's: what went on meanwhile is taken up where it is.
extension Coordinator {
    /// Takes up the run that was on when the last coordinator ended.
    func recover() {
        for release in read({ try $0.releases() }) where !release.state.isFinal && release.state != .live {
            advance(release.id, to: .failed, reason: "the coordinator ended during the release")
        }
        guard let row = read({ try $0.activeRuns() }).last, let record = row.record,
            let file = try? ClusterFile.parse(text: row.fileText, path: workspace.directory + "/cluster.yaml")
        else { return }
        log("coordinator", "takes up run \(row.id) again", run: row.id)
        use(file, trust: HostTrust(UpRequest(fileText: row.fileText, path: "", who: "")))
        var run = ActiveRun(
            id: row.id,
            record: record,
            clusterFile: row.clusterFile ?? Digest(of: row.fileText),
            who: "an earlier coord up",
            attempt: row.attempt,
            hosts: Set(file.hosts.filter(\.trains).map(\.name)),
            stepsPerEpoch: 0
        )
        run.lastEpoch = read { try $0.latestEpoch(of: row.id) }.map {
            EpochMetric(
                epoch: $0.epoch,
                step: $0.step,
                trainLoss: $0.trainLoss ?? 0,
                trainAccuracy: $0.trainAccuracy ?? 0,
                valLoss: $0.valLoss ?? 0,
                valAccuracy: $0.valAccuracy ?? 0,
                seconds: 0
            )
        }
        let kept = read { try $0.succession(of: row.id, as: Succession.Kept.self) }
        if let kept, kept.attempt == row.attempt { run.succession.take(kept) }
        if let epoch = run.lastEpoch { run.stepsPerEpoch = epoch.step / max(1, epoch.epoch) }
        run.isRecovered = true
        active = run
        for entry in hosts.values { entry.session.bringUp() }
    }

    /// A host is back: what it holds comes home, and a run without a machine gets one when all hosts have spoken.
    func hostIsBack(_ name: String, _ status: AgentStatus, isNewAgent: Bool) {
        for checkpoint in read({ try $0.checkpoints() })
        where !checkpoint.isHome && checkpoint.hosts.contains(name) && checkpoint.isUsable {
            bringHome(checkpoint.manifest, of: checkpoint.run, from: name)
        }
        // What was asked of a host that could not hear it is asked again.
        for run in Set(status.trainers.filter { $0.pid != nil }.map(\.run)) where run != active?.id {
            hosts[name]?.session.perform({ try $0.call(.endRun(run)) }, failed: { _ in })
        }
        if let active, active.machine != nil, !active.hosts.contains(name) {
            if hosts[name]?.spec.trains == true, !active.left.contains(name), bringUps.isEmpty {
                if let refusal = join(name) { tell(active.id, .note(refusal.message)) }
            }
            return
        }
        if let active, active.machine != nil {
            feed(returned(name, status, in: active))
            if let plan = self.active?.plan {
                hosts[name]?.session.perform({ try $0.call(.generation(plan)) }, failed: { _ in })
            }
            self.active?.returning[name] = (status, isNewAgent)
            missTrainers(on: name)
            return
        }
        takeUp()
    }

    /// The trainers of a run that live on a host, with their addresses.
    func living(of run: ActiveRun, in status: AgentStatus) -> [Int: String?] {
        let living = status.trainers.filter { $0.run == run.id && $0.attempt == run.attempt && $0.pid != nil }
        return Dictionary(living.map { ($0.member, $0.address) }) { one, _ in one }
    }

    /// What a host that answers says of a run's trainers there.
    private func returned(_ host: String, _ status: AgentStatus, in run: ActiveRun) -> RunMachine.Event {
        let living = living(of: run, in: status)
        let joining = status.trainers.filter { $0.joins && living[$0.member] != nil }.map(\.member)
        return .returned(host: host, members: living, joining: Set(joining))
    }

    /// Makes the machine of a run that went on without a coordinator, when its hosts have spoken.
    func takeUp() {
        guard let active, active.machine == nil else { return }
        let statuses = active.hosts.compactMap { host in hosts[host]?.status.map { (host, $0) } }
        let silent = active.hosts.filter { hosts[$0]?.status == nil }
        guard silent.allSatisfy({ hosts[$0]?.phase == .failed }) else { return }
        let trainers = statuses.flatMap { host, status in
            status.trainers.filter { $0.run == active.id && $0.attempt == active.attempt }.map { (host, $0) }
        }
        let plan = statuses.flatMap(\.1.generations)
            .filter { $0.run == active.id && $0.attempt == active.attempt }.max { $0.number < $1.number }
        // What a host had kept comes first: a trainer's last words, or a later checkpoint.
        guard hasHeardAll(statuses) else { return }
        guard plan != nil else {
            // Only hosts that can't be asked may know of one.
            guard silent.isEmpty else { return }
            self.active?.machine = nil
            return restart(because: lossWords(statuses))
        }
        let machine = RunMachine(
            run: active.id,
            attempt: active.attempt,
            laneCount: active.record.spec.lanes,
            laneUnit: active.record.spec.fixedUnit,
            trainers: trainers,
            plan: plan,
            here: hostsHere,
            announced: read { try $0.generations(of: active.id) }.map(\.number).max() ?? 0,
            anchors: anchors(of: active.hosts),
            succession: active.succession
        )
        self.active?.machine = machine
        self.active?.hosts = Set(machine.members.values.map(\.host))
        routes = machine.routes.map { FoundRoute($0) }
        keepRelays()
        let early = active.early
        self.active?.early = []
        let attempt = active.attempt
        missThoseBefore(statuses, attempt)
        // Who has not heard of it says whether it agrees.
        if let plan {
            if self.active?.plan == nil { self.active?.plan = plan }
            for host in self.active?.hosts ?? [] {
                hosts[host]?.session.perform({ try $0.call(.generation(plan)) }, failed: { _ in })
            }
        }
        for (_, trainer) in trainers where self.active?.attempt == attempt {
            if trainer.isFinished {
                feed(.finished(member: trainer.member))
            } else if let end = trainer.end {
                feed(.exited(member: trainer.member, end: end))
            }
        }
        for event in early where self.active?.attempt == attempt {
            // What the registry kept is kept; the machine hears it now.
            switch event.report {
            case .listening, .caughtUp, .peerLost, .exited, .failed, .finished, .accepted, .opening, .refused,
                .confirmed:
                follow(event, from: "")
            default: break
            }
        }
        for (host, status) in statuses where self.active?.attempt == attempt {
            feed(returned(host, status, in: active))
        }
        missTrainersBefore()
    }

    /// What had begun to join or was to be started again when the last coordinator ended.
    private func missTrainersBefore() {
        guard let active, let machine = active.machine else { return }
        // Their ways may not be known yet.
        let joining = machine.members.filter { $0.value.joins && !machine.planned.contains($0.key) }
        for host in Set(joining.values.map(\.host)) { findRoutes(of: host) }
        // Who was to be started again is known to nobody any more; hosts with too few trainers are.
        for (name, entry) in hosts where entry.spec.trains && entry.phase == .ready {
            let working = machine.members.values.count { $0.host == name && $0.isActive }
            guard working < entry.spec.workers, active.hosts.contains(name) else { continue }
            for _ in working..<entry.spec.workers { feed(.lacks(host: name, isReachable: true)) }
        }
    }

    /// An agent that is a later one than its trainers knows nothing of them: they have ended.
    private func missThoseBefore(_ statuses: [(String, AgentStatus)], _ attempt: Int) {
        guard let active else { return }
        let answers = Dictionary(statuses) { one, _ in one }
        for (number, host) in active.machine?.succession.hosts ?? [:] {
            guard self.active?.attempt == attempt, let status = answers[host],
                !status.trainers.contains(where: {
                    $0.run == active.id && $0.attempt == attempt && $0.member == number
                })
            else { continue }
            let end = ProcessEnd(.signalled(9), cause: "its agent has ended")
            feed(.exited(member: number, end: end))
        }
    }

    /// Looks which trainers of a host that is back have ended, once all that it had kept was heard.
    ///
    /// What they had accepted is there: who is taken to have left before that is known may have gone on alone.
    func missTrainers(on host: String) {
        guard let run = active, run.machine != nil, let (status, isNewAgent) = run.returning[host],
            hasHeardAll([(host, status)])
        else { return }
        active?.returning[host] = nil
        missTrainers(of: run, on: host, status, isNewAgent: isNewAgent)
        // A host whose trainers are gone helps again from the next step on.
        if isNewAgent, active?.attempt == run.attempt { joinAfterRest(host) }
    }

    /// An agent that died took its trainers along, and its successor knows nothing of them.
    private func missTrainers(of run: ActiveRun, on host: String, _ status: AgentStatus, isNewAgent: Bool) {
        let known = status.trainers.filter { $0.run == run.id && $0.attempt == run.attempt }
        for (number, member) in run.machine?.members ?? [:] where member.host == host {
            // What follows from one loss may have begun the next attempt.
            guard active?.id == run.id, active?.attempt == run.attempt, member.state != .finished,
                active?.machine?.succession.left.contains(number) == false
            else { continue }
            if let trainer = known.first(where: { $0.member == number }) {
                if let end = trainer.end, !trainer.isFinished { feed(.exited(member: number, end: end)) }
            } else if isNewAgent {
                let uptime = status.uptime.flatMap { $0 < 600 ? Self.ago($0) : nil }
                let cause = uptime.map { "the machine was started again \($0) ago" } ?? "its agent has ended"
                feed(.exited(member: number, end: ProcessEnd(.signalled(9), cause: cause)))
            }
        }
    }
}
