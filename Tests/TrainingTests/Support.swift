import Basics
import Synchronization
import Tensors
import Testing

@testable import Training

/// Samples made by a counter-based generator: blobs of a class's own pattern under noise.
struct MadeSamples: SampleSource {
    var shape: [Int]
    var classes: [String]
    var trainingIndices: [Int]
    var validationIndices: [Int]
    var stepsPerEpoch: Int
    var batch: Int
    var lanes: Int
    /// A sample that reads as NaN.
    var poisoned: Int?

    init(shape: [Int], classCount: Int = 4, training: Int, validation: Int, batch: Int, lanes: Int) {
        self.shape = shape
        classes = (0..<classCount).map { "class-\($0)" }
        trainingIndices = Array(0..<training)
        validationIndices = Array(training..<(training + validation))
        self.batch = batch
        self.lanes = lanes
        let longest = (training + lanes - 1) / lanes
        stepsPerEpoch = (longest + batch / lanes - 1) / (batch / lanes)
    }

    /// Lane i holds the samples i, i + L, … in an order keyed by the epoch.
    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        let own = Array(stride(from: lane, to: trainingIndices.count, by: lanes))
        let order = KeyedPermutation(count: own.count, key: UInt64(epoch * 64 + lane))
        let size = batch / lanes
        return (min(own.count, step * size)..<min(own.count, (step + 1) * size)).map { own[order[$0]] }
    }

    func label(_ index: Int) -> Int { index * 7 % classes.count }

    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
        let noise = RandomSource(seed: 99)
        let pattern = RandomSource(seed: UInt64(1000 + label(index)))
        for i in target.indices {
            let a = RandomSource.unit(noise.block(.augmentation, position: index * target.count + i)[0])
            let b = RandomSource.unit(pattern.block(.augmentation, position: i)[0])
            target[i] = index == poisoned ? .nan : 100 * b + 60 * a
        }
    }
}

/// Keeps what it hears.
final class Recorder: TrainingObserver {
    var steps: [StepReport] = []
    var epochs: [EpochReport] = []
    var checkpoints: [Checkpoint] = []
    /// Takes a checkpoint in the middle of an epoch, after this many steps.
    var snapshotAfter: Int?
    var snapshot: Checkpoint?
    weak var loop: TrainingLoop?

    func didFinishStep(_ report: StepReport) throws {
        steps.append(report)
        if let snapshotAfter, report.globalStep + 1 == snapshotAfter { snapshot = try loop?.makeCheckpoint() }
    }
    func didFinishEpoch(_ report: EpochReport) throws { epochs.append(report) }
    func wantsCheckpoint(epoch: Int) -> Bool { true }
    func takeCheckpoint(_ checkpoint: Checkpoint) throws { checkpoints.append(checkpoint) }

    /// The weights at the end.
    var weights: [UInt8] { checkpoints.last?.files.first { $0.name == "model.safetensors" }?.bytes ?? [] }
}

enum Made {
    /// The kernels that OpenBLAS runs here, or the plainest of ours: the tests do not choose.
    static var kernels: KernelSet { BLAS.kernelsInForce ?? .v2 }

    static func record(
        model: TypedSpec,
        epochs: Int = 2,
        batch: Int = 32,
        lanes: Int = 4,
        optimizer: TypedSpec = TypedSpec(type: "adamw", parameters: ["learning_rate": .number(0.01)]),
        schedule: TypedSpec = TypedSpec(type: "cosine", parameters: ["warmup_steps": .integer(3)])
    ) -> RunRecord {
        RunRecord(
            spec: RunSpec(
                name: "made",
                model: model,
                epochs: epochs,
                batch: batch,
                lanes: lanes,
                optimizer: optimizer,
                schedule: schedule
            ),
            dataset: Digest(of: "made"),
            kernels: kernels,
            worker: Digest(of: "worker")
        )
    }

    static let mlp = TypedSpec(type: "mlp", parameters: ["hidden": .list([.integer(24), .integer(17)])])
    static let cnn = TypedSpec(
        type: "simple_cnn",
        parameters: ["channels": .list([.integer(5), .integer(7)]), "hidden": .integer(19)]
    )

    static func flat(lanes: Int = 4) -> MadeSamples {
        MadeSamples(shape: [20], training: 203, validation: 300, batch: 32, lanes: lanes)
    }
    static func images(lanes: Int = 4) -> MadeSamples {
        MadeSamples(shape: [2, 9, 8], training: 75, validation: 40, batch: 32, lanes: lanes)
    }

    @discardableResult
    static func train(
        _ record: RunRecord,
        _ samples: any SampleSource,
        exchange: (any GradientExchange)? = nil,
        threads: Int = 1,
        resume: CheckpointState? = nil,
        standing: Standing? = nil,
        room: Int = 1 << 30,
        snapshotAfter: Int? = nil,
        bucketBytes: Int? = nil,
        fit: MemoryFit = MemoryFit()
    ) throws -> Recorder {
        try BLAS.pinToOneThread()
        let recorder = Recorder()
        recorder.snapshotAfter = snapshotAfter
        let loop = try TrainingLoop(
            preparedRecord: record,
            samples: samples,
            exchange: exchange ?? SoloExchange(laneCount: record.spec.lanes),
            laneThreads: threads,
            observer: recorder,
            resume: resume,
            joins: standing.map { ($0, room) },
            start: nil,
            fit: fit
        )
        if let bucketBytes { loop.buckets = GradientBuckets(loop.model, bucketBytes: bucketBytes) }
        recorder.loop = loop
        try loop.run()
        return recorder
    }
}

/// Compares number by number; prints the first five that differ and the largest difference.
func expectClose(
    _ found: [Float],
    _ expected: [Double],
    atol: Double,
    rtol: Double,
    _ what: String,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(found.count == expected.count, "\(what): counts", sourceLocation: sourceLocation)
    var bad: [String] = []
    var largest = 0.0
    for (index, (a, b)) in zip(found, expected).enumerated() {
        let difference = abs(Double(a) - b)
        largest = max(largest, difference)
        if !(difference <= atol + rtol * abs(b)), bad.count < 5 { bad.append("[\(index)] \(a) != \(b)") }
    }
    #expect(
        bad.isEmpty,
        "\(what): \(bad.joined(separator: ", ")); largest difference \(largest)",
        sourceLocation: sourceLocation
    )
}
