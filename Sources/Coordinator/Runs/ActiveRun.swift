internal import Basics
internal import Wire

/// The run that is on.
struct ActiveRun {
    var id: RunID
    var record: RunRecord
    /// Digest of the cluster file's text.
    var clusterFile: Digest
    /// Who submitted it.
    var who: String
    /// Which restart of the run.
    var attempt: Int
    /// The training hosts.
    var hosts: Set<String>
    /// Hosts that were taken out of the run by hand, until they are brought in again.
    var left: Set<String> = []
    /// Nil until all trainers were asked to start, or until the hosts said what they do.
    var machine: RunMachine?
    /// What the registry keeps of ``RunMachine/succession``; ahead of it only while there is no machine.
    var succession = Succession()
    /// Hosts that are back and whose earlier events are still on their way; true where the agent is a new one.
    var returning: [String: (status: AgentStatus, isNewAgent: Bool)] = [:]
    /// Members whose trainers were started, as their hosts said.
    var begun: Set<Int> = []
    /// Events that came before `machine` was there.
    var early: [AgentEvent] = []
    var stepsPerEpoch: Int
    var lastEpoch: EpochMetric?
    /// The newest steps, for the speed.
    var window: [StepMetric] = []
    /// The generation in force, for a host that missed its announcement.
    var plan: GenerationPlan?
    /// Why the last epoch's checkpoint could not be kept on a host.
    var checkpointFailure: String?
    /// The digest of the final weights, when a member has said it.
    var weights: Digest?
    /// All members have done the last step; the run ends when all checkpoints are home.
    var isFinishing = false
    /// True until the run was taken up after the death of a coordinator.
    var isRecovered = false
    /// What the last restart lost and where it went on, for those who attach later.
    var restartNews: String?
    /// True when people were told that the run learns by heart.
    var isAdvised = false
    /// Restarts in a row from the same checkpoint, so that a run that can't go on ends.
    var fruitlessRestarts = 0
    /// The epoch that the last restart went on from.
    var restartEpoch: Int?

    /// Optimizer steps of the whole run.
    var totalSteps: Int { stepsPerEpoch * record.spec.epochs }

    /// Whether a checkpoint is the run's last one: of the last epoch, or the one that an early stop ended with.
    func isLast(_ epoch: Int, weights found: Digest?) -> Bool {
        if epoch == record.spec.epochs { return true }
        return record.spec.earlyStop != nil && weights != nil && found == weights
    }

    /// Whether an epoch may be the last; with an early stop each may.
    func mayBeLast(_ epoch: Int) -> Bool { record.spec.earlyStop != nil || epoch == record.spec.epochs }

    /// Keeps the newest steps and measures them.
    mutating func add(_ steps: [StepMetric]) {
        window += steps
        if window.count > 200 { window.removeFirst(window.count - 200) }
    }

    /// Samples a second over the newest steps.
    var samplesPerSecond: Double {
        let seconds = window.reduce(0) { $0 + $1.seconds }
        return seconds > 0 ? Double(window.reduce(0) { $0 + $1.samples }) / seconds : 0
    }

    /// Seconds to the end at the newest steps' speed.
    var secondsLeft: Double {
        guard let last = window.last, !window.isEmpty else { return 0 }
        return window.reduce(0) { $0 + $1.seconds } / Double(window.count)
            * Double(max(0, totalSteps - last.step))
    }
}

/// What a run needs to begin, found out away from the coordinator's thread.
struct PreparedRun: Sendable {
    var record: RunRecord
    var stepsPerEpoch: Int
    var trainingSamples: Int
    var validationSamples: Int
}
