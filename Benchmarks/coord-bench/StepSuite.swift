internal import Basics
internal import Tensors
internal import Training

/// `coord-bench step`: samples a second of whole training steps, without evaluation and checkpoints.
enum StepSuite {
    /// Noise in memory: reading costs a copy.
    struct Noise: SampleSource {
        let shape: [Int]
        let classes = (0..<10).map(String.init)
        let batch: Int
        let lanes: Int
        let stepsPerEpoch: Int
        let values: [Float]
        private let pool = 512

        init(shape: [Int], batch: Int, lanes: Int, steps: Int) {
            self.shape = shape
            self.batch = batch
            self.lanes = lanes
            stepsPerEpoch = steps
            let random = RandomSource(seed: 1)
            values = (0..<(512 * shape.reduce(1, *))).map {
                RandomSource.unit(random.block(.augmentation, position: $0)[0])
            }
        }
        var trainingIndices: [Int] { Array(0..<pool) }
        var validationIndices: [Int] { [] }
        func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
            let first = step * batch + lane * (batch / lanes)
            return (first..<(first + batch / lanes)).map { $0 % pool }
        }
        func label(_ index: Int) -> Int { index % 10 }
        func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
            _ = target.update(fromContentsOf: values[(index * target.count)..<((index + 1) * target.count)])
        }
    }

    final class Stopwatch: TrainingObserver {
        var seconds: [Double] = []
        func didFinishStep(_ report: StepReport) throws {
            seconds.append(report.secondsCompute + report.secondsExchange)
        }
        func didFinishEpoch(_ report: EpochReport) throws {}
        func wantsCheckpoint(epoch: Int) -> Bool { false }
        func takeCheckpoint(_ checkpoint: Checkpoint) throws {}
    }

    /// The models by name, with the shape of their samples.
    static let models: [String: (TypedSpec, [Int])] = [
        "mlp-784-512-256-10": (
            TypedSpec(type: "mlp", parameters: ["hidden": .list([.integer(512), .integer(256)])]), [784]
        ),
        "simple_cnn-1x28x28": (TypedSpec(type: "simple_cnn"), [1, 28, 28]),
    ]

    /// Batch 64, AdamW at a constant rate, one epoch.
    static func record(name: String, model: TypedSpec, lanes: Int, kernels: KernelSet) -> RunRecord {
        RunRecord(
            spec: RunSpec(
                name: name,
                model: model,
                epochs: 1,
                batch: 64,
                lanes: lanes,
                optimizer: TypedSpec(type: "adamw"),
                schedule: TypedSpec(type: "constant")
            ),
            dataset: Digest(of: "noise"),
            kernels: kernels,
            worker: Digest(of: "bench")
        )
    }

    /// Runs the suite and prints one JSON line a model.
    static func run(threads: Int, lanes: Int, steps: Int) throws {
        guard let kernels = BLAS.kernelsInForce else {
            throw TrainingError(
                .badSpec,
                "OpenBLAS runs the \(BLAS.coreName) kernels, which are no set of ours",
                hint: "set OPENBLAS_CORETYPE to Nehalem, Haswell or SkylakeX"
            )
        }
        for (name, (model, shape)) in models.sorted(by: { $0.key < $1.key }) {
            let count = name.hasPrefix("mlp") ? steps : max(10, steps / 8)
            let record = record(name: name, model: model, lanes: lanes, kernels: kernels)
            let batch = record.spec.batch
            let watch = Stopwatch()
            let loop = try TrainingLoop(
                record: record,
                samples: Noise(shape: shape, batch: batch, lanes: lanes, steps: count),
                exchange: SoloExchange(laneCount: lanes),
                laneThreads: threads,
                observer: watch
            )
            try loop.run()
            // The first steps find cold caches and unmapped pages.
            let sorted = watch.seconds.dropFirst(count / 5).sorted()
            let (least, median) = (sorted[0], sorted[sorted.count / 2])
            print(
                "{\"suite\":\"step\",\"model\":\"\(name)\",\"batch\":\(batch),\"lanes\":\(lanes),"
                    + "\"threads\":\(threads),\"kernels\":\"\(kernels.rawValue)\",\"steps\":\(sorted.count),"
                    + "\"min_ms\":\(least * 1000),\"p50_ms\":\(median * 1000),"
                    + "\"samples_per_second\":\(Double(batch) / median)}"
            )
        }
    }
}
