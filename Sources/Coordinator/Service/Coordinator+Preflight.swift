public import Basics
internal import ClusterFile
public import Wire

/// What `coord preflight` found out.
public enum PreflightEvent: Codable, Sendable {
    /// Two steps on a host, alone: the gradient's digest after each, and the speed of the second.
    case host(String, gradients: [Digest], samplesPerSecond: Double)
    /// The two steps could not be tried on a host.
    case failure(String, message: String)
    /// The way from a host to another.
    case link(from: String, ProbeResult)
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
        let places = preflight.hosts.compactMap { name in
            hosts[name].map { (session: $0.session, bind: peerAddresses()[name] ?? "127.0.0.1") }
        }
        away("preflight", { Self.measureWays(between: places, peer) }) { coordinator, _ in
            coordinator.conclude(peer)
        }
    }

    /// Lets each host in turn try all others, and tells what it found; blocks.
    private static func measureWays(
        between places: [(session: HostSession, bind: String)],
        _ peer: ControlPeer
    ) {
        var asked: [(client: AgentClient, target: ProbeTarget)] = []
        defer { for place in asked { place.client.channel.close() } }
        for (session, bind) in places {
            // The listener lives as long as the connection.
            guard let client = try? session.openClient(),
                case .routeListening(let address, let token)? = try? client.call(.routeListen(bind: bind))
            else {
                for (other, _) in places where other !== session {
                    let problem = "its agent does not listen on \(bind)"
                    let result = ProbeResult(host: session.name, problem: problem)
                    peer.send(.preflight(.link(from: other.name, result)))
                }
                continue
            }
            asked.append((client, ProbeTarget(host: session.name, address: address, token: token)))
        }
        for (client, target) in asked {
            let others = asked.map(\.target).filter { $0.host != target.host }
            guard !others.isEmpty else { continue }
            let results: [ProbeResult]
            do {
                guard case .triedRoutes(let tried) = try client.call(.tryRoutes(others)) else { continue }
                // Whatever a host says, it speaks of those it was asked about.
                results = zip(others, tried).filter { $0.host == $1.host }.map(\.1)
            } catch {
                let why = (error as? any ExplainedError)?.message ?? "\(error)"
                results = others.map { ProbeResult(host: $0.host, problem: why) }
            }
            for result in results { peer.send(.preflight(.link(from: target.host, result))) }
        }
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
