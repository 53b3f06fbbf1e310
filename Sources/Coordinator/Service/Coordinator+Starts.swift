internal import Basics
internal import ClusterFile
internal import Registry
internal import Wire

// A run's trainers: sent what they need, and started on its hosts.
extension Coordinator {
    /// Launches from a checkpoint once it is home; from nothing when it can't be had.
    func launch(fetching checkpoint: CheckpointRow?) {
        guard let active else { return }
        guard let checkpoint, !checkpoint.isHome else { return launch(from: checkpoint?.manifest) }
        let host = checkpoint.hosts.first { hosts[$0]?.phase == .ready } ?? ""
        bringHome(checkpoint.manifest, of: checkpoint.run, from: host) {
            [id = active.id, attempt = active.attempt] in
            guard $0.active?.id == id, $0.active?.attempt == attempt else { return }
            guard $1 else {
                return $0.end(
                    id,
                    as: .interrupted,
                    message: "checkpoint \(checkpoint.manifest.short) is only on \(checkpoint.hosts)"
                )
            }
            $0.launch(from: checkpoint.manifest)
        }
    }

    /// Sends what the trainers need to each host, and starts them.
    private func launch(from checkpoint: Digest?) {
        guard let active else { return }
        let id = active.id
        let attempt = active.attempt
        write {
            try $0.updateRun(id) { row in
                row.state = .starting
                row.attempt = attempt
                row.record = active.record
                row.message = nil
                row.finished = nil
            }
        }
        // Who is not ready now joins when it comes.
        let wanted = trainingHosts.filter { !active.left.contains($0.name) }
        let ready = wanted.filter { hosts[$0.name]?.phase == .ready }
        for spec in wanted where hosts[spec.name]?.phase == .failed { retry(spec.name) }
        var members: [String] = []
        for spec in ready {
            for _ in 0..<spec.workers where members.count < active.record.spec.unitCount {
                members.append(spec.name)
            }
        }
        let workers = ready.reduce(0) { $0 + $1.workers }
        if workers > members.count {
            tell(
                id,
                .note(
                    "\(workers) workers but \(active.record.spec.unitWords): \(workers - members.count) stay idle"
                )
            )
        }
        let machine = RunMachine(
            run: id,
            attempt: attempt,
            laneCount: active.record.spec.lanes,
            laneUnit: active.record.spec.fixedUnit,
            hosts: members,
            routes: Set(members).count > 1 ? nil : [],
            anchors: anchors(of: Set(members))
        )
        self.active?.machine = machine
        self.active?.hosts = Set(members)
        findRoutes(between: Set(members))
        for host in Set(members).sorted() {
            guard let entry = hosts[host] else { continue }
            let starts = members.indices.filter { members[$0] == host }.map { member in
                trainerStart(member: member, on: entry, of: active, resume: checkpoint)
            }
            let needs = [active.record.dataset] + (checkpoint.map { [$0] } ?? [])
            begin(starts, on: host, of: active, needs: needs)
        }
    }

    /// How long a run that begins waits for a host that it has lost.
    private static let beginningPatience = Duration.seconds(5)
    /// How often trainers of a run that begins are tried to be started on a host.
    private static let beginningTries = 3

    /// Starts the first trainers of a run on a host; the others begin without it when it can't be reached.
    private func begin(
        _ starts: [TrainerStart],
        on host: String,
        of run: ActiveRun,
        needs: [Digest],
        tries: Int = 1
    ) {
        start(starts, on: host, of: run, needs: needs) { coordinator, error in
            guard !coordinator.stillStarting(starts).isEmpty else { return }
            guard error.exitCode == .unreachable, coordinator.othersMayBegin(without: host) else {
                return coordinator.fail(run.id, error.message, error.hint, exitCode: error.exitCode)
            }
            coordinator.after(Self.beginningPatience) { coordinator in
                let isBack = coordinator.hosts[host]?.phase == .ready && tries < Self.beginningTries
                guard isBack, coordinator.active?.id == run.id, coordinator.active?.attempt == run.attempt
                else { return coordinator.beginWithout(host, of: run, error.message) }
                // Some may have been started with the answer lost on its way.
                let status = coordinator.hosts[host]?.status
                let living = status.map { coordinator.living(of: run, in: $0) } ?? [:]
                let missing = starts.filter { living[$0.member] == nil }
                guard !missing.isEmpty else { return }
                coordinator.begin(missing, on: host, of: run, needs: needs, tries: tries + 1)
            }
        }
    }

    /// The connection to a host was lost: a run does not wait long for trainers that were not started there yet.
    func lostBeforeBeginning(_ host: String, _ reason: String) {
        guard let run = active, run.machine?.generation == 0, othersMayBegin(without: host) else { return }
        after(Self.beginningPatience) { coordinator in
            guard coordinator.hosts[host]?.phase != .ready else { return }
            coordinator.beginWithout(host, of: run, reason)
        }
    }

