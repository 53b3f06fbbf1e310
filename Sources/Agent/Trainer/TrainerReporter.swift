internal import Basics
internal import Training
internal import Wire

/// Tells the agent what the loop does.
///
/// Every member keeps the last steps; the generation's first member reports them. When the first one dies, the next
/// begins with what it kept, so that nothing is missing; what is told twice has the same number and counts once.
final class TrainerReporter: TrainingObserver {
    /// Steps kept by those who are not first; unit: steps.
    private static let kept = 1024
    /// Steps that a pace is measured over, at least.
    private static let paceSteps = 5

    private let exchange: NetworkExchange
    private let writer: CheckpointWriter
    private let report: @Sendable (TrainerReport) -> Void
    private let lastEpoch: Int
    private var steps: [StepMetric] = []
    private var epochs: [EpochMetric] = []
    private var lastReport = ContinuousClock.now
    private var worked = 0
    /// What the steps since the last word about the pace took, all with that number of lanes.
    private var measured = (lanes: 0, steps: 0, seconds: 0.0)
    private var lastPace = ContinuousClock.now
    private let threads: Int
    private(set) var weights: Digest?

    init(
        exchange: NetworkExchange,
        writer: CheckpointWriter,
        lastEpoch: Int,
        threads: Int,
        report: @escaping @Sendable (TrainerReport) -> Void
    ) {
        self.exchange = exchange
        self.threads = threads
        self.writer = writer
        self.lastEpoch = lastEpoch
        self.report = report
    }

    func didFinishStep(_ step: StepReport) throws {
        if !step.computedLanes.isEmpty { worked += 1 }
        measurePace(step)
        steps.append(
            StepMetric(
                step: step.globalStep + 1,
                epoch: step.epoch + 1,
                loss: step.loss,
                accuracy: step.accuracy,
                learningRate: step.learningRate,
                samples: step.samples,
                seconds: step.secondsCompute + step.secondsExchange,
                times: step.times
            )
        )
        if let notice = step.notice, exchange.isFirst {
            report(
                .spike(
                    step: notice.globalStep + 1,
                    epoch: notice.epoch + 1,
                    loss: notice.loss,
                    usual: notice.usual,
                    lanes: notice.lanes,
                    samples: notice.samples
                )
            )
        }
        if !exchange.isFirst {
            if steps.count > 2 * Self.kept { steps.removeFirst(Self.kept) }
        } else if ContinuousClock.now - lastReport > .milliseconds(100) {
            flush()
        }
    }

    /// Tells how fast the lanes are computed: the mean since the last word, a few times a second.
    ///
    /// The mean and not the median: a processor that is taken away now and then makes a few steps long and leaves the others alone.
    private func measurePace(_ step: StepReport) {
        guard let seconds = step.secondsLanes, !step.computedLanes.isEmpty else { return }
        if measured.lanes != step.computedLanes.count { measured = (step.computedLanes.count, 0, 0) }
        measured.seconds += seconds
        measured.steps += 1
        guard measured.steps >= Self.paceSteps, ContinuousClock.now - lastPace > .milliseconds(250),
            let generation = exchange.generation
        else { return }
        let mean = measured.seconds / Double(measured.steps)
        report(
            .pace(generation: generation, LanePace(threads: threads, lanes: measured.lanes, seconds: mean))
        )
        lastPace = .now
        measured = (measured.lanes, 0, 0)
    }

    func didFinishEpoch(_ epoch: EpochReport) throws {
        epochs.append(Self.metric(epoch))
        if exchange.isFirst { flush() } else if epochs.count > 4 { epochs.removeFirst() }
        report(.worked(steps: worked, lanes: exchange.lanes))
    }

    func wantsCheckpoint(epoch: Int) -> Bool {
        // The last one counts most and costs nothing to have twice: all members write it.
        exchange.isWriter || epoch + 1 == lastEpoch
    }

    func takeCheckpoint(_ checkpoint: Checkpoint) throws {
        weights = checkpoint.weightsDigest
        if let epoch = checkpoint.report { writer.write(checkpoint, metric: Self.metric(epoch)) }
    }

    /// Reports what is kept.
    func flush() {
        lastReport = .now
        if !steps.isEmpty { report(.steps(steps)) }
        for epoch in epochs { report(.epoch(epoch)) }
        steps = []
        epochs = []
    }

    private static func metric(_ epoch: EpochReport) -> EpochMetric {
        EpochMetric(
            epoch: epoch.epoch + 1,
            step: epoch.globalStep,
            trainLoss: epoch.trainLoss,
            trainAccuracy: epoch.trainAccuracy,
            valLoss: epoch.valLoss ?? 0,
            valAccuracy: epoch.valAccuracy ?? 0,
            seconds: epoch.seconds
        )
    }
}
