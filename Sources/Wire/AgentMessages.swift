public import Basics

/// The version of everything in this module.
///
/// Both sides must have the same; `coord up` brings the matching worker.
public let protocolVersion = 2

/// What the bridge prints before the first frame; whatever a login shell prints before it is skipped.
public let bridgeSentinel = "COORD-BRIDGE-1\n"

/// What the coordinator asks of an agent.
///
/// On each connection: one request, one reply, in order; `putChunks` and `getChunks` carry many frames in one.
public enum AgentRequest: Codable, Sendable {
    /// The first message of each connection.
    ///
    /// - session: the same on all connections that a coordinator makes at a time; a new one replaces the
    ///   connections of those before, whose other end may be gone without a word.
    case hello(protocolVersion: Int, cluster: String, host: String, session: String? = nil)
    /// What the host is and what goes on there.
    case status
    /// Which of these manifests are in the host's store.
    case known([Digest])
    /// Take a manifest to send the chunks for: `parts` bytes frames follow.
    ///
    /// Together they hold the manifest as it travels, against `base` where one is named. A bytes frame follows the
    /// reply: one bit for each of the manifest's chunks, set where the host lacks it.
    case offer(Digest, base: Digest?, parts: Int)
    /// Take chunks: batches follow, a bytes frame each, without waiting, up to an empty one.
    ///
    /// Each is answered by a bytes frame with its number (`u64 LE`, from 1), and the end by `done` when all are on the
    /// disk. A refusal comes once, at any moment; what follows up to the empty frame is dropped.
    case putChunks
    /// Make the manifest that was offered on this connection visible: its chunks are all there.
    case publish(Digest)
    /// Send a manifest; as many bytes frames as the reply says follow.
    case getManifest(Digest)
    /// Send chunks: the bytes frame that follows holds their names, 32 bytes each.
    ///
    /// After the reply come batches, a bytes frame each, and an empty one.
    case getChunks
    /// Start a trainer.
    case train(TrainerStart)
    /// Tell the run's trainers on this host who the members are.
    case generation(GenerationPlan)
    /// Tell a trainer that joins where the run stands.
    case standing(run: RunID, member: Int, generation: Int, String)
    /// Give a trainer that joins the state that belongs to it; its manifest is in the host's store.
    case state(run: RunID, member: Int, generation: Int, manifest: Digest)
    /// Kill one trainer, which was expelled.
    case expel(run: RunID, member: Int)
    /// Harm one trainer, as a drill.
    case injure(run: RunID, member: Int, Injury)
    /// End the run's trainers on this host and forget the run.
    case endRun(RunID)
    /// From now on this connection carries ``AgentEvent`` only: those behind the given numbers, then new ones.
    case events(after: [RunID: Int])
    /// Make `coord-serve` release a version whose manifest is in the store.
    case release(ServedVersion, serve: ServeSetup)
    /// Switch `coord-serve` back.
    case rollback
    /// What `coord-serve` says of itself.
    case serveStatus
    /// One prediction; the bytes frame that follows holds `count` float32 values.
    case predict(count: Int)
    /// Do two steps of a run alone, all lanes of it; the reply is ``AgentReply/preflight(_:)``.
    case preflight(TrainerStart)
    /// From now on these terms hold.
    case terms(AgentTerms)
    /// These checkpoints are safe with the coordinator, or nobody needs them.
    case saved([Digest])
    /// Listen on an address of the host for measurements, until this connection ends.
    case routeListen(bind: String)
    /// Try these places, all at once.
    case tryRoutes([ProbeTarget])
    /// Keep a way to a host where relayed links of the run meet, by the host's own ssh; refused when it can't be made.
    case openHub(run: RunID, HubAccess)
    /// From now on this connection carries relayed streams: `peer` is who is at its other end, `host` who the agent is.
    case relay(peer: String, host: String)
    /// End all trainers, `coord-serve` and the agent; with `wipe` remove the agent's folder too.
    ///
    /// - stops: run the stop command as well: `shutdown` is answered first, ``AgentReply/stopped(_:)`` follows, unless
    ///   the host is gone by then. When the command fails, the agent stays and tries again.
    /// - force: also when that loses checkpoints that nobody else has.
    case shutdown(wipe: Bool, stops: Bool? = nil, force: Bool? = nil)
}

/// How `coord-serve` is started on a host.
public struct ServeSetup: Codable, Sendable, Hashable {
    /// The program's manifest in the host's store (one file, `coord-serve`).
    public var program: Digest
    /// Where it speaks HTTP.
    public var listen: String
    /// The variable that holds the token; nil = none asked.
    public var tokenVariable: String?
    /// All fields.
    public init(program: Digest, listen: String, tokenVariable: String? = nil) {
        self.program = program
        self.listen = listen
        self.tokenVariable = tokenVariable
    }
}

