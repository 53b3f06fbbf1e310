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
        do {
            var isGreeted = false
            while let frame = try channel.receive() {
                let request = try MessageCoding.decode(AgentRequest.self, from: frame.payload)
                if case .hello = request { isGreeted = true }
                guard isGreeted else { throw AgentError("the first message must be hello") }
                if case .events(let cursors) = request {
                    agent.runs.follow(cursors, on: channel)
                    return
                }
                do {
                    try answer(request)
                } catch let error as any ExplainedError {
                    try channel.send(
                        AgentReply.refused(
                            message: error.message,
                            hint: error.hint,
                            exitCode: error.exitCode.rawValue
                        )
                    )
                }
                if case .shutdown = request { return }
            }
        } catch {
            agent.logger.info("a connection ended: \(error)")
        }
        channel.close()
    }

    private func answer(_ request: AgentRequest) throws {
        switch request {
        case .hello(let version, let cluster, _):
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
        case .missing(let chunks): try reply(.missing(agent.store.missing(from: chunks)))
        case .putChunk(let digest):
            let bytes = try payload()
            try agent.store.importChunk(bytes, as: digest)
            try reply(.done)
        case .putManifest(let digest):
            let bytes = try payload()
            try agent.store.importManifest(bytes, as: digest)
            try reply(.done)
        case .getManifest(let digest): try reply(.done, bytes: try agent.store.manifestBytes(digest))
        case .getChunk(let digest): try reply(.done, bytes: try agent.store.exportChunk(digest))
        case .train(let start):
            try agent.runs.train(start)
            try reply(.done)
        case .generation(let plan):
            agent.runs.announce(plan)
            try reply(.done)
        case .state(let run, let member, let generation, let manifest):
            agent.runs.supply(run: run, member: member, .state(generation: generation, manifest: manifest))
            try reply(.done)
        case .expel(let run, let member):
            agent.runs.expel(run: run, member: member)
            try reply(.done)
        case .endRun(let run):
            agent.runs.endRun(run)
            try reply(.done)
        case .release(let version, let setup): try reply(.serve(agent.serve.release(version, setup: setup)))
        case .rollback: try reply(.serve(agent.serve.ask(.rollback)))
        case .serveStatus: try reply(.serve(agent.serve.ask(.status)))
        case .predict(let count):
            let values = try payload()
            try reply(.serve(agent.serve.ask(.predict(count: count), bytes: values)))
        case .preflight(let start): try reply(.preflight(try agent.runs.preflight(start)))
        case .probeListen(let bind, let token):
            try reply(.listening(try LinkProbe.listen(bind: bind, token: token.bytes)))
        case .probeDial(let address, let token):
            try reply(.measured(LinkProbe.dial(address, token: token.bytes)))
        case .shutdown(let wipe):
            agent.runs.endAll()
            agent.serve.stop()
            try reply(.done)
            agent.end(wipe: wipe)
        case .events: preconditionFailure("handled by the caller")
        }
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
            serve: agent.serve.status()
        )
    }

    private func payload() throws -> [UInt8] {
        guard let frame = try channel.receive(), frame.kind == .bytes else {
            throw FrameError.malformed("a bytes frame was announced and did not come")
        }
        return frame.payload
    }

    private func reply(_ reply: AgentReply, bytes: [UInt8]? = nil) throws {
        try channel.send(reply)
        if let bytes { try channel.send(Frame(.bytes, bytes)) }
    }
}