    private func othersMayBegin(without host: String) -> Bool {
        active?.machine?.members.values.contains { $0.isActive && $0.host != host } ?? false
    }

    /// Gives up the trainers that a host did not start, while the run has not begun.
    private func beginWithout(_ host: String, of run: ActiveRun, _ reason: String) {
        guard let active, active.id == run.id, active.attempt == run.attempt, let machine = active.machine,
            machine.generation == 0, othersMayBegin(without: host)
        else { return }
        let unstarted = machine.members.filter { number, member in
            member.host == host && member.state == .starting && !active.begun.contains(number)
        }
        guard !unstarted.isEmpty else { return }
        // Islands stay with those who began.
        let later = machine.isFixed ? "without it" : "and it joins when it is back"
        let news = "\(reason) before its trainers were started: the others begin, \(later)"
        log("membership", news, run: active.id, host: host)
        tell(active.id, .note(news))
        let isReachable = hosts[host]?.phase == .ready
        feed(.unstarted(members: unstarted.keys.sorted(), isReachable: isReachable, reason: reason))
    }

    /// What a trainer of the run is told at its start.
    func trainerStart(
        member: Int,
        on entry: HostEntry,
        of run: ActiveRun,
        resume: Digest? = nil,
        joins: Bool = false
    ) -> TrainerStart {
        TrainerStart(
            run: run.id,
            attempt: run.attempt,
            record: run.record,
            member: member,
            threads: Self.threads(entry.spec, cores: entry.status?.cores ?? 1),
            bind: peerAddresses()[entry.spec.name] ?? "127.0.0.1",
            resume: resume,
            joins: joins,
            memory: MemoryTerms(
                policy: file?.memory ?? .refuse,
                limit: file?.memoryLimit,
                // Who joins finds the memory of the others taken already.
                neighbours: joins ? 1 : entry.spec.workers,
                members: file?.hosts.filter(\.trains).reduce(0) { $0 + $1.workers } ?? 1
            )
        )
    }

    /// Sends a host what its trainers need, and starts them.
    ///
    /// - Parameter failed: called when that can't be done, while the run is still in the same attempt.
    func start(
        _ starts: [TrainerStart],
        on host: String,
        of run: ActiveRun,
        needs: [Digest],
        failed: @escaping @Sendable (Coordinator, any ExplainedError) -> Void
    ) {
        guard let session = hosts[host]?.session else { return }
        let id = run.id
        let attempt = run.attempt
        let store = self.store
        let mailbox = self.mailbox
        let failed: @Sendable (any ExplainedError) -> Void = { error in
            mailbox.put(
                .resume { coordinator in
                    guard coordinator.active?.id == id, coordinator.active?.attempt == attempt else { return }
                    failed(coordinator, error)
                }
            )
        }
        let share = chunkShare()
        let names = [run.record.dataset: "dataset"]
        session.transfer(
            { client in
                for manifest in needs {
                    let what = names[manifest] ?? "checkpoint"
                    try ChunkTransfer.push(manifest, from: store, to: client, shared: share) { state in
                        let event = TransferEvent(host: host, what: what, state)
                        mailbox.put(.resume { $0.tell(id, .transfer(event)) })
                    }
                }
                mailbox.put(
                    .resume { coordinator in
                        // The run may have been stopped while the data was on its way.
                        guard coordinator.active?.id == id, coordinator.active?.attempt == attempt else {
                            return
                        }
                        // Some may have been given up meanwhile.
                        let starts = coordinator.stillStarting(starts)
                        session.perform(
                            { control in
                                for start in starts {
                                    try control.call(.train(start))
                                    mailbox.put(.resume { $0.began(start) })
                                }
                            },
                            failed: failed
                        )
                    }
                )
            },
            failed: failed
        )
    }

    /// Those of some trainers that are waited for.
    private func stillStarting(_ starts: [TrainerStart]) -> [TrainerStart] {
        starts.filter { active?.machine?.members[$0.member]?.state == .starting }
    }

    /// A host says that a trainer was started.
    private func began(_ start: TrainerStart) {
        guard active?.id == start.run, active?.attempt == start.attempt else { return }
        active?.begun.insert(start.member)
    }

    /// One thread a lane, and no more than the host's share of cores for each worker.
    static func threads(_ spec: HostSpec, cores: Int) -> Int {
        max(1, (spec.threads ?? cores) / max(1, spec.workers))
    }

    /// The address of each host that the others dial.
    ///
    /// A host knows by which of its addresses we reach it, and by which of ours we come (`SSH_CONNECTION`).
    func peerAddresses() -> [String: String] {
        var addresses: [String: String] = [:]
        var ours = "127.0.0.1"
        for (name, entry) in hosts {
            guard let route = entry.session.route else { continue }
            addresses[name] = route.host
            if !route.client.hasPrefix("127.") { ours = route.client }
        }
        for (name, entry) in hosts where entry.spec.isLocal { addresses[name] = ours }
        return addresses
    }
}
