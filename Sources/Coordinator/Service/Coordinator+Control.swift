internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Registry
internal import Wire

/// A command that waits for the hosts to be ready.
struct BringUp {
    var request: UpRequest
    var peer: ControlPeer
    var waiting: Set<String>
    /// The account of rented pods has not answered yet.
    var awaitsPods = true
    var isComplete: Bool { waiting.isEmpty && !awaitsPods }
    var failures: [String: CoordinatorError] = [:]
}

// What commands ask.
extension Coordinator {
    func received(_ request: ControlRequest, from peer: ControlPeer) {
        do {
            switch request {
            case .up(let request): try up(request, peer)
            case .attach(let run): try attach(run, peer)
            case .stopRun(let run): try stop(run, peer)
            case .deploy(let host, let version): try deploy(host: host, version: version, peer: peer)
            case .rollback(let host): try rollback(host: host, peer: peer)
            case .predict(let host, let values): try predict(host: host, values: values, peer: peer)
            case .drill(let request): try begin(request, peer)
            case .preflight: try preflight(peer)
            case .push(let manifest, let what, let hosts): try push(manifest, what, to: hosts, peer)
            case .status: askForPods(age: .seconds(5)) { $0.sendStatus(to: peer) }
            case .down(let wipe, let hosts, let force):
                try down(wipe: wipe, hosts: hosts, force: force, peer)
            }
        } catch {
            peer.finish(explained(error))
        }
    }

    private func sendStatus(to peer: ControlPeer) {
        for entry in hosts.values.sorted(by: { $0.spec.name < $1.spec.name }) {
            peer.send(
                .host(
                    HostEvent(
                        host: entry.spec.name,
                        phase: entry.phase,
                        detail: detail(entry),
                        notes: notes(entry)
                    )
                )
            )
        }
        if active != nil { routes.forEach { peer.send(.route($0.event)) } }
        sendPods(to: peer, onlyOdd: false)
        peer.finish()
    }

    // MARK: up

    private func up(_ request: UpRequest, _ peer: ControlPeer) throws {
        if let key = request.podKey { workspace.pods.use(String(decoding: key.bytes, as: UTF8.self)) }
        let file = try ClusterFile.parse(text: request.fileText, path: request.path)
        if !request.hosts.isEmpty { return try up(only: request, file, peer) }
        if let active {
            // Whoever only needs the hosts gets those of the run.
            guard request.submits else { return wait(request, peer) }
            let isSame = active.clusterFile == Digest(of: request.fileText)
            guard isSame else {
                throw CoordinatorError(
                    "run \(active.id) (\(active.record.spec.name)) of \(active.who) is on",
                    hint: "coord run attach follows it, coord run stop ends it, coord up HOST adds a host; "
                        + "or try again when it is over",
                    exitCode: .locked
                )
            }
            if isSame, request.resume == nil { return try attach(active.id, peer) }
            throw CoordinatorError(
                "run \(active.id) is on",
                hint: "try again when it is over",
                exitCode: .locked
            )
        }
        if let other = bringUps.first(where: \.request.submits), other.request.fileText != request.fileText {
            throw CoordinatorError(
                "\(other.request.who) is bringing the cluster up with another file",
                hint: "try again when that is done",
                exitCode: .locked
            )
        }
        workspace.forgetWorkers()
        use(file, trust: HostTrust(request))
        wait(request, peer)
    }

