public import Basics

/// A secret that travels inside a protected channel; shows itself to nobody.
public struct WireSecret: Codable, Sendable, Hashable, CustomStringConvertible {
    /// The bytes.
    public var bytes: [UInt8]
    /// Wraps bytes.
    public init(_ bytes: [UInt8]) { self.bytes = bytes }
    /// Always `[redacted]`.
    public var description: String { "[redacted]" }
}

/// What a trainer may take of its host's memory.
public struct MemoryTerms: Codable, Sendable, Hashable {
    /// What happens when that will not do.
    public var policy: MemoryPolicy
    /// At most so much, whatever is free; nil = what is free; unit: bytes.
    public var limit: Int?
    /// Trainers that begin on the host at the same time and share what is free.
    public var neighbours: Int
    /// Trainers of the run.
    public var members: Int

    /// All fields.
    public init(policy: MemoryPolicy = .refuse, limit: Int? = nil, neighbours: Int = 1, members: Int = 1) {
        self.policy = policy
        self.limit = limit
        self.neighbours = neighbours
        self.members = members
    }
}

/// What a trainer needs to begin: everything but the other members.
public struct TrainerStart: Codable, Sendable, Hashable {
    /// The run.
    public var run: RunID
    /// Which restart of the run this is, from 1.
    public var attempt: Int
    /// What decides the bits.
    public var record: RunRecord
    /// This member's number, fixed for the attempt.
    public var member: Int
    /// Threads for the lanes.
    public var threads: Int
    /// The numeric address that the other members dial: `127.0.0.1`.
    public var bind: String
    /// The checkpoint's manifest to go on from; nil = from the beginning.
    public var resume: Digest?
    /// True when the run is on: this member waits for the state from the others.
    public var joins: Bool
    /// What it does about its memory.
    public var memory: MemoryTerms

    /// All fields.
    public init(
        run: RunID,
        attempt: Int,
        record: RunRecord,
        member: Int,
        threads: Int,
        bind: String,
        resume: Digest? = nil,
        joins: Bool = false,
        memory: MemoryTerms = MemoryTerms()
    ) {
        self.memory = memory
        self.run = run
        self.attempt = attempt
        self.record = record
        self.member = member
        self.threads = threads
        self.bind = bind
        self.resume = resume
        self.joins = joins
    }
}

/// The members of a run between two changes of membership.
public struct GenerationPlan: Codable, Sendable, Hashable {
    /// One member.
    public struct Member: Codable, Sendable, Hashable {
        /// Its number, fixed for the attempt.
        public var member: Int
        /// Its host's name.
        public var host: String
        /// Where the others dial it.
        public var address: String
        /// The lanes it computes.
        public var lanes: LaneSet
        /// All fields.
        public init(member: Int, host: String, address: String, lanes: LaneSet) {
            self.member = member
            self.host = host
            self.address = address
            self.lanes = lanes
        }
    }

    /// The run.
    public var run: RunID
    /// Which restart of the run.
    public var attempt: Int
    /// From 1, rising by one.
    public var number: Int
    /// In rising order of their numbers; the rank of a member is its index here.
    public var members: [Member]
    /// Who writes the checkpoints of this generation: two members, on two hosts where there are two.
    public var writers: [Int]
    /// What the members prove to one another.
    public var secret: WireSecret
    /// How hosts meet that are not on one machine; a pair that is not named meets directly.
    public var routes: [PeerRoute]
    /// The members that add up the gradients; empty = each its part.
    public var owners: [Int]
    /// The members that join: they take part before they have the run's state, and have no lanes.
    public var joiners: [Int]
    /// The member that gives it to them.
    public var giver: Int?
    /// What the generation takes the place of; nil from a build that did not say.
    public var basis: GenerationBasis?

    /// All fields.
    public init(
        run: RunID,
        attempt: Int,
        number: Int,
        members: [Member],
        writers: [Int],
        secret: WireSecret,
        routes: [PeerRoute] = [],
        owners: [Int] = [],
        joiners: [Int] = [],
        giver: Int? = nil,
        basis: GenerationBasis? = nil
    ) {
        self.run = run
        self.attempt = attempt
        self.number = number
        self.members = members
        self.writers = writers
        self.secret = secret
        self.routes = routes
        self.owners = owners
        self.joiners = joiners
        self.giver = giver
        self.basis = basis
    }

    /// The plan as the rules of membership see it.
    public var view: GenerationView {
        GenerationView(
            number: number,
            mark: basis?.mark ?? 0,
            members: members.map { GenerationView.Member(member: $0.member, lanes: $0.lanes) },
            joiners: joiners
        )
    }
}

/// What the agent tells a trainer, over the socket that the trainer inherits.
public enum TrainerCommand: Codable, Sendable, Hashable {
    /// The first message.
    case start(TrainerStart)
    /// Give up the generation in force and join this one.
    case generation(GenerationPlan)
    /// Where the run stands, for a member that joins in that generation: JSON as `Training` writes it.
    case standing(generation: Int, String)
    /// The state that belongs to it; its files lie in the host's store.
    case state(generation: Int, manifest: Digest)
    /// A coordinator is connected to the agent, or none is.
    case coordinator(isPresent: Bool)
    /// Another member of the run ended on this host; the generations that it had agreed to open.
    case ended(member: Int, plans: [GenerationView])
    /// Do yourself this harm at the next exchange: ``Injury/Kind/partition`` or ``Injury/Kind/corrupt``.
    case injure(Injury)
    /// End now; nothing more is saved.
    case stop
}

