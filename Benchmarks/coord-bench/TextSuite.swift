internal import Basics
internal import Foundation
internal import Tensors
internal import Training

/// `coord-bench shakespeare FILE [THREADS]`: nanoGPT's setting for a CPU, to see that the engine learns what it should.
///
/// 4 layers, 4 heads, 128 wide, windows of 64 characters, batch 12, 2000 steps, no dropout; AdamW from 1e-3 to 1e-4
/// along a cosine after 100 steps of warm-up, betas 0.9 and 0.99, weight decay 0.1 on matrices, gradients clipped at 1.
/// The first 90 % of the characters are trained on at random places; the loss is over all windows of the rest, where
/// nanoGPT draws some. Its README says 1.88 for this setting. Layers have biases here, and none there.
enum TextSuite {
    /// Random windows of the first nine tenths, all windows of the last.
    private struct Windows: SampleSource {
        static let length = 64
        let text: [UInt8]
        let classes: [String]
        let batch: Int
        let lanes: Int
        let stepsPerEpoch: Int
        private let random = RandomSource(seed: 1337)
        private var end: Int { text.count / 10 * 9 }

        init(_ bytes: [UInt8], batch: Int, lanes: Int, stepsPerEpoch: Int) {
            let letters = Set(bytes).sorted()
            var places = [UInt8](repeating: 0, count: 256)
            for (place, letter) in letters.enumerated() { places[Int(letter)] = UInt8(place) }
            text = bytes.map { places[Int($0)] }
            classes = letters.map { "\($0)" }
            (self.batch, self.lanes, self.stepsPerEpoch) = (batch, lanes, stepsPerEpoch)
        }

        var shape: [Int] { [Self.length] }
        var trainingIndices: [Int] { Array(0..<end - Self.length) }
        var validationIndices: [Int] {
            Array(stride(from: end, to: text.count - Self.length, by: Self.length))
        }
        func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
            let share = batch / lanes
            return (lane * share..<(lane + 1) * share).map { place in
                let drawn = random.block(
                    .augmentation,
                    step: epoch * stepsPerEpoch + step,
                    position: place
                )[0]
                return Int(drawn) % (end - Self.length)
            }
        }
        func label(_ index: Int) -> Int { Int(text[index + Self.length]) }
        func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
            for i in 0..<Self.length { target[i] = Float(text[index + i]) }
        }
    }

    private final class Printer: TrainingObserver {
        func didFinishStep(_ report: StepReport) throws {}
        func didFinishEpoch(_ report: EpochReport) throws {
            let loss = report.valLoss.map { String(format: "%.4f", $0) } ?? "none"
            print(
                "{\"step\":\(report.globalStep),\"train_loss\":\(String(format: "%.4f", report.trainLoss)),"
                    + "\"val_loss\":\(loss),\"seconds\":\(String(format: "%.1f", report.seconds))}"
            )
        }
        func wantsCheckpoint(epoch: Int) -> Bool { false }
        func takeCheckpoint(_ checkpoint: Checkpoint) throws {}
    }

    /// Trains, and prints a line for each 250 steps.
    static func run(_ path: String, threads: Int) throws {
        let kernels = try Workload.kernels()
        var workload = try Workload.named("gpt")
        workload.optimizer = TypedSpec(
            type: "adamw",
            parameters: [
                "learning_rate": .number(1e-3), "beta1": .number(0.9), "beta2": .number(0.99),
                "weight_decay": .number(0.1), "weight_decay_on": .text("matrices"), "clip_norm": .number(1),
            ]
        )
        var record = workload.record(lanes: 1, kernels: kernels)
        record.spec.epochs = 8
        record.spec.schedule = TypedSpec(
            type: "cosine",
            parameters: ["warmup_steps": .integer(100), "minimum_factor": .number(0.1)]
        )
        let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        let samples = Windows(bytes, batch: workload.batch, lanes: 1, stepsPerEpoch: 250)
        let loop = try TrainingLoop(
            record: record,
            samples: samples,
            exchange: SoloExchange(laneCount: 1),
            laneThreads: threads,
            observer: Printer()
        )
        try loop.run()
    }
}
