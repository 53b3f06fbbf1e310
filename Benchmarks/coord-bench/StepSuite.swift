internal import Basics
internal import Foundation
internal import Tensors
internal import Training

/// `coord-bench step WORKLOAD`: whole training steps of one member, without evaluation and checkpoints.
enum StepSuite {
    /// Noise in memory: reading costs a copy.
    struct Noise: SampleSource {
        let shape: [Int]
        let classes: [String]
        let batch: Int
        let lanes: Int
        let stepsPerEpoch: Int
        let values: [Float]
        private let pool = 256

        init(_ workload: Workload, lanes: Int, steps: Int) {
            shape = workload.shape
            classes = (0..<workload.classes).map(String.init)
            batch = workload.batch
            self.lanes = lanes
            stepsPerEpoch = steps
            let random = RandomSource(seed: 1)
            // Tokens are whole numbers below the number of classes.
            let top = workload.takesTokens ? Float(workload.classes) : nil
            values = (0..<(256 * shape.reduce(1, *))).map {
                let unit = RandomSource.unit(random.block(.augmentation, position: $0)[0])
                return top.map { (unit * $0).rounded(.down) } ?? unit
            }
        }
        var trainingIndices: [Int] { Array(0..<pool) }
        var validationIndices: [Int] { [] }
        func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
            let first = step * batch + lane * (batch / lanes)
            return (first..<(first + batch / lanes)).map { $0 % pool }
        }
        func label(_ index: Int) -> Int { index % classes.count }
        func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
            _ = target.update(fromContentsOf: values[(index * target.count)..<((index + 1) * target.count)])
        }
    }

    final class Stopwatch: TrainingObserver {
        var seconds: [Double] = []
        /// The most memory of the process up to the last step; the checkpoint at the end comes after it.
        var peakBytes = 0
        func didFinishStep(_ report: StepReport) throws {
            seconds.append(report.secondsCompute + report.secondsExchange)
            if report.step % 8 == 0 || seconds.count < 4 { peakBytes = StepSuite.peakBytes() }
        }
        func didFinishEpoch(_ report: EpochReport) throws {}
        func wantsCheckpoint(epoch: Int) -> Bool { false }
        func takeCheckpoint(_ checkpoint: Checkpoint) throws {}
    }

    /// Runs one workload and prints one JSON line: every step's seconds, and the most memory of the process.
    ///
    /// - Parameters:
    ///   - threads: of the member.
    ///   - lanes: 0 for what `lanes: auto` gives.
    static func run(_ name: String, threads: Int, lanes: Int, steps: Int) throws {
        let kernels = try Workload.kernels()
        let workload = try Workload.named(name)
        let lanes = lanes > 0 ? lanes : workload.automaticLanes
        let watch = Stopwatch()
        let loop = try TrainingLoop(
            record: workload.record(lanes: lanes, kernels: kernels),
            samples: Noise(workload, lanes: lanes, steps: steps),
            exchange: SoloExchange(laneCount: lanes),
            laneThreads: threads,
            observer: watch
        )
        try loop.run()
        let seconds = watch.seconds.map { String(format: "%.6f", $0) }.joined(separator: ",")
        print(
            "{\"workload\":\"\(name)\",\"batch\":\(workload.batch),\"lanes\":\(lanes),"
                + "\"threads\":\(threads),\"kernels\":\"\(kernels.rawValue)\","
                + "\"peak_bytes\":\(watch.peakBytes),\"seconds\":[\(seconds)]}"
        )
    }

    /// The most memory that this process has had, as the kernel counts it.
    fileprivate static func peakBytes() -> Int {
        let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        return (line?.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }.first ?? 0) * 1024
    }

    /// `coord-bench gemm`: the best of some products of 2048 × 2048 on one thread, as GFLOP/s.
    static func gemm() throws {
        try BLAS.pinToOneThread()
        let size = 2048
        let (a, b, c) = (
            FloatArena(count: size * size), FloatArena(count: size * size), FloatArena(count: size * size)
        )
        for i in 0..<(size * size) { (a.pointer[i], b.pointer[i]) = (Float(i % 7), Float(i % 5)) }
        var best = Double.infinity
        for _ in 0..<6 {
            let start = ContinuousClock.now
            BLAS.multiply(
                size,
                size,
                size,
                a.pointer,
                .plain,
                lda: size,
                b.pointer,
                .plain,
                ldb: size,
                c.pointer,
                ldc: size
            )
            let parts = (ContinuousClock.now - start).components
            best = min(best, Double(parts.seconds) + Double(parts.attoseconds) * 1e-18)
        }
        let gigaflops = 2 * Double(size) * Double(size) * Double(size) / best / 1e9
        print("{\"suite\":\"gemm\",\"kernels\":\"\(BLAS.coreName)\",\"gigaflops\":\(gigaflops)}")
    }
}
