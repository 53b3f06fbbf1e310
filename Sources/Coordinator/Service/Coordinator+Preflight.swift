public import Basics
internal import ClusterFile
public import Wire

/// What `coord preflight` found out.
public enum PreflightEvent: Codable, Sendable {
    /// Two steps on a host, alone: the gradient's digest after each, and the speed of the second.
    case host(String, gradients: [Digest], samplesPerSecond: Double)
    /// The two steps could not be tried on a host.
    case failure(String, message: String)
    /// The way from one host to another.
    case link(from: String, to: String, LinkMeasure)
}

// Before a long run: do the hosts compute the same, how fast, and who reaches whom.
extension Coordinator {
    /// What is gathered of the preflight under way.
    struct Preflight {
        var hosts: [String]
        var waiting: Set<String>
        var gradients: [String: [Digest]] = [:]
        var failures: [String: String] = [:]
    }

    /// Tries the file's run on all training hosts that are ready.
    func preflight(_ peer: ControlPeer) throws {
        guard let file else {
            throw CoordinatorError(
                "the cluster is not up",
                hint: "coord up --hosts-only",
                exitCode: .badInput
            )
        }
        if let active {
            throw CoordinatorError(
                "run \(active.id) is on; a preflight beside it would measure neither",
                hint: "try again when it is over",
                exitCode: .locked
            )
        }
        guard preflight == nil else {
            throw CoordinatorError(
                "another preflight is on",
                hint: "try again when it is over",
                exitCode: .locked
            )
        }
        let ready = trainingHosts.filter { hosts[$0.name]?.phase == .ready }
        let preparation = RunPreparation(
            file: file,
            store: store,
            registry: registry,
            kernels: ready.map { ($0.name, hosts[$0.name]?.status?.kernels) },
            worker: try workspace.worker(nil).digest
        )
        away("prepare", { try preparation.prepare() }) { coordinator, result in
            do {
                coordinator.trySteps(of: try result.get().record, on: ready, peer)
            } catch {
                peer.finish(coordinator.explained(error))
            }
        }
    }

    private func trySteps(of record: RunRecord, on specs: [HostSpec], _ peer: ControlPeer) {
        let names = specs.map(\.name)
        preflight = Preflight(hosts: names, waiting: Set(names))
        let store = self.store
        for spec in specs {
            guard let entry = hosts[spec.name] else { continue }
            var start = TrainerStart(
                run: RunID.make(timestamp: "preflight"),
                attempt: 1,
                record: record,
                member: 0,
                threads: 1,
                bind: "127.0.0.1"
            )
            start.threads = Self.threads(spec, cores: entry.status?.cores ?? 1) * max(1, spec.workers)
            let order = start
            let done: @Sendable (Result<PreflightReport, any Error>) -> Void = { [mailbox] result in
                mailbox.put(.resume { $0.tried(spec.name, result, peer) })
            }
            entry.session.transfer(
                { client in
                    try ChunkTransfer.push(record.dataset, from: store, to: client)
                    guard
                        case .preflight(let report) = try client.call(.preflight(order), timeout: 150_000)
                    else { throw CoordinatorError("\(spec.name): no report of the steps", exitCode: .bug) }
                    done(.success(report))
                },
                failed: { done(.failure($0)) }
            )
        }
    }

    private func tried(
        _ host: String,
        _ result: Result<PreflightReport, any Error>,
        _ peer: ControlPeer
    ) {
        switch result {
        case .success(let report):
            let gradients = report.steps.map(\.gradient)
            let last = report.steps.last
            let speed = last.map { $0.seconds > 0 ? Double($0.samples) / $0.seconds : 0 } ?? 0
            preflight?.gradients[host] = gradients
            peer.send(.preflight(.host(host, gradients: gradients, samplesPerSecond: speed)))
        case .failure(let error):
            let message = explained(error).message
            preflight?.failures[host] = message
            peer.send(.preflight(.failure(host, message: message)))
        }
        preflight?.waiting.remove(host)
        guard let preflight, preflight.waiting.isEmpty else { return }
        let pairs = preflight.hosts.flatMap { from in
            preflight.hosts.filter { $0 != from }.map { (from: from, to: $0) }
        }
        measure(pairs[...], peer)
    }

    /// One pair after the other, so that none takes the wire from another.
    private func measure(_ pairs: ArraySlice<(from: String, to: String)>, _ peer: ControlPeer) {
        guard let pair = pairs.first else { return conclude(peer) }
        let token = WireSecret(Sealing.randomBytes(32))
        let bind = peerAddresses()[pair.to] ?? "127.0.0.1"
        let next: @Sendable (LinkMeasure) -> Void = { [mailbox] measure in
            mailbox.put(
                .resume { coordinator in
                    peer.send(.preflight(.link(from: pair.from, to: pair.to, measure)))
                    coordinator.measure(pairs.dropFirst(), peer)
                }
            )
        }
        let failed: @Sendable (any ExplainedError) -> Void = { next(LinkMeasure(problem: $0.message)) }
        let caller = hosts[pair.from]?.session
        guard let listener = hosts[pair.to]?.session, let caller else {
            return next(LinkMeasure(problem: "the host is gone"))
        }
        listener.perform(
            { client in
                guard case .listening(let address) = try client.call(.probeListen(bind: bind, token: token))
                else { throw CoordinatorError("\(pair.to): no place to listen", exitCode: .bug) }
                caller.perform(
                    { client in
                        guard
                            case .measured(let measure) = try client.call(
                                .probeDial(address: address, token: token)
                            )
                        else { throw CoordinatorError("\(pair.from): no measure", exitCode: .bug) }
                        next(measure)
                    },
                    failed: failed
                )
            },
            failed: failed
        )
    }

    private func conclude(_ peer: ControlPeer) {
        guard let preflight else { return peer.finish() }
        self.preflight = nil
        if let (host, message) = preflight.failures.min(by: { $0.key < $1.key }) {
            return peer.finish(CoordinatorError("preflight: \(host): \(message)"))
        }
        let kinds = Dictionary(grouping: preflight.hosts) { preflight.gradients[$0] ?? [] }
        guard kinds.count <= 1 else {
            let groups = kinds.values.map { $0.joined(separator: ", ") }.sorted().joined(separator: " | ")
            return peer.finish(
                CoordinatorError(
                    "preflight: the hosts do not compute the same gradients: \(groups)",
                    hint: "pin kernels: to a set that all have; if it stays, a host's hardware is at fault"
                )
            )
        }
        peer.finish()
    }
}
