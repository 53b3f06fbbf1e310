internal import Basics
internal import ContentStore
internal import Logging
internal import Wire

/// One conversation with the coordinator: a request, a reply, until one side closes.
struct AgentConnection: Sendable {
    let channel: FrameChannel
    let agent: AgentServices

    /// Answers until the connection ends; called on a thread of its own.
    func run() {
        var number: Int?
        defer { number.map(agent.connections.left) }
        do {
            var name: String?
            var probe: ProbeListener?
            defer { probe?.close() }
            let chunks = ChunkService(channel: channel, store: agent.store)
            while let frame = try channel.receive() {
                let request = try MessageCoding.decode(AgentRequest.self, from: frame.payload)
                if case .hello(_, let cluster, let host, let session) = request {
                    name = host
                    if let session, number == nil, cluster == agent.cluster {
                        number = agent.connections.entered(session, channel)
                    }
                }
                guard let name else { throw AgentError("the first message must be hello") }
                agent.keeper.contacted()
                agent.runs.lookForCoordinator(isHeard: true)
                if case .events(let cursors) = request {
                    agent.runs.follow(cursors, on: channel)
                    return
                }
                if case .relay(let peer, let host) = request {
                    try channel.send(AgentReply.done)
                    agent.relay.take(try channel.duplicateSocket(), from: peer, as: host)
                    return
                }
                do {
                    if request.isWork { try agent.keeper.used() }
                    if case .routeListen(let bind) = request {
                        probe?.close()
                        let listener = try ProbeListener(bind: bind)
                        probe = listener
                        agent.relay.measure(with: listener)
                        try reply(.routeListening(address: listener.address, token: listener.token))
                        continue
                    }
                    try answer(request, from: name, chunks)
                    if case .shutdown = request { return }
                } catch let error as any ExplainedError {
                    try channel.send(
                        AgentReply.refused(
                            message: error.message,
                            hint: error.hint,
                            exitCode: error.exitCode.rawValue
                        )
                    )
                }
            }
        } catch {
            agent.logger.info("a connection ended: \(error)")
        }
        channel.close()
    }

    private func answer(_ request: AgentRequest, from name: String, _ chunks: ChunkService) throws {
        switch request {
        case .hello(let version, let cluster, _, _):
            guard version == protocolVersion else {
                throw AgentError(
                    "protocol version \(version), this agent speaks \(protocolVersion)",
                    hint: "run coord up again; it brings the matching worker",
                    exitCode: .protocolVersion
                )
            }
            guard cluster == agent.cluster else {
                throw AgentError(
                    "this agent belongs to another cluster",
                    hint: "give the host a dir: of its own"
                )
            }
            try reply(
                .hello(protocolVersion: protocolVersion, instance: agent.instance, worker: agent.worker)
            )
        case .status: try reply(.status(status()))
        case .known(let names): try reply(.known(names.filter { agent.store.hasManifest($0) }))
        case .offer(let name, let base, let parts): try chunks.offer(name, base: base, parts: parts)
        case .putChunks: try chunks.put()
        case .publish(let name):
            try chunks.publish(name)
            try reply(.done)
        case .getManifest(let name): try chunks.sendManifest(name)
        case .getChunks: try chunks.send()
        case .train(let start):
            guard start.record.worker == agent.worker else {
                throw AgentError(
                    "run \(start.run) began with worker \(start.record.worker.short), the agent here is of \(agent.worker.short)",
                    hint: "coord up brings the matching worker when no run is on",
                    exitCode: .protocolVersion
                )
            }
            try agent.runs.train(start)
            try reply(.done)
        case .generation(let plan):
            agent.runs.announce(plan, seen: agent.relay.seen(plan, from: name))
            try reply(.done)
        case .standing(let run, let member, let generation, let standing):
            agent.runs.tell(run: run, member: member, .standing(generation: generation, standing))
            try reply(.done)
        case .state(let run, let member, let generation, let manifest):
            agent.runs.tell(run: run, member: member, .state(generation: generation, manifest: manifest))
            try reply(.done)
        case .expel(let run, let member):
            agent.runs.expel(run: run, member: member)
            try reply(.done)
        case .injure(let run, let member, let injury):
            try agent.runs.injure(run: run, member: member, injury)
            try reply(.done)
        case .endRun(let run):
            agent.runs.endRun(run)
            agent.relay.forget(run)
            try reply(.done)
        case .release(let version, let setup): try reply(.serve(agent.serve.release(version, setup: setup)))
        case .rollback: try reply(.serve(agent.serve.ask(.rollback)))
        case .serveStatus: try reply(.serve(agent.serve.ask(.status)))
        case .predict(let count):
            let values = try payload()
            try reply(.serve(agent.serve.ask(.predict(count: count), bytes: values)))
        case .preflight(let start): try reply(.preflight(try agent.runs.preflight(start)))
        case .terms(let terms):
            try agent.keeper.agree(terms)
            try reply(.done)
        case .saved(let digests):
            try agent.ledger.saved(digests)
            try reply(.done)
        case .shutdown(let wipe, let stops, let force):
            try shutDown(wipe: wipe, stops: stops ?? false, force: force ?? false)
        case .openHub(let run, let access):
            try agent.relay.open(access, for: run, folder: agent.directory.run(run), as: name)
            try reply(.done)
        case .tryRoutes(let targets): try reply(.triedRoutes(agent.relay.probe(targets, from: name)))
        case .events, .relay, .routeListen: preconditionFailure("handled by the caller")
        }
    }

