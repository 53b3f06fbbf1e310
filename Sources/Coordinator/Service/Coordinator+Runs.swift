internal import Basics
internal import ClusterFile
internal import Registry
internal import Wire

// The run: submitted, started on its hosts, followed, restarted, ended.
extension Coordinator {
    /// The training hosts of the file in force, in file order.
    var trainingHosts: [HostSpec] { file?.hosts.filter(\.trains) ?? [] }

    // MARK: Submitting

    /// All hosts are ready: check the run against data and hosts, keep it, start it.
    func submit(_ request: UpRequest, _ peer: ControlPeer) {
        guard let file = request.isBaseline ? file?.baseline : file else { return peer.finish() }
        let specs = trainingHosts
        do {
            guard !specs.isEmpty else {
                throw CoordinatorError(
                    "\(file.path): no host trains",
                    hint: "give one the role train",
                    exitCode: .badInput
                )
            }
            let preparation = RunPreparation(
                file: file,
                store: store,
                registry: registry,
                kernels: specs.compactMap { spec in
                    // A host that is missing now may come later: what was seen of it counts.
                    if let status = hosts[spec.name]?.status { return (spec.name, status.kernels) }
                    return read { try $0.host(spec.name) }?.kernels.map { (spec.name, $0) }
                },
                worker: try workspace.worker(nil).digest
            )
            away("prepare", { try preparation.prepare() }) { coordinator, result in
                do {
                    try coordinator.settleExchange(of: try result.get(), request, peer)
                } catch {
                    peer.finish(coordinator.explained(error))
                }
            }
        } catch {
            peer.finish(explained(error))
        }
    }

    /// Keeps the run and starts it.
    func begin(_ prepared: PreparedRun, _ request: UpRequest, _ peer: ControlPeer) throws {
        guard active == nil else {
            throw CoordinatorError(
                "run \(active?.id.text ?? "") is on",
                hint: "try again later",
                exitCode: .locked
            )
        }
        let text = Digest(of: request.fileText)
        var record = prepared.record
        var attempt = 1
        let id: RunID
        if let resume = request.resume, !resume.isNewRun,
            let row = try registry.read({ try $0.run(resume.run) })
        {
            // The same run goes on, with what decided its bits when it began.
            id = row.id
            attempt = row.attempt + 1
            if let kept = row.record { record = try goOn(kept, with: record) }
        } else {
            id = RunID.make(timestamp: Self.timestamp(now))
            let parent = request.resume.map { RunParent(run: $0.run, checkpoint: $0.checkpoint) }
            write {
                try $0.create(
                    RunRow(
                        id: id,
                        name: record.spec.name,
                        state: .starting,
                        record: record,
                        fileText: request.fileText,
                        clusterFile: text,
                        created: now,
                        parent: parent
                    )
                )
            }
        }
        active = ActiveRun(
            id: id,
            record: record,
            clusterFile: text,
            who: request.who,
            attempt: attempt,
            hosts: Set(trainingHosts.map(\.name)),
            stepsPerEpoch: prepared.stepsPerEpoch
        )
        followers.append((id, peer))
        log("run", "submitted \(record.spec.name)", who: request.who, run: id)
        let detail =
            "\(prepared.trainingSamples) training and \(prepared.validationSamples) validation samples, "
            + "\(prepared.stepsPerEpoch) steps an epoch, \(record.spec.lanes) lanes, kernels \(record.kernels.rawValue), "
            + "exchange \(record.spec.exchangeInForce.words)"
        tell(id, .run(RunEvent(run: id, name: record.spec.name, state: "starting", detail: detail)))
        let resumed = request.resume.flatMap { resume in
            read { try $0.checkpoint(resume.checkpoint, of: resume.run) }
        }
        launch(fetching: resumed)
    }

    /// A run that goes on keeps what decides its bits; where today's cluster can't keep it, that is said.
    private func goOn(_ kept: RunRecord, with new: RunRecord) throws -> RunRecord {
        guard kept.worker == new.worker else {
            throw CoordinatorError(
                "the run began with worker \(kept.worker.short), and \(new.worker.short) is built here now",
                hint: "build the same version again, or start anew with coord up",
                exitCode: .protocolVersion
            )
        }
        guard kept.kernels <= new.kernels else {
            throw CoordinatorError(
                "the run began with kernels \(kept.kernels.rawValue), which not all hosts have now",
                hint: "bring the hosts back that have them, or start anew with coord up",
                exitCode: .badInput
            )
        }
        return kept
    }

