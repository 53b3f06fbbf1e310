public import Basics
internal import ClusterFile
internal import Logging
public import Wire

/// What `coord preflight` found out.
public enum PreflightEvent: Codable, Sendable {
    /// Two steps on a host, alone: the gradient's digest after each, and the speed of the second.
    case host(String, gradients: [Digest], samplesPerSecond: Double)
    /// The two steps could not be tried on a host.
    case failure(String, message: String)
    /// The way from a host to another.
    case link(from: String, ProbeResult)
    /// What each way to exchange would cost, what `exchange: auto` takes and why.
    case plan([ExchangePlanner.Forecast], chosen: ExchangeSpec, reason: String)
}

// Before a long run: do the hosts compute the same, how fast, and who reaches whom.
extension Coordinator {
    /// What is gathered of the preflight under way.
    struct Preflight {
        var hosts: [String]
        var waiting: Set<String>
        var gradients: [String: [Digest]] = [:]
        var failures: [String: String] = [:]
        var speeds: [String: Double] = [:]
        var report: PreflightReport?
        var links: [ExchangePlanner.Link] = []
        let run: PreparedRun
        /// What follows when all is well; nil: that was all.
        let then: (@Sendable (Coordinator) -> Void)?
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
                coordinator.trySteps(of: try result.get(), on: ready, peer)
            } catch {
                peer.finish(coordinator.explained(error))
            }
        }
    }

    /// Computes two steps on each host and measures the ways between them.
    func trySteps(
        of run: PreparedRun,
        on specs: [HostSpec],
        _ peer: ControlPeer,
        then: (@Sendable (Coordinator) -> Void)? = nil
    ) {
        let record = run.record
        let names = specs.map(\.name)
        // Steps of one host by itself: nothing is exchanged.
        var alone = record
        alone.spec.exchange = nil
        preflight = Preflight(hosts: names, waiting: Set(names), run: run, then: then)
        let store = self.store
        for spec in specs {
            guard let entry = hosts[spec.name] else { continue }
            var start = TrainerStart(
                run: RunID.make(timestamp: "preflight"),
                attempt: 1,
                record: alone,
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
            preflight?.speeds[host] = speed
            preflight?.report = report
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
        away("preflight", { Self.measureWays(between: places, peer) }) { coordinator, result in
            coordinator.preflight?.links = (try? result.get()) ?? []
            coordinator.conclude(peer)
        }
    }

    /// Lets each host in turn try all others, and tells what it found; blocks.
    private static func measureWays(
        between places: [(session: HostSession, bind: String)],
        _ peer: ControlPeer
    ) -> [ExchangePlanner.Link] {
        var links: [ExchangePlanner.Link] = []
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
            for result in results {
                peer.send(.preflight(.link(from: target.host, result)))
                guard result.problem == nil, result.bytesPerSecond > 0 else { continue }
                links.append(
                    ExchangePlanner.Link(
                        from: result.host,
                        to: target.host,
                        bytesPerSecond: result.bytesPerSecond,
                        roundTrip: result.roundTrip
                    )
                )
            }
        }
        return links
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
        if let measured = keepMeasured(preflight) {
            let (forecast, reason) = measured.choose()
            let table = measured.table(preflight.run.record.spec.exchange)
            peer.send(.preflight(.plan(table, chosen: forecast.exchange, reason: reason)))
        }
        if let then = preflight.then { then(self) } else { peer.finish() }
    }

    /// Keeps what was measured for later plans; nil when something is missing.
    private func keepMeasured(_ preflight: Preflight) -> ExchangePlanner? {
        guard let file, let report = preflight.report else { return nil }
        let spec = preflight.run.record.spec
        let planner = ExchangePlanner(
            hosts: preflight.hosts.map { name in
                ExchangePlanner.Host(
                    name: name,
                    workers: hosts[name]?.spec.workers ?? 1,
                    samplesPerSecond: preflight.speeds[name] ?? 0
                )
            },
            links: preflight.links,
            batch: spec.batch,
            lanes: spec.lanes,
            stepsPerEpoch: preflight.run.stepsPerEpoch,
            shapes: report.shapes,
            optimizerParts: report.optimizerParts
        )
        let measured = Measured(model: spec.model, dataset: file.dataset ?? "", time: now, planner: planner)
        do {
            try measured.write(workspace)
        } catch {
            logger.warning("what was measured could not be kept: \(error)")
        }
        return measured.planner(for: file)
    }

    // MARK: exchange: auto

    /// Settles how a run's members exchange when the file leaves that to the planner, measuring first where nothing is known.
    func settleExchange(of run: PreparedRun, _ request: UpRequest, _ peer: ControlPeer) throws {
        guard let file, file.choosesExchange, request.resume?.isNewRun ?? true else {
            return try begin(run, request, peer)
        }
        if let planner = Measured.read(workspace)?.planner(for: file) {
            return try begin(chosen(run, planner), request, peer)
        }
        let ready = trainingHosts.filter { hosts[$0.name]?.phase == .ready }
        trySteps(of: run, on: ready, peer) { coordinator in
            let planner = coordinator.file.flatMap { Measured.read(coordinator.workspace)?.planner(for: $0) }
            do {
                try coordinator.begin(coordinator.chosen(run, planner), request, peer)
            } catch {
                peer.finish(coordinator.explained(error))
            }
        }
    }

    private func chosen(_ run: PreparedRun, _ planner: ExchangePlanner?) -> PreparedRun {
        guard let planner else {
            log("exchange", "auto takes sync: not every pair of hosts could be measured")
            return run
        }
        var run = run
        let (forecast, reason) = planner.choose()
        run.record.spec.exchange = forecast.exchange.kind == .sync ? nil : forecast.exchange
        log("exchange", "auto takes \(forecast.exchange.words): \(reason)")
        return run
    }
}
