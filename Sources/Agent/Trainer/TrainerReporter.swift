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

    private let exchange: NetworkExchange
    private let writer: CheckpointWriter
    private let report: @Sendable (TrainerReport) -> Void
    private let lastEpoch: Int
    private var steps: [StepMetric] = []
    private var epochs: [EpochMetric] = []
    private var lastReport = ContinuousClock.now
    private var worked = 0
    private(set) var weights: Digest?

    init(
        exchange: NetworkExchange,
        writer: CheckpointWriter,
        lastEpoch: Int,
        report: @escaping @Sendable (TrainerReport) -> Void
    ) {
        self.exchange = exchange
        self.writer = writer
        self.lastEpoch = lastEpoch
        self.report = report
    }

    func didFinishStep(_ step: StepReport) throws {
        if !step.computedLanes.isEmpty { worked += 1 }
        steps.append(
            StepMetric(
                step: step.globalStep + 1,
                epoch: step.epoch + 1,
                loss: step.loss,
                accuracy: step.accuracy,
                learningRate: step.learningRate,
                samples: step.samples,
                seconds: step.secondsCompute + step.secondsExchange
            )
        )
        if !exchange.isFirst {
            if steps.count > 2 * Self.kept { steps.removeFirst(Self.kept) }
        } else if ContinuousClock.now - lastReport > .milliseconds(100) {
            flush()
        }
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