/// One training step, as the run's metrics keep it.
public struct StepMetric: Codable, Sendable, Hashable {
    /// The optimizer step, from 1 over the whole run.
    public var step: Int
    /// The epoch, from 1.
    public var epoch: Int
    /// Mean loss of the step's samples.
    public var loss: Double
    /// Fraction of the step's samples that were classified rightly, before the update.
    public var accuracy: Double
    /// The learning rate of the update.
    public var learningRate: Double
    /// Samples in the step.
    public var samples: Int
    /// Wall time of the step; unit: seconds.
    public var seconds: Double
    /// Where the time went on the member that reports; unit: seconds.
    public var times: StepTimes?

    /// All fields.
    public init(
        step: Int,
        epoch: Int,
        loss: Double,
        accuracy: Double,
        learningRate: Double,
        samples: Int,
        seconds: Double,
        times: StepTimes? = nil
    ) {
        self.times = times
        self.step = step
        self.epoch = epoch
        self.loss = loss
        self.accuracy = accuracy
        self.learningRate = learningRate
        self.samples = samples
        self.seconds = seconds
    }
}

/// One pass over the training samples, measured on the validation samples.
public struct EpochMetric: Codable, Sendable, Hashable {
    /// The epoch, from 1.
    public var epoch: Int
    /// Optimizer steps so far.
    public var step: Int
    /// Mean loss over the epoch's training samples, while the weights changed.
    public var trainLoss: Double
    /// Accuracy over the epoch's training samples, while the weights changed.
    public var trainAccuracy: Double
    /// Mean loss on the validation samples.
    public var valLoss: Double
    /// Accuracy on the validation samples.
    public var valAccuracy: Double
    /// Wall time of the epoch; unit: seconds.
    public var seconds: Double

    /// All fields.
    public init(
        epoch: Int,
        step: Int,
        trainLoss: Double,
        trainAccuracy: Double,
        valLoss: Double,
        valAccuracy: Double,
        seconds: Double
    ) {
        self.epoch = epoch
        self.step = step
        self.trainLoss = trainLoss
        self.trainAccuracy = trainAccuracy
        self.valLoss = valLoss
        self.valAccuracy = valAccuracy
        self.seconds = seconds
    }
}

/// What a trainer tells its agent, and the agent its coordinator.
public enum TrainerReport: Codable, Sendable, Hashable {
    /// Data loaded, waiting for a generation at this address.
    case listening(address: String, trainingSamples: Int, stepsPerEpoch: Int)
    /// All links of the generation are up; whether the step in flight is computed (again).
    case joined(generation: Int, repeats: Bool)
    /// This member is about to open a generation that the members made themselves: its last word, should it end now.
    case accepted(GenerationPlan, reason: String)
    /// The member accepts a generation that the coordinator announced: its last word, should it end now.
    case opening(generation: Int, mark: UInt64)
    /// The member will never open that generation; it opens none up to `promised` any more.
    case refused(generation: Int, mark: UInt64, promised: Int, reason: String)
    /// All members of the generation met, so all had accepted it.
    case confirmed(generation: Int, mark: UInt64)
    /// Nothing goes on here without the coordinator, and why.
    case parked(reason: String)
    /// The generation can't go on: another member is gone, or says nothing.
    case peerLost(generation: Int, member: Int?, isSilent: Bool, reason: String)
    /// Steps done since the last report; only the generation's first member sends them.
    case steps([StepMetric])
    /// An epoch is over; only the generation's first member sends it.
    case epoch(EpochMetric)
    /// How many steps this member has worked in.
    case worked(steps: Int, lanes: LaneSet)
    /// How fast this member computes lanes.
    case pace(generation: Int, LanePace)
    /// Members keep this one waiting with their lanes, for so long by now.
    case late(generation: Int, members: [Int], milliseconds: Int)
    /// A checkpoint lies verified in the host's store.
    case checkpoint(manifest: Digest, weights: Digest, size: Int64, metric: EpochMetric)
    /// Where the run stands, for those who join in that generation: JSON as `Training` writes it.
    case standing(generation: Int, String)
    /// The state that belongs to it lies in the host's store.
    case state(generation: Int, manifest: Digest)
    /// This member joined and holds the run's state now: it can compute lanes.
    case caughtUp(generation: Int)
    /// A checkpoint could not be kept on the host; training goes on.
    case checkpointFailed(epoch: Int, message: String)
    /// What this member will have in memory, and how it computes so that this fits: in words, and in bytes.
    case memory(bytes: Int, way: String, summary: String)
    /// The most that it had in memory; unit: bytes.
    case peakMemory(bytes: Int)
    /// A loss far above those before; only the generation's first member tells it.
    ///
    /// - Parameters: the step from 1, losses of it and before it, its lanes, the samples that stand out by their ids.
    case spike(step: Int, epoch: Int, loss: Double, usual: Double, lanes: [Int], samples: [String])
    /// The run's last step is committed; what this member sent to others for it.
    case finished(weights: Digest, bytesSent: Int)
    /// The trainer can't go on, whoever else is there.
    case failed(message: String, hint: String?)
    /// The process has ended (the agent says so, not the trainer).
    case exited(ProcessEnd)
}

/// How a supervised process ended.
public struct ProcessEnd: Codable, Sendable, Hashable, CustomStringConvertible {
    /// The exit status, when it ended by itself.
    public var status: Int32?
    /// The signal, when one killed it.
    public var signal: Int32?
    /// Why, when the host knows more than the signal says.
    public var cause: String?
    /// Takes how a child ended.
    public init(_ exit: ProcessExit, cause: String? = nil) {
        self.cause = cause
        switch exit {
        case .exited(let status): self.status = status
        case .signalled(let signal): self.signal = signal
        }
    }
    /// `exit status 65`, `killed by signal 9, the host ran out of memory`.
    public var description: String {
        if let signal { return "killed by signal \(signal)" + (cause.map { ", \($0)" } ?? "") }
        return "exit status \(status ?? -1)"
    }
}