    private func shutDown(wipe: Bool, stops: Bool, force: Bool) throws {
        let unsaved = agent.ledger.unsaved.count
        guard force || unsaved == 0 || !(wipe || stops) else {
            throw AgentError(
                "\(unsaved) checkpoints are only on this host; nothing was ended",
                hint: "coord up brings them home; coord down --lose-checkpoints gives them up",
                exitCode: .locked
            )
        }
        agent.runs.endAll()
        agent.serve.stop()
        var report = Sweep(agent.directory, cluster: agent.cluster).run(includesAgent: false)
        if wipe, stops {
            // The stop command may take the machine away before anything else can be done.
            for path in [agent.directory.runs, agent.directory.serve, agent.directory.store] {
                do { try Files.remove(path) } catch { report.left.append("\(error)") }
            }
        }
        try reply(.ended(report))
        if stops, let result = agent.keeper.stopOnDemand() {
            // Nobody may be there to hear it: a stop command can take the network first.
            try? reply(.stopped(result))
            // The agent stays until the command works: a host that nobody stops costs money.
            guard result.isSuccess else { return }
        }
        agent.end(wipe: wipe)
    }

    private func status() -> AgentStatus {
        let (trainers, generations) = agent.runs.status()
        return AgentStatus(
            cores: Machine.cores,
            memory: Machine.memory.bytes,
            freeSpace: (try? Files.freeSpace(agent.directory.root).bytes) ?? 0,
            kernels: Machine.kernels,
            pid: agent.pid,
            trainers: trainers,
            generations: generations,
            serve: agent.serve.status(),
            worker: agent.worker,
            lease: agent.keeper.status(),
            boot: (try? Files.read(agent.directory.boot)).flatMap {
                try? MessageCoding.decode(BootStatus.self, from: $0)
            },
            unsaved: agent.ledger.unsaved,
            events: agent.runs.lastEvents,
            uptime: Machine.uptime
        )
    }

    private func payload() throws -> [UInt8] {
        guard let frame = try channel.receive(), frame.kind == .bytes else {
            throw FrameError.malformed("a bytes frame was announced and did not come")
        }
        return frame.payload
    }

    private func reply(_ reply: AgentReply) throws { try channel.send(reply) }
}

extension AgentRequest {
    /// True for what somebody wants done, false for what a coordinator says by itself, all night long.
    fileprivate var isWork: Bool {
        switch self {
        case .hello, .status, .serveStatus, .events, .terms, .saved, .endRun, .shutdown: false
        default: true
        }
    }
}
