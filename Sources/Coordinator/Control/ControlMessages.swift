public import Basics
public import Wire

/// What a command asks of the coordinator, over its unix socket.
///
/// One request a connection; events follow.
public enum ControlRequest: Codable, Sendable {
    /// Bring the cluster up and, when the file has a run, submit it or attach to it, and follow it.
    case up(UpRequest)
    /// Follow a run to its end; nil = the latest.
    case attach(run: RunID?)
    /// End a run; its checkpoints stay.
    case stopRun(run: RunID?)
    /// Put a checkpoint on a host: the best of the latest run, or a model version `name@N`.
    case deploy(host: String, version: String?)
    /// Put the version before back.
    case rollback(host: String)
    /// One prediction by what is live on a host.
    case predict(host: String?, values: [Float])
    /// Harm a worker of the run that is on, and report what came of it.
    case drill(DrillRequest)
    /// Try two steps of the file's run on all hosts, and measure the ways between them.
    case preflight
    /// Send hosts what a manifest in the store needs.
    case push(manifest: Digest, what: String, hosts: [String])
    /// How the hosts are.
    case status
    /// End agents and coordinator; with `hosts` the agents of these hosts only, and the run goes on without them.
    ///
    /// - force: also when that loses checkpoints that only a host has.
    case down(wipe: Bool, hosts: [String], force: Bool)
}

/// What `coord up` hands over.
public struct UpRequest: Codable, Sendable {
    /// The cluster file's text, as it was read and checked.
    public var fileText: String
    /// Where it lies.
    public var path: String
    /// False: bring the hosts up and leave it at that.
    public var submits: Bool
    /// Only these hosts, which then help the run that is on; empty = all.
    public var hosts: [String]
    /// False: even hosts that are named take no part in the run that is on.
    public var joins: Bool
    /// Fingerprints that a person has accepted, by host.
    public var trusted: [String: String]
    /// Pin keys that were never seen before without asking.
    public var acceptsNewHostKeys: Bool
    /// Passphrases of encrypted keys, by the key's file; kept in the coordinator's memory, nowhere else.
    public var passphrases: [String: WireSecret]
    /// The key for the API of the pods' provider; kept in the coordinator's memory, nowhere else.
    public var podKey: WireSecret?
    /// Who asks: user@machine.
    public var who: String
    /// Go on from this run's checkpoint instead of starting anew.
    public var resume: ResumeRequest?
    /// Train the file's ``ClusterFile/ClusterFile/baseline`` instead of its run.
    public var isBaseline: Bool

    /// All fields.
    ///
    /// - Parameter podKey: by default the one in this process's environment.
    public init(
        fileText: String,
        path: String,
        submits: Bool = true,
        hosts: [String] = [],
        joins: Bool = true,
        trusted: [String: String] = [:],
        acceptsNewHostKeys: Bool = false,
        passphrases: [String: WireSecret] = [:],
        podKey: WireSecret? = PodAccount.environmentKey.map { WireSecret(Array($0.utf8)) },
        who: String,
        resume: ResumeRequest? = nil,
        isBaseline: Bool = false
    ) {
        self.isBaseline = isBaseline
        self.fileText = fileText
        self.path = path
        self.submits = submits
        self.hosts = hosts
        self.joins = joins
        self.trusted = trusted
        self.acceptsNewHostKeys = acceptsNewHostKeys
        self.passphrases = passphrases
        self.podKey = podKey
        self.who = who
        self.resume = resume
    }
}

/// Where a run goes on.
public struct ResumeRequest: Codable, Sendable {
    /// The checkpoint's manifest.
    public var checkpoint: Digest
    /// The run that made it.
    public var run: RunID
    /// True: train again from there as a new run; false: the run itself goes on.
    public var isNewRun: Bool
    /// All fields.
    public init(checkpoint: Digest, run: RunID, isNewRun: Bool) {
        self.checkpoint = checkpoint
        self.run = run
        self.isNewRun = isNewRun
    }
}