/// What an agent answers.
public enum AgentReply: Codable, Sendable {
    /// Done, nothing to say.
    case done
    /// To `hello`.
    case hello(protocolVersion: Int, instance: String, worker: Digest)
    /// To `status`.
    case status(AgentStatus)
    /// To `preflight`.
    case preflight(PreflightReport)
    /// To `routeListen`: where, and what is said there first.
    case routeListening(address: String, token: [UInt8])
    /// To `tryRoutes`, in the order of the targets.
    case triedRoutes([ProbeResult])
    /// To `known`.
    case known([Digest])
    /// To `getManifest`: so many bytes frames follow.
    case parts(Int)
    /// To whatever `coord-serve` answered.
    case serve(ServeReply)
    /// To `shutdown`: what ended.
    case ended(SweepReport)
    /// After `ended`: how the stop command went.
    case stopped(StopResult)
    /// Nothing was changed; the reason, what to do, and the exit code that fits.
    case refused(message: String, hint: String?, exitCode: Int32)
}

/// What a host is and what goes on there.
public struct AgentStatus: Codable, Sendable {
    /// One trainer that the agent started.
    public struct Trainer: Codable, Sendable, Hashable {
        /// The run.
        public var run: RunID
        /// Which restart of the run.
        public var attempt: Int
        /// The member's number.
        public var member: Int
        /// The process; nil when it has ended.
        public var pid: Int32?
        /// Where the other members dial it; nil before it listens.
        public var address: String?
        /// True when it has done the run's last step.
        public var isFinished: Bool
        /// How it ended; nil while it runs.
        public var end: ProcessEnd?
        /// True while it has no state of the run: it came while the others were at work.
        public var joins: Bool
        /// All fields.
        public init(
            run: RunID,
            attempt: Int,
            member: Int,
            pid: Int32?,
            address: String?,
            isFinished: Bool,
            end: ProcessEnd?,
            joins: Bool = false
        ) {
            self.run = run
            self.attempt = attempt
            self.member = member
            self.pid = pid
            self.address = address
            self.isFinished = isFinished
            self.end = end
            self.joins = joins
        }
    }

    /// CPUs.
    public var cores: Int
    /// Memory; unit: bytes.
    public var memory: Int64
    /// Free space where the store is; unit: bytes.
    public var freeSpace: Int64
    /// The best kernel set.
    public var kernels: KernelSet?
    /// The agent's process.
    public var pid: Int32
    /// All trainers since the agent started, of runs that were not ended.
    public var trainers: [Trainer]
    /// The last generation that the agent was told, per run.
    public var generations: [GenerationPlan]
    /// What is served; nil when `coord-serve` does not run.
    public var serve: ServeStatus?
    /// The program that the agent runs.
    public var worker: Digest?
    /// How long the agent and its host will live.
    public var lease: LeaseStatus?
    /// Whether the agent comes back after a reboot.
    public var boot: BootStatus?
    /// Checkpoints in the host's store of which the coordinator has not said that it has them.
    public var unsaved: [Digest]?
    /// The last event of each run.
    public var events: [RunID: Int]?
    /// Since the machine was started; unit: seconds.
    public var uptime: Double?

    /// All fields.
    public init(
        cores: Int,
        memory: Int64,
        freeSpace: Int64,
        kernels: KernelSet?,
        pid: Int32,
        trainers: [Trainer],
        generations: [GenerationPlan],
        serve: ServeStatus?,
        worker: Digest? = nil,
        lease: LeaseStatus? = nil,
        boot: BootStatus? = nil,
        unsaved: [Digest]? = nil,
        events: [RunID: Int]? = nil,
        uptime: Double? = nil
    ) {
        self.cores = cores
        self.memory = memory
        self.freeSpace = freeSpace
        self.kernels = kernels
        self.pid = pid
        self.trainers = trainers
        self.generations = generations
        self.serve = serve
        self.worker = worker
        self.lease = lease
        self.boot = boot
        self.unsaved = unsaved
        self.events = events
        self.uptime = uptime
    }
}

/// Something that happened on a host, kept there until the coordinator has it.
public struct AgentEvent: Codable, Sendable, Hashable {
    /// The run.
    public var run: RunID
    /// Rises by one for each (host, run); a host that was wiped goes on above all numbers before.
    public var sequence: Int
    /// Which restart of the run.
    public var attempt: Int
    /// Whose report it is.
    public var member: Int
    /// What happened.
    public var report: TrainerReport
    /// Seconds since 1970 on the host's clock.
    public var time: Double

    /// All fields.
    public init(
        run: RunID,
        sequence: Int,
        attempt: Int,
        member: Int,
        report: TrainerReport,
        time: Double
    ) {
        self.run = run
        self.sequence = sequence
        self.attempt = attempt
        self.member = member
        self.report = report
        self.time = time
    }
}
