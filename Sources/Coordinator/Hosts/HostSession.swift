internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Remote
internal import Synchronization
internal import Wire

/// How far a host is on its way into the cluster.
public enum HostPhase: String, Codable, Sendable, Hashable, CaseIterable {
    /// In the cluster file, not asked for yet.
    case idle
    /// Turning its name into addresses.
    case resolve
    /// Making the SSH connection.
    case connect
    /// Judging its key, and showing ours.
    case trust
    /// Looking at what the machine is.
    case probe
    /// Sending the worker program.
    case push
    /// Starting the agent.
    case start
    /// Opening the conversation with the agent.
    case link
    /// Ready for work.
    case ready
    /// Could not be brought up.
    case failed
    /// Was ready; the connection broke and is made anew.
    case lost
    /// Its agent has ended, as `coord down` asked.
    case down

    /// Its place on the way up.
    fileprivate var order: Int { Self.allCases.firstIndex(of: self) ?? 0 }

    /// The phase that a connection was in; nil for what comes after the login.
    fileprivate init?(_ phase: RemoteError.Phase) {
        switch phase {
        case .resolve: self = .resolve
        case .connect, .handshake: self = .connect
        case .trust, .authenticate: self = .trust
        case .open, .command, .stream, .upload, .keys: return nil
        }
    }
}

/// Brings one host up, keeps the conversation with its agent, and makes it anew when it breaks.
///
/// One thread does all the talking, job after job; what comes of it goes to `post`.
final class HostSession: Sendable {
    /// What the coordinator hears of a host.
    enum News: Sendable {
        case phase(HostPhase, detail: String)
        /// What the machine is; nothing is known of one whose login runs the bridge alone.
        case facts(HostFacts)
        case up(AgentStatus)
        case failed(HostPhase, message: String, hint: String?, exitCode: ExitCode)
        case lost(reason: String)
        case event(AgentEvent)
    }

    private struct State {
        var host: (any Host)?
        var facts: HostFacts?
        /// The worker program there, as the host's shell sees it.
        var program = ""
        var client: AgentClient?
        /// The connections for chunks.
        var bulk: BulkLink?
        /// Names this way to the host: the agent ends the connections of an earlier one.
        var way: String?
        var isClosed = false
    }

    private static let count = Atomic<Int>(0)

    let spec: HostSpec
    /// Tells this session from those before it for the same host.
    let number: Int
    private let workspace: Workspace
    private let trust: HostKeyPolicy
    private let passphrase: PassphraseSource
    private let tell: @Sendable (String, Int, News) -> Void
    private let cursors: @Sendable () -> [RunID: Int]
    private let jobs = Mailbox<@Sendable () -> Void>()
    private let bulkJobs = Mailbox<@Sendable () -> Void>()
    private let state = Mutex(State())

    /// - Parameters:
    ///   - cursors: the last event of each run that the registry has from this host.
    ///   - post: called on the session's threads.
    init(
        spec: HostSpec,
        workspace: Workspace,
        trust: HostKeyPolicy,
        passphrase: @escaping PassphraseSource,
        cursors: @escaping @Sendable () -> [RunID: Int],
        post: @escaping @Sendable (String, Int, News) -> Void
    ) {
        self.spec = spec
        self.workspace = workspace
        self.trust = trust
        self.passphrase = passphrase
        self.cursors = cursors
        tell = post
        number = Self.count.add(1, ordering: .relaxed).newValue
        OSThread.start(name: "host-\(spec.name)") { [jobs] in
            while true { jobs.take()() }
        }
        // Two, so that a checkpoint need not wait for the end of a data set.
        for _ in 0..<2 {
            OSThread.start(name: "bulk-\(spec.name)") { [bulkJobs] in
                while true { bulkJobs.take()() }
            }
        }
    }

    var name: String { spec.name }

    /// How the host sees our connection; nil before it is up, and for this machine.
    var route: HostFacts.Route? { state.withLock { $0.facts?.route } }

