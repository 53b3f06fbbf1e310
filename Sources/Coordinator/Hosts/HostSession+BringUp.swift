internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Remote
internal import Synchronization
internal import Wire

// The way up: connection, trust, a look at the machine, worker, agent.
extension HostSession {
    /// Connects, brings worker and agent, and follows the agent's events.
    func bringUp() {
        jobs.put { [self] in
            let phase = Mutex(HostPhase.idle)
            do {
                if state.withLock({ $0.client != nil || $0.isClosed }) { return }
                // Later connections of a host that is up go through the first phases again; that is no news.
                let enter: @Sendable (HostPhase, String) -> Void = { [self] next, detail in
                    let isForward = phase.withLock { phase in
                        guard next.order >= phase.order else { return false }
                        defer { phase = next }
                        return next != phase || !detail.isEmpty
                    }
                    if isForward { post(name, .phase(next, detail: detail)) }
                }
                let host = try connect(enter)
                state.withLock { $0.host = host }
                if let facts = try probe(host, enter) {
                    try install(facts, on: host, enter)
                } else {
                    try checkEntry(host)
                }
                enter(.link, "")
                let client = try openClient(host)
                try client.call(.terms(spec.terms))
                guard case .status(let status) = try client.call(.status) else {
                    throw CoordinatorError("\(name): the agent did not say how it is", exitCode: .bug)
                }
                state.withLock { $0.client = client }
                post(name, .up(status))
                try followEvents(host, beside: client)
                if !spec.isLocal { lookCloser(host) }
            } catch {
                let explained = explained(error)
                state.withLock { $0.disconnect() }
                let reached = phase.withLock(\.self)
                post(
                    name,
                    .failed(
                        (error as? RemoteError).map { HostPhase($0.phase) ?? reached } ?? reached,
                        // What a host said is in it.
                        message: ForeignText.line(explained.message, limit: 1000),
                        hint: explained.hint.map { ForeignText.line($0, limit: 1000) },
                        exitCode: explained.exitCode
                    )
                )
            }
        }
    }

    /// Prepares the way to the host; the connection is made with the first command.
    ///
    /// - Throws: ``PodError`` when nobody tells where a pod is.
    func connect(_ enter: @escaping @Sendable (HostPhase, String) -> Void) throws -> any Host {
        state.withLock { state in
            state.bulk?.close()
            state.bulk = nil
            state.host?.close()
            state.way = Digest.hex(Sealing.randomBytes(8))
        }
        if spec.isLocal { return LocalHost(name: name) }
        enter(.resolve, spec.pod.map { "pod \($0)" } ?? "")
        let endpoint = try workspace.endpoint(spec)
        state.withLock { $0.endpoint = endpoint }
        return SSHHost(endpoint, policy: trust, passphrase: passphrase) { phase in
            switch phase {
            case .resolve: enter(.resolve, "")
            case .connect: enter(.connect, "")
            default: enter(.trust, "")
            }
        }
    }

    /// Looks at what the machine is; nil when its login runs our bridge and nothing else.
    ///
    /// - Throws: ``CoordinatorError`` when no worker can run there.
    func probe(
        _ host: any Host,
        _ enter: (HostPhase, String) -> Void
    ) throws -> HostFacts? {
        // The first command makes the connection, which may take its time; what is asked then may not.
        _ = try host.run(":", input: [], timeout: .seconds(60), limit: HostFacts.outputLimit)
        enter(.probe, "")
        let command = HostFacts.quickCommand(root: shell(remoteRoot), cluster: workspace.clusterID)
        let begin = Machine.unixTime
        let result = try HostFacts.ask(command, on: host)
        // A key that is restricted to the bridge runs it whatever is asked.
        if result.text.contains(bridgeSentinel.dropLast()) { return nil }
        var facts = HostFacts()
        facts.take(result.text, begin: begin, end: Machine.unixTime)
        if let obstacle = facts.obstacle(host: name, root: remoteRoot) { throw obstacle }
        state.withLock { $0.facts = facts }
        post(name, .facts(facts))
        return facts
    }

    /// A restricted login starts the worker that came with its key: it must be one of ours of today.
    func checkEntry(_ host: any Host) throws {
        let said = try host.run(RestrictedEntry.versionWord).text
        let built = Workspace.triples.compactMap { try? workspace.worker($0).digest }
        let wanted = (built + (workspace.runWorker.map { [$0] } ?? [])).map { "coord-worker-\($0.short)" }
        guard !wanted.contains(where: { said == "\(RestrictedEntry.version) \($0)" }) else { return }
        throw CoordinatorError(
            "\(name): its restricted login starts another worker (\(ForeignText.line(said, limit: 60)))",
            hint: "coord keys bootstrap --restrict \(name) brings the one that is built here",
            exitCode: .protocolVersion
        )
    }

    /// Sees to it that the worker of the machine's kind is there and its agent runs.
    func install(
        _ facts: HostFacts,
        on host: any Host,
        _ enter: (HostPhase, String) -> Void
    ) throws {
        let program: String
        if let kept = workspace.runWorker.map({ "coord-worker-\($0.short)" }), facts.workers.contains(kept) {
            // A run keeps the program that it began with, whatever was built meanwhile.
            program = "\(remoteRoot)/bin/\(kept)"
        } else {
            let worker = try workspace.worker(facts.triple)
            let file = "coord-worker-\(worker.digest.short)"
            program = "\(remoteRoot)/bin/\(file)"
            if !facts.workers.contains(file) {
                enter(.push, "\(worker.size)")
                try push(worker, to: program, over: host)
            }
        }
        enter(.start, "")
        let started = try host.run(
            "\(shell(program)) start --directory \(shell(remoteRoot)) --cluster \(workspace.clusterID) "
                + "--boot \(spec.boot.rawValue)",
            input: []
        )
        guard started.exit.isSuccess else { throw agentDidNotStart(started) }
        state.withLock { $0.program = program }
    }

    /// Asks what takes seconds, once the host is ready: nobody waits for it.
    func lookCloser(_ host: any Host) {
        guard let seen = state.withLock({ $0.facts }), seen.gpus == nil else { return }
        OSThread.start(name: "probe-\(name)") { [self] in
            var facts = seen
            let command = HostFacts.slowCommand(python: shell(spec.python ?? "python3"))
            // A host that does not answer this in time works all the same.
            guard let result = try? HostFacts.ask(command, on: host) else { return }
            facts.take(result.text, begin: 0, end: 0)
            state.withLock { $0.facts = facts }
            post(name, .facts(facts))
        }
    }

    func push(_ worker: WorkerBinary, to program: String, over host: any Host) throws {
        try WorkerUpload(host: host, worker: worker, program: program).run { sent in
            post(name, .phase(.push, detail: "\(sent) of \(worker.size)"))
        }
    }

    func agentDidNotStart(_ result: CommandResult) -> CoordinatorError {
        let parts = result.errorText.split(separator: "\n\nhint: ", maxSplits: 1)
        let code: ExitCode =
            if case .exited(let status) = result.exit { ExitCode(rawValue: status) } else { .failed }
        return CoordinatorError(
            "\(name): \(parts.first.map { $0.replacing("coord-worker: error: ", with: "") } ?? "the agent did not start")",
            hint: parts.count > 1 ? String(parts[1].split(separator: "\n").first ?? "") : nil,
            exitCode: code
        )
    }

    /// Gives the connection up and makes it anew, for an agent of the build that is there now.
    func renew() {
        jobs.put { [self] in state.withLock { $0.disconnect() } }
        bringUp()
    }
}
