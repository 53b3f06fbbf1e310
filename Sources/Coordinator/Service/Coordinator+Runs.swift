internal import Basics
internal import ClusterFile
internal import Registry
internal import Wire

// The run: submitted, restarted, ended.
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
