internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Remote
internal import Synchronization
internal import Wire

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

    struct State {
        var host: (any Host)?
        var facts: HostFacts?
        /// Where it answers; nil for this machine, and before it was looked up.
        var endpoint: SSHEndpoint?
        /// The worker program there, as the host's shell sees it.
        var program = ""
        var client: AgentClient?
        /// The connections for chunks.
        var bulk: BulkLink?
        /// Names this way to the host: the agent ends the connections of an earlier one.
        var way: String?
        var isClosed = false

        /// Ends all connections.
        mutating func disconnect() {
            client?.channel.close()
            bulk?.close()
            host?.close()
            client = nil
            bulk = nil
            host = nil
        }
    }

    static let count = Atomic<Int>(0)

    let spec: HostSpec
    /// Tells this session from those before it for the same host.
    let number: Int
    let workspace: Workspace
    let trust: HostKeyPolicy
    let passphrase: PassphraseSource
    let tell: @Sendable (String, Int, News) -> Void
    let cursors: @Sendable () -> [RunID: Int]
    let jobs = Mailbox<@Sendable () -> Void>()
    let bulkJobs = Mailbox<@Sendable () -> Void>()
    let state = Mutex(State())

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

    /// Where it answers, as it was looked up for the connection that is; nil for this machine.
    var endpoint: SSHEndpoint? { state.withLock { $0.endpoint } }

    /// The agent's folder as the host's shell sees it.
    var remoteRoot: String { workspace.agentFolder(of: spec) }

    func post(_ host: String, _ news: News) { tell(host, number, news) }

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

    func run(
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

    func explained(_ error: any Error) -> any ExplainedError {
        error as? any ExplainedError ?? CoordinatorError("\(name): \(error)", exitCode: .bug)
    }

    func dropped(_ client: AgentClient, _ error: LostConnection) {
        client.channel.close()
        let wasControl = state.withLock { state -> Bool in
            guard state.client === client else { return false }
            state.client = nil
            return !state.isClosed
        }
        if wasControl { post(name, .lost(reason: error.message)) }
    }

    func bulkLink() throws -> BulkLink {
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

    func openClient(_ host: any Host) throws -> AgentClient {
        let program = state.withLock { $0.program }
        let socket = try host.openStream(BulkLink.bridge(shell(program), shell(remoteRoot)))
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

    /// How often a host learns which of its events are kept here and need not be kept there.
    private static let acknowledgementInterval = Duration.seconds(30)

    func followEvents(_ host: any Host, beside control: AgentClient) throws {
        let client = try openClient(host)
        try client.channel.send(AgentRequest.events(after: cursors()))
        OSThread.start(name: "events-\(name)") { [self] in
            do {
                var told = ContinuousClock.now
                while let frame = try client.channel.receive() {
                    post(name, .event(try MessageCoding.decode(AgentEvent.self, from: frame.payload)))
                    if ContinuousClock.now - told > Self.acknowledgementInterval {
                        told = .now
                        try client.channel.send(AgentRequest.events(after: cursors()))
                    }
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

    /// Ends the conversation; the agent goes on.
    func close() {
        state.withLock { state in
            state.isClosed = true
            state.disconnect()
        }
    }

    func shell(_ path: String) -> String { ShellQuoting.path(path) }
}