    /// The agent's folder as the host's shell sees it.
    private var remoteRoot: String { workspace.agentFolder(of: spec) }

    private func post(_ host: String, _ news: News) { tell(host, number, news) }

    // MARK: Jobs

    /// Runs `job` with the agent on the session's thread; a broken connection is reported as news.
    func perform(
        _ job: @escaping @Sendable (AgentClient) throws -> Void,
        failed: @escaping @Sendable (any ExplainedError) -> Void
    ) {
        jobs.put { [self] in
            guard let client = state.withLock({ $0.client }) else {
                return failed(LostConnection(host: name, cause: .truncated))
            }
            run(job, client, failed)
        }
    }

    /// Runs `job` with the connections for chunks, beside the conversation; two jobs at a time.
    func transfer(
        _ job: @escaping @Sendable (BulkLink) throws -> Void,
        failed: @escaping @Sendable (any ExplainedError) -> Void
    ) {
        bulkJobs.put { [self] in
            do {
                try job(try bulkLink())
            } catch {
                failed(explained(error))
            }
        }
    }

    private func run(
        _ job: (AgentClient) throws -> Void,
        _ client: AgentClient,
        _ failed: (any ExplainedError) -> Void
    ) {
        do {
            try job(client)
        } catch let error as LostConnection {
            dropped(client, error)
            failed(error)
        } catch {
            failed(explained(error))
        }
    }

    private func explained(_ error: any Error) -> any ExplainedError {
        error as? any ExplainedError ?? CoordinatorError("\(name): \(error)", exitCode: .bug)
    }

    private func dropped(_ client: AgentClient, _ error: LostConnection) {
        client.channel.close()
        let wasControl = state.withLock { state -> Bool in
            guard state.client === client else { return false }
            state.client = nil
            return !state.isClosed
        }
        if wasControl { post(name, .lost(reason: error.message)) }
    }

    private func bulkLink() throws -> BulkLink {
        try state.withLock { state in
            if let link = state.bulk { return link }
            guard state.host != nil else { throw LostConnection(host: name, cause: .truncated) }
            let link = BulkLink(host: name) { [self] in
                guard let host = self.state.withLock({ $0.host }) else {
                    throw LostConnection(host: name, cause: .truncated)
                }
                return try openClient(host)
            }
            state.bulk = link
            return link
        }
    }