    /// Brings some hosts up; those that train help the run that is on.
    private func up(only request: UpRequest, _ file: ClusterFile, _ peer: ControlPeer) throws {
        let unknown = request.hosts.filter { file.host($0) == nil }
        guard unknown.isEmpty else {
            throw CoordinatorError(
                "\(request.path): unknown host \(unknown.joined(separator: ", "))",
                hint: "the file names \(file.hosts.map(\.name).joined(separator: ", "))",
                exitCode: .badInput
            )
        }
        if let active, request.joins {
            // The run's file may have gained hosts; whatever else decides the run must be as it was.
            guard let old = self.file, old.run == file.run, old.dataset == file.dataset,
                old.kernels == file.kernels
            else {
                throw CoordinatorError(
                    "run \(active.id) is on, and the file now describes another one",
                    hint: "bring the hosts in with the run's own file, changed in `hosts:` only",
                    exitCode: .locked
                )
            }
            let text = Digest(of: request.fileText)
            if text != active.clusterFile {
                self.active?.clusterFile = text
                write {
                    try $0.updateRun(active.id) { row in
                        row.fileText = request.fileText
                        row.clusterFile = text
                    }
                }
            }
            for host in request.hosts { self.active?.left.remove(host) }
        }
        workspace.forgetWorkers()
        use(file, trust: HostTrust(request))
        wait(request, peer, for: Set(request.hosts))
    }

    private func wait(_ request: UpRequest, _ peer: ControlPeer, for names: Set<String>? = nil) {
        let names = names ?? Set(hosts.keys)
        bringUps.append(BringUp(request: request, peer: peer, waiting: names))
        for name in names.sorted() {
            guard let entry = hosts[name] else { continue }
            if entry.phase == .ready, active == nil, request.submits, isOutdated(entry) {
                // A run is trained by the program that is built here now, and says so in its record.
                hosts[name]?.phase = .idle
                entry.session.renew()
            } else if entry.phase == .ready {
                peer.send(
                    .host(HostEvent(host: name, phase: .ready, detail: detail(entry), notes: notes(entry)))
                )
                arrived(name, failure: nil)
            } else {
                entry.session.bringUp()
            }
        }
        askForPods { coordinator in
            for index in coordinator.bringUps.indices where coordinator.bringUps[index].peer === peer {
                coordinator.sendPods(to: peer, onlyOdd: true)
                coordinator.bringUps[index].awaitsPods = false
            }
            coordinator.concludeBringUps()
        }
    }

    /// A host is ready or has failed: commands that wait for it go on.
    func arrived(_ host: String, failure: CoordinatorError?) {
        for index in bringUps.indices where bringUps[index].waiting.contains(host) {
            bringUps[index].waiting.remove(host)
            if let failure { bringUps[index].failures[host] = failure }
        }
        concludeBringUps()
    }

    private func concludeBringUps() {
        let complete = bringUps.filter(\.isComplete)
        bringUps.removeAll(where: \.isComplete)
        for bringUp in complete { conclude(bringUp) }
    }

    /// All hosts of a command have come as far as they come.
    private func conclude(_ bringUp: BringUp) {
        let failure = Self.summary(of: bringUp.failures, among: file?.hosts.map(\.name) ?? [])
        guard bringUp.request.submits, bringUp.request.hosts.isEmpty, file?.run != nil else {
            // A host that comes alone helps the run that is on.
            let refusals = bringUp.request.joins ? bringUp.request.hosts.compactMap { join($0) } : []
            return bringUp.peer.finish(failure ?? refusals.first)
        }
        guard let failure else { return submit(bringUp.request, bringUp.peer) }
        let ready = trainingHosts.count { hosts[$0.name]?.phase == .ready }
        guard let quorum = file?.quorum, ready >= quorum else { return bringUp.peer.finish(failure) }
        bringUp.peer.send(
            .note("\(ready) of \(trainingHosts.count) training hosts are ready, enough for quorum: \(quorum)")
        )
        submit(bringUp.request, bringUp.peer)
    }

    /// One error for all hosts that failed: the first in file order leads.
    static func summary(of failures: [String: CoordinatorError], among names: [String]) -> CoordinatorError? {
        let failed = names.compactMap { failures[$0] }
        guard var first = failed.first ?? failures.values.first else { return nil }
        guard failed.count > 1 else { return first }
        first.message =
            "\(failed.count) of \(names.count) hosts are not ready: "
            + failed.map(\.message).joined(separator: "; ")
        return first
    }

    // MARK: Following

