internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Registry
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A command that waits for the hosts to be ready.
struct BringUp {
    var request: UpRequest
    var peer: ControlPeer
    var waiting: Set<String>
    var failure: CoordinatorError?
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
            case .status:
                for entry in hosts.values.sorted(by: { $0.spec.name < $1.spec.name }) {
                    peer.send(
                        .host(HostEvent(host: entry.spec.name, phase: entry.phase, detail: detail(entry)))
                    )
                }
                peer.finish()
            case .down(let wipe): down(wipe: wipe, peer)
            }
        } catch {
            peer.finish(explained(error))
        }
    }

    // MARK: up

    private func up(_ request: UpRequest, _ peer: ControlPeer) throws {
        let file = try ClusterFile.parse(text: request.fileText, path: request.path)
        if let active {
            // Whoever only needs the hosts gets those of the run.
            guard request.submits else { return wait(request, peer) }
            let isSame = active.clusterFile == Digest(of: request.fileText)
            guard isSame else {
                throw CoordinatorError(
                    "run \(active.id) (\(active.record.spec.name)) of \(active.who) is on",
                    hint: "coord run attach follows it, coord run stop ends it; or try again when it is over",
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

    private func wait(_ request: UpRequest, _ peer: ControlPeer) {
        bringUps.append(BringUp(request: request, peer: peer, waiting: Set(hosts.keys)))
        for entry in hosts.values {
            if entry.phase == .ready {
                arrived(entry.spec.name, failure: nil)
            } else {
                entry.session.bringUp()
            }
        }
    }

    /// A host is ready or has failed: commands that wait for it go on.
    func arrived(_ host: String, failure: CoordinatorError?) {
        for index in bringUps.indices where bringUps[index].waiting.contains(host) {
            bringUps[index].waiting.remove(host)
            if let failure, bringUps[index].failure == nil { bringUps[index].failure = failure }
        }
        let complete = bringUps.filter(\.waiting.isEmpty)
        bringUps.removeAll(where: \.waiting.isEmpty)
        for bringUp in complete {
            if let failure = bringUp.failure {
                bringUp.peer.finish(failure)
            } else if bringUp.request.submits, file?.run != nil {
                submit(bringUp.request, bringUp.peer)
            } else {
                bringUp.peer.finish()
            }
        }
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

    private func down(wipe: Bool, _ peer: ControlPeer) {
        if let active { end(active.id, as: .stopped, message: "coord down") }
        log("down", wipe ? "agents end and their data is removed" : "agents end")
        var waiting = Set(hosts.keys)
        guard !waiting.isEmpty else { return finishDown(peer, failure: nil) }
        let group = DownGroup(waiting: waiting)
        waiting = []
        for (name, entry) in hosts {
            entry.session.shutDown(wipe: wipe) { [mailbox] failure in
                mailbox.put(
                    .resume { coordinator in
                        peer.send(
                            .host(
                                HostEvent(
                                    host: name,
                                    phase: failure == nil ? .down : .failed,
                                    detail: failure?.message ?? ""
                                )
                            )
                        )
                        guard let result = group.done(name, failure) else { return }
                        coordinator.finishDown(peer, failure: result.failure)
                    }
                )
            }
        }
    }

    private func finishDown(_ peer: ControlPeer, failure: (any ExplainedError)?) {
        try? Files.remove(workspace.socketPath)
        peer.finish(failure) { exit(0) }
    }

    func detail(_ entry: HostEntry) -> String {
        guard let status = entry.status else { return "" }
        var words = [
            "\(status.cores) cores", "\(ByteCount(status.memory))", status.kernels?.rawValue ?? "no kernels",
        ]
        if let live = status.serve?.live { words.append("serves \(live.model)@\(live.version)") }
        return words.joined(separator: ", ")
    }
}