    // MARK: Bring-up

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
                let host = connect(enter)
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
                state.withLock { state in
                    state.client?.channel.close()
                    state.bulk?.close()
                    state.host?.close()
                    state.client = nil
                    state.bulk = nil
                    state.host = nil
                }
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
    private func connect(_ enter: @escaping @Sendable (HostPhase, String) -> Void) -> any Host {
        state.withLock { state in
            state.bulk?.close()
            state.bulk = nil
            state.host?.close()
            state.way = Digest.hex(Sealing.randomBytes(8))
        }
        if spec.isLocal { return LocalHost(name: name) }
        return SSHHost(workspace.endpoint(spec), policy: trust, passphrase: passphrase) { phase in
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
    private func probe(
        _ host: any Host,
        _ enter: (HostPhase, String) -> Void
    ) throws -> HostFacts? {
        let command = HostFacts.quickCommand(root: shell(remoteRoot), cluster: workspace.clusterID)
        let begin = Machine.unixTime
        let result = try host.run(command)
        enter(.probe, "")
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
    private func checkEntry(_ host: any Host) throws {
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
    private func install(
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
    private func lookCloser(_ host: any Host) {
        guard let seen = state.withLock({ $0.facts }), seen.gpus == nil else { return }
        OSThread.start(name: "probe-\(name)") { [self] in
            var facts = seen
            let command = HostFacts.slowCommand(python: shell(spec.python ?? "python3"))
            // A host that does not answer this in time works all the same.
            guard let result = try? host.run(command, input: [], timeout: .seconds(20)) else { return }
            facts.take(result.text, begin: 0, end: 0)
            state.withLock { $0.facts = facts }
            post(name, .facts(facts))
        }
    }

    private func push(_ worker: WorkerBinary, to program: String, over host: any Host) throws {
        try WorkerUpload(host: host, worker: worker, program: program).run { sent in
            post(name, .phase(.push, detail: "\(sent) of \(worker.size)"))
        }
    }

    private func agentDidNotStart(_ result: CommandResult) -> CoordinatorError {
        let parts = result.errorText.split(separator: "\n\nhint: ", maxSplits: 1)
        let code: ExitCode =
            if case .exited(let status) = result.exit { ExitCode(rawValue: status) } else { .failed }
        return CoordinatorError(
            "\(name): \(parts.first.map { $0.replacing("coord-worker: error: ", with: "") } ?? "the agent did not start")",
            hint: parts.count > 1 ? String(parts[1].split(separator: "\n").first ?? "") : nil,
            exitCode: code
        )
    }

    private func openClient(_ host: any Host) throws -> AgentClient {
        let program = state.withLock { $0.program }
        let socket = try host.openStream("\(shell(program)) bridge --directory \(shell(remoteRoot))")
        do {
            let channel = try FrameChannel.afterSentinel(socket: socket, timeoutMilliseconds: 20_000)
            return try AgentClient(
                channel: channel,
                host: name,
                cluster: workspace.clusterID,
                session: state.withLock { $0.way }
            )
        } catch let error as FrameError {
            throw CoordinatorError(
                "\(name): the bridge to the agent did not open (\(error))",
                hint: "look at \(remoteRoot)/agent.log there",
                exitCode: .unreachable
            )
        }
    }

    /// A conversation of its own with the agent, for what must not wait behind others; any thread.
    ///
    /// - Throws: ``LostConnection`` while the host is not connected; ``CoordinatorError``, `RemoteError`.
    func openClient() throws -> AgentClient {
        guard let host = state.withLock({ $0.host }) else {
            throw LostConnection(host: name, cause: .truncated)
        }
        return try openClient(host)
    }

    /// Runs a command on the host beside all else; any thread.
    ///
    /// - Throws: ``LostConnection`` while the host is not connected; `RemoteError`.
    func command(_ text: String, input: [UInt8] = []) throws -> CommandResult {
        guard let host = state.withLock({ $0.host }) else {
            throw LostConnection(host: name, cause: .truncated)
        }
        return try host.run(text, input: input, timeout: .seconds(20))
    }

    /// The command that joins a peer's relayed streams to the agent here, as the host's shell sees it.
    func relayCommand(peer: String) -> String {
        let program = state.withLock { $0.program }
        return "\(shell(program)) relay --directory \(shell(remoteRoot)) --cluster \(workspace.clusterID) "
            + "--peer \(ShellQuoting.quote(peer)) --host \(ShellQuoting.quote(name))"
    }

    private func followEvents(_ host: any Host, beside control: AgentClient) throws {
        let client = try openClient(host)
        try client.channel.send(AgentRequest.events(after: cursors()))
        OSThread.start(name: "events-\(name)") { [self] in
            do {
                while let frame = try client.channel.receive() {
                    post(name, .event(try MessageCoding.decode(AgentEvent.self, from: frame.payload)))
                }
            } catch {
                // Whatever broke it, the conversation is over; the control connection is told below.
            }
            // While the agent is being ended, the answer to that is still on its way on the control connection.
            if !state.withLock({ $0.isClosed }) {
                dropped(control, LostConnection(host: name, cause: .truncated))
            }
        }
    }

    /// Gives the connection up and makes it anew, for an agent of the build that is there now.
    func renew() {
        jobs.put { [self] in
            state.withLock { state in
                state.client?.channel.close()
                state.bulk?.close()
                state.host?.close()
                state.client = nil
                state.bulk = nil
                state.host = nil
            }
        }
        bringUp()
    }

    /// How an agent is to end.
    struct Shutdown: Sendable {
        /// Remove what the host keeps.
        var wipes: Bool
        /// Give up checkpoints that nobody else has.
        var force: Bool
        /// Brings checkpoints home that only the host has.
        var rescue: @Sendable (BulkLink, [Digest]) throws -> Void
    }

    /// Ends the agent and what it started, and looks that nothing is left; stops a rented host.
    ///
    /// - Parameter done: told what was found and done, in words, or why the agent is not down.
    func shutDown(
        _ how: Shutdown,
        done: @escaping @Sendable (_ words: String, _ failure: (any ExplainedError)?) -> Void
    ) {
        jobs.put { [self] in
            do {
                let client = try state.withLock({ $0.client }) ?? openClient(connect { _, _ in })
                if !how.force, how.wipes || spec.rented, case .status(let status) = try client.call(.status),
                    let unsaved = status.unsaved, !unsaved.isEmpty
                {
                    try how.rescue(try bulkLink(), unsaved)
                }
                state.withLock { $0.isClosed = true }
                done(try end(client, how), nil)
            } catch {
                let failure = explained(error)
                done(failure.message, failure)
            }
            close()
        }
    }

    private func end(_ client: AgentClient, _ how: Shutdown) throws -> String {
        let (host, program) = state.withLock { ($0.host, $0.program) }
        // The program that looks afterwards lies in the folder; where none can be run, the agent removes it itself.
        let looks = !spec.rented && host != nil && !program.isEmpty
        let reply = try client.call(
            .shutdown(wipe: how.wipes && !looks, stops: spec.rented, force: how.force),
            timeout: 120_000
        )
        var report = SweepReport()
        if case .ended(let ended) = reply { report = ended }
        var words: [String] = []
        if spec.rented {
            // A host that goes away before it says so has been stopped.
            let frame = try? client.channel.receive(timeoutMilliseconds: 150_000)
            let answer = try frame.map { try MessageCoding.decode(AgentReply.self, from: $0.payload) }
            if case .stopped(let result)? = answer, !result.isSuccess {
                throw CoordinatorError(
                    "\(name): the stop command failed (\(result.text)); its agent stays and tries again",
                    hint: "stop the host by hand, or it goes on costing"
                )
            }
            words.append("stopped by: \(spec.stop ?? "")")
        }
        // The agent is gone when the connection is.
        while (try? client.channel.receive(timeoutMilliseconds: 30_000)) != nil {}
        if looks, let host {
            let command =
                "\(shell(program)) sweep --directory \(shell(remoteRoot)) --cluster \(workspace.clusterID)"
            let swept = try host.run(command + (how.wipes ? " --wipe" : ""))
            guard let found = try? MessageCoding.decode(SweepReport.self, from: swept.output) else {
                throw CoordinatorError(
                    "\(name): it could not be looked whether something is left: \(swept.errorText)"
                )
            }
            report.ended += found.ended
            report.removed += found.removed
            report.left = found.left
        }
        guard report.left.isEmpty else {
            throw CoordinatorError(
                "\(name): the agent is down, but left behind: \(report.left.joined(separator: ", "))",
                hint: "coord down again, or end it by hand"
            )
        }
        if !report.ended.isEmpty { words.append("ended \(report.ended.joined(separator: ", "))") }
        if !report.removed.isEmpty { words.append("removed \(report.removed.joined(separator: ", "))") }
        if looks { words.append(how.wipes ? "no process and no file is left" : "no process is left") }
        return words.joined(separator: "; ")
    }

    /// Ends the conversation; the agent goes on.
    func close() {
        state.withLock { state in
            state.isClosed = true
            state.client?.channel.close()
            state.bulk?.close()
            state.host?.close()
            state.client = nil
            state.bulk = nil
            state.host = nil
        }
    }

    private func shell(_ path: String) -> String { ShellQuoting.path(path) }

}