    /// Launches from a checkpoint once it is home; from nothing when it can't be had.
    private func launch(fetching checkpoint: CheckpointRow?) {
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

    // MARK: Ends

    /// The run is over when its members are done and its last checkpoint is home.
    func finishIfComplete() {
        guard let active, active.isFinishing, !pulls.values.contains(where: { $0.run == active.id }) else {
            return
        }
        let last = read { try $0.checkpoints(of: active.id) }
            .filter { active.isLast($0.epoch, weights: $0.weights) && $0.isUsable }
        guard let model = last.last(where: \.isHome), let weights = active.weights ?? model.weights else {
            // Otherwise it is on its way, or on a host that will be back.
            guard let failure = active.checkpointFailure else { return }
            return fail(
                active.id,
                "its last checkpoint could not be kept: \(failure)",
                "mend what the message says (the disk, the host), then coord run resume \(active.id)",
                exitCode: .cannotWrite
            )
        }
        if policyDueFor != nil { applyKeepPolicy(active.id) }
        advise(isLast: true)
        write {
            try $0.updateRun(active.id) { row in
                row.state = .finished
                row.weights = weights
                row.finished = now
                row.samplesPerSecond = active.samplesPerSecond
            }
        }
        log("run", "finished; weights \(weights.short)", run: active.id)
        endTrainers(of: active)
        self.active = nil
        endDrillWithRun(active.id)
        tell(
            active.id,
            .run(
                RunEvent(
                    run: active.id,
                    name: active.record.spec.name,
                    state: "finished",
                    detail: "weights \(weights.hex)"
                )
            )
        )
        deployBest(of: active.id, record: active.record)
    }

    func fail(_ run: RunID, _ message: String, _ hint: String?, exitCode: ExitCode = .failed) {
        end(run, as: .failed, message: message, hint: hint, exitCode: exitCode)
    }

    /// Ends the run that is on, in another way than by finishing.
    func end(
        _ run: RunID,
        as state: RunState,
        message: String,
        hint: String? = nil,
        exitCode: ExitCode = .failed
    ) {
        guard let active, active.id == run else { return }
        write {
            try $0.updateRun(run) { row in
                row.state = state
                row.message = message
                row.finished = now
            }
        }
        log("run", "\(state.rawValue): \(message)", run: run)
        endTrainers(of: active)
        self.active = nil
        endDrillWithRun(active.id)
        tell(
            run,
            .run(RunEvent(run: run, name: active.record.spec.name, state: state.rawValue, detail: message))
        )
        let hint =
            hint
            ?? (state == .failed ? "coord events --run \(run) tells more" : "coord run resume \(run) goes on")
        release(
            run,
            error: CoordinatorError(
                "run \(run) \(state.rawValue): \(message)",
                hint: hint,
                exitCode: exitCode
            )
        )
    }

    private func endTrainers(of run: ActiveRun) {
        endRelays()
        for host in run.hosts {
            hosts[host]?.session.perform({ try $0.call(.endRun(run.id)) }, failed: { _ in })
        }
    }

    /// `coord run stop`.
    func stop(_ run: RunID?, _ peer: ControlPeer) throws {
        guard let active, run == nil || run == active.id else {
            throw CoordinatorError("no such run is on", hint: "coord run list shows all runs")
        }
        end(active.id, as: .stopped, message: "stopped by coord run stop")
        peer.finish()
    }

    /// All trainers are gone: go on from the last checkpoint, unless that came to nothing three times.
    func restart(because reason: String) {
        guard var run = active else { return }
        endTrainers(of: run)
        let checkpoint = read { try $0.latestCheckpoint(of: run.id) }
        run.fruitlessRestarts = run.restartEpoch == checkpoint?.epoch ? run.fruitlessRestarts + 1 : 0
        run.restartEpoch = checkpoint?.epoch ?? 0
        let isReady = run.hosts.allSatisfy { hosts[$0]?.phase == .ready }
        guard run.fruitlessRestarts <= 3, isReady else {
            return end(run.id, as: .interrupted, message: reason)
        }
        run.attempt += 1
        run.machine = nil
        run.succession = Succession()
        run.isRecovered = false
        run.early = []
        run.returning = [:]
        run.begun = []
        run.isFinishing = false
        run.weights = nil
        let done = read { try $0.run(run.id) }?.steps ?? 0
        let from = checkpoint.map { "epoch \($0.epoch)" } ?? "the beginning"
        let kept = checkpoint?.step ?? 0
        let lost =
            done > kept ? "; steps \(kept + 1) to \(done) are lost with them and are computed again" : ""
        run.restartNews = "all trainers are gone (\(reason)); goes on from \(from)\(lost)"
        active = run
        log("run", "attempt \(run.attempt) from \(from): \(reason)\(lost)", run: run.id)
        tell(run.id, .note(run.restartNews ?? ""))
        launch(fetching: checkpoint)
    }

    /// `yyyymmdd-hhmmss` in UTC.
    private static func timestamp(_ seconds: Double) -> String {
        let days = Int(seconds) / 86_400
        let rest = Int(seconds) % 86_400
        // Days to a civil date: Howard Hinnant, "chrono-compatible low-level date algorithms".
        let z = days + 719_468
        let era = z / 146_097
        let dayOfEra = z - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shifted = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * shifted + 2) / 5 + 1
        let month = shifted < 10 ? shifted + 3 : shifted - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        func two(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
        return "\(year)\(two(month))\(two(day))-\(two(rest / 3600))\(two(rest / 60 % 60))\(two(rest % 60))"
    }
}
