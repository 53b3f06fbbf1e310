internal import Basics
internal import ContentStore
internal import Datasets
internal import Training
internal import Wire

/// `coord-worker preflight`: two training steps of a run, all lanes of it, alone; nothing is kept.
///
/// The order comes in, and the report goes out, through descriptor 3.
enum PreflightProgram {
    // The first one warms caches up, and one alone says little about speed.
    private static let stepCount = 2

    static func run(directory: AgentDirectory) throws {
        let channel = FrameChannel(socket: 3)
        guard let first = try channel.receive(),
            case .start(let start) = try MessageCoding.decode(TrainerCommand.self, from: first.payload)
        else { throw AgentError("the agent said nothing") }
        let spec = start.record.spec
        let store = try ChunkStore(directory: directory.store)
        let samples = try DatasetSamples(
            try Dataset(store: store, manifest: start.record.dataset),
            spec,
            threads: start.threads
        )
        let exchange = WitnessExchange(laneCount: spec.lanes)
        let observer = StepWitness(exchange: exchange, stepCount: stepCount)
        let loop = try TrainingLoop(
            record: start.record,
            samples: samples,
            exchange: exchange,
            laneThreads: start.threads,
            observer: observer
        )
        do {
            try loop.run()
        } catch is StepWitness.Enough {
            // The steps that were asked for are done.
        }
        try channel.send(
            PreflightReport(
                steps: observer.steps,
                shapes: loop.model.parameters.map(\.shape),
                optimizerParts: loop.optimizerParts
            )
        )
    }
}

/// Adds alone, and keeps the digest of what came out.
private final class WitnessExchange: GradientExchange {
    private let solo: SoloExchange
    private(set) var digest = Digest(of: "")

    init(laneCount: Int) { solo = SoloExchange(laneCount: laneCount) }

    var lanes: LaneSet { solo.lanes }

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        let outcome = try solo.exchange(
            operation: operation,
            contributions: contributions,
            laneValues: &laneValues,
            sum: sum,
            settles: settles
        )
        digest = Digest(of: UnsafeRawBufferPointer(sum))
        return outcome
    }
}

/// Notes each step, and ends the loop after the last one that was asked for.
private final class StepWitness: TrainingObserver {
    struct Enough: Error {}

    private let exchange: WitnessExchange
    private let stepCount: Int
    private(set) var steps: [PreflightReport.Step] = []

    init(exchange: WitnessExchange, stepCount: Int) {
        self.exchange = exchange
        self.stepCount = stepCount
    }

    func didFinishStep(_ report: StepReport) throws {
        steps.append(
            PreflightReport.Step(
                gradient: exchange.digest,
                samples: report.samples,
                seconds: report.secondsCompute + report.secondsExchange
            )
        )
        if steps.count == stepCount { throw Enough() }
    }

    func didFinishEpoch(_ report: EpochReport) throws {}
    func wantsCheckpoint(epoch: Int) -> Bool { false }
    func takeCheckpoint(_ checkpoint: Checkpoint) throws {}
}