/// What the coordinator tells a command; `coord … --json` prints these, one a line.
public enum ControlEvent: Codable, Sendable {
    /// A host moved on.
    case host(HostEvent)
    /// A host showed a key that nobody knows; asked again with it in `trusted`, it is pinned.
    case unknownHostKey(host: String, fingerprint: String)
    /// A key is encrypted and in no agent; asked again with its passphrase in `passphrases`, it is used.
    case passphraseNeeded(host: String, path: String)
    /// A run began, went on or changed its state.
    case run(RunEvent)
    /// The members changed.
    case generation(run: RunID, number: Int, members: [GenerationPlan.Member], reason: String)
    /// How two hosts of the run reach each other.
    case route(RouteEvent)
    /// The run's newest step.
    case step(run: RunID, metric: StepMetric, totalSteps: Int, samplesPerSecond: Double, secondsLeft: Double)
    /// An epoch is over.
    case epoch(run: RunID, metric: EpochMetric, epochs: Int)
    /// A checkpoint came home.
    case checkpoint(run: RunID, epoch: Int, manifest: Digest, isBest: Bool)
    /// A release moved on.
    case release(ReleaseEvent)
    /// What came of a drill.
    case drill(DrillReport)
    /// A preflight found something out.
    case preflight(PreflightEvent)
    /// Something is on its way to a host; a few times a second, and once when there is nothing to send.
    case transfer(TransferEvent)
    /// A rented pod, and what is odd about it.
    case pod(PodReport)
    /// Something that people should know.
    case note(String)
    /// What a model said.
    case prediction(version: ServedVersion, classes: [String], probabilities: [Double])
    /// The last event: how it went.
    case done(exitCode: Int32, message: String?, hint: String?)
}

/// A host on its way.
public struct HostEvent: Codable, Sendable {
    /// The host.
    public var host: String
    /// How far it is.
    public var phase: HostPhase
    /// What is going on, for people.
    public var detail: String
    /// What people should know of its agent: when the host is stopped, what would be lost.
    public var notes: [String]
    /// All fields.
    public init(host: String, phase: HostPhase, detail: String, notes: [String] = []) {
        self.host = host
        self.phase = phase
        self.detail = detail
        self.notes = notes
    }
}

/// How two hosts reach each other.
public struct RouteEvent: Codable, Sendable {
    /// One host.
    public var first: String
    /// The other.
    public var second: String
    /// `direct`, `one way` (only `by` can dial), `relay`.
    public var way: String
    /// The host that dials, or where the relay is; nil for both at once and for this machine.
    public var by: String?
    /// True when the pair waits while this machine is away.
    public var pausesWithoutThisMachine: Bool
    /// The shortest round trip; unit: seconds; nil when it was not measured.
    public var roundTrip: Double?
    /// How fast bytes went; nil when it was not measured.
    public var bytesPerSecond: Double?
    /// All of that for people.
    public var detail: String
}

/// A run's state.
public struct RunEvent: Codable, Sendable {
    /// The run.
    public var run: RunID
    /// Its name.
    public var name: String
    /// Its state, in the registry's words.
    public var state: String
    /// What is worth saying about it.
    public var detail: String
    /// All fields.
    public init(run: RunID, name: String, state: String, detail: String) {
        self.run = run
        self.name = name
        self.state = state
        self.detail = detail
    }
}

/// A release's state.
public struct ReleaseEvent: Codable, Sendable {
    /// Where.
    public var host: String
    /// What: `name@N`.
    public var version: String
    /// `sending`, `verifying`, `live`, `refused`, `rolled back`.
    public var state: String
    /// What is worth saying about it.
    public var detail: String
    /// All fields.
    public init(host: String, version: String, state: String, detail: String) {
        self.host = host
        self.version = version
        self.state = state
        self.detail = detail
    }
}

/// How far something is on its way to a host.
public struct TransferEvent: Codable, Sendable {
    /// Where to.
    public var host: String
    /// What: `dataset`, `checkpoint`, `program`, or a dataset's name.
    public var what: String
    /// The file that is on its way.
    public var file: String
    /// Files of which nothing is missing there any more.
    public var filesDone: Int
    /// All files.
    public var files: Int
    /// Content that arrived; unit: bytes.
    public var sent: Int64
    /// What was missing there at the start; unit: bytes.
    public var total: Int64
    /// What it took on the line, compressed and with lists; unit: bytes.
    public var onTheLine: Int64
    /// Recent speed; unit: bytes of content a second.
    public var bytesPerSecond: Double
    /// nil until a speed is known.
    public var secondsLeft: Double?
    /// True when all is there.
    public var isDone: Bool

    init(host: String, what: String, _ state: TransferState, isDone: Bool = false) {
        self.host = host
        self.what = what
        file = state.file
        filesDone = state.filesDone
        files = state.files
        sent = state.sent
        total = state.total
        onTheLine = state.onTheLine
        bytesPerSecond = state.bytesPerSecond
        secondsLeft = state.secondsLeft
        self.isDone = isDone
    }
}