    private func attach(_ run: RunID?, _ peer: ControlPeer) throws {
        guard let active, run == nil || run == active.id else {
            let row = try registry.read { snapshot in
                try run.map { try snapshot.run($0) } ?? snapshot.latestRun()
            }
            guard let row else { throw CoordinatorError("there is no run yet", hint: "coord up starts one") }
            peer.send(
                .run(
                    RunEvent(
                        run: row.id,
                        name: row.name,
                        state: row.state.rawValue,
                        detail: row.message ?? ""
                    )
                )
            )
            return peer.finish(Self.outcome(of: row))
        }
        followers.append((active.id, peer))
        peer.send(
            .run(
                RunEvent(
                    run: active.id,
                    name: active.record.spec.name,
                    state: "running",
                    detail:
                        "attached; epoch \(active.lastEpoch?.epoch ?? 0) of \(active.record.spec.epochs) is behind it"
                )
            )
        )
        if let news = active.restartNews { peer.send(.note(news)) }
        if let epoch = active.lastEpoch {
            peer.send(.epoch(run: active.id, metric: epoch, epochs: active.record.spec.epochs))
        }
    }

    /// How a command that followed a run ends.
    static func outcome(of row: RunRow) -> CoordinatorError? {
        switch row.state {
        case .failed:
            CoordinatorError(
                "run \(row.id) failed: \(row.message ?? "no reason was kept")",
                hint: "coord events --run \(row.id)"
            )
        case .interrupted:
            CoordinatorError(
                "run \(row.id) was interrupted: \(row.message ?? "")",
                hint: "coord run resume \(row.id) goes on"
            )
        case .stopped:
            CoordinatorError("run \(row.id) was stopped", hint: "coord run resume \(row.id) goes on")
        default: nil
        }
    }

    // MARK: down

    private func down(wipe: Bool, hosts names: [String], force: Bool, _ peer: ControlPeer) throws {
        let isAll = names.isEmpty
        if isAll {
            if let active { end(active.id, as: .stopped, message: "coord down") }
        } else {
            for name in names { try leave(name) }
        }
        let chosen = hosts.filter { isAll || names.contains($0.key) }
        let what = isAll ? "agents end" : "the agents on \(names.joined(separator: ", ")) end"
        log("down", wipe ? "\(what) and their data is removed" : what)
        let finish: @Sendable (Coordinator, (any ExplainedError)?) -> Void = { coordinator, failure in
            if isAll { coordinator.finishDown(peer, failure: failure) } else { peer.finish(failure) }
        }
        guard !chosen.isEmpty else { return finish(self, nil) }
        let group = DownGroup(waiting: Set(chosen.keys))
        for (name, entry) in chosen {
            let how = HostSession.Shutdown(wipes: wipe, force: force, rescue: rescue(from: name))
            entry.session.shutDown(how) { [mailbox] words, failure in
                mailbox.put(
                    .resume { coordinator in
                        let phase = failure == nil ? HostPhase.down : .failed
                        coordinator.moved(name, phase, words)
                        peer.send(.host(HostEvent(host: name, phase: phase, detail: words)))
                        if failure == nil { coordinator.log("host", "down: \(words)", host: name) }
                        guard let result = group.done(name, failure) else { return }
                        finish(coordinator, result.failure)
                    }
                )
            }
        }
    }

    private func finishDown(_ peer: ControlPeer, failure: (any ExplainedError)?) {
        try? Files.remove(workspace.socketPath)
        peer.finish(failure) { ThisProcess.end(.ok) }
    }

    func detail(_ entry: HostEntry) -> String {
        guard let status = entry.status else { return "" }
        var words = [
            "\(status.cores) cores", "\(ByteCount(status.memory))", status.kernels?.rawValue ?? "no kernels",
        ]
        if let live = status.serve?.live { words.append("serves \(live.model)@\(live.version)") }
        words += entry.facts?.remarks ?? []
        return words.joined(separator: ", ")
    }
}
