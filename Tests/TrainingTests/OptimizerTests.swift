import Basics
import Tensors
import Testing

@testable import Training

@Suite struct OptimizerTests {
    private func spec(_ type: String, _ parameters: [String: SpecValue] = [:]) -> TypedSpec {
        TypedSpec(type: type, parameters: parameters)
    }

    /// Every optimizer with all of its state in use.
    static let all = [
        TypedSpec(type: "sgd", parameters: ["learning_rate": .number(0.01), "momentum": .number(0.9)]),
        TypedSpec(type: "adam", parameters: ["learning_rate": .number(0.01), "weight_decay": .number(0.01)]),
        TypedSpec(type: "adamw", parameters: ["learning_rate": .number(0.01)]),
        TypedSpec(
            type: "rmsprop",
            parameters: ["learning_rate": .number(0.001), "momentum": .number(0.5)]
        ),
        TypedSpec(type: "lamb", parameters: ["learning_rate": .number(0.02), "clip_norm": .number(0.5)]),
        TypedSpec(
            type: "lion",
            parameters: ["learning_rate": .number(0.002), "weight_decay": .number(0.1)]
        ),
    ]

    /// The bits of a run under `optimizer` with everything that holds state beside it.
    private func record(_ optimizer: TypedSpec) -> RunRecord {
        var record = Made.record(
            model: Made.mlp,
            epochs: 4,
            optimizer: optimizer,
            schedule: TypedSpec(
                type: "plateau",
                parameters: ["patience": .integer(0), "factor": .number(0.5), "improvement": .number(0.2)]
            )
        )
        record.spec.averaging = 0.9
        record.spec.accumulate = 3
        record.spec.earlyStop = EarlyStopSpec(patience: 50)
        return record
    }

    @Test(arguments: all)
    func aResumedRunEndsWithTheBitsOfAnUninterruptedOne(optimizer: TypedSpec) throws {
        let record = record(optimizer)
        let whole = try Made.train(record, Made.flat(), threads: 2, snapshotAfter: 17)
        let first = try #require(whole.epochs.first)
        let last = try #require(whole.epochs.last)
        #expect(last.trainLoss < first.trainLoss)
        let inEpoch = try CheckpointState.read(files: try #require(whole.snapshot).files)
        let atEpoch = try CheckpointState.read(files: whole.checkpoints[1].files)
        #expect(inEpoch.globalStep == 17 && atEpoch.globalStep == 14)
        for state in [atEpoch, inEpoch] {
            let resumed = try Made.train(record, Made.flat(), resume: state)
            #expect(
                resumed.checkpoints.last?.files.map(\.bytes) == whole.checkpoints.last?.files.map(\.bytes)
            )
        }
        // The plateau did bend the rate, or resuming it would prove nothing.
        #expect(Set(whole.steps.map(\.learningRate)).count > 1)
    }

    @Test(arguments: ["adam", "rmsprop", "lamb", "lion"])
    func everyUpdateHasTheSameBitsInEverySet(type: String) throws {
        var first: [UInt32]?
        let random = RandomSource(seed: 5)
        func number(_ i: Int) -> Float {
            RandomSource.unit(random.block(.augmentation, position: i)[0]) - 0.5
        }
        for set in KernelSet.allCases {
            guard let best = Machine.kernels, set <= best else { continue }
            let optimizer = try Optimizer(
                spec(type, type == "rmsprop" ? ["momentum": .number(0.9)] : [:]),
                parameterCount: 992,
                slices: [
                    ParameterSlice(name: "a", shape: [31, 13], offset: 0, start: .constant(0)),
                    ParameterSlice(name: "b", shape: [560], offset: 416, start: .constant(0)),
                ]
            )
            let (weights, sum) = (FloatArena(count: 992), FloatArena(count: 992))
            for i in 0..<992 { weights.pointer[i] = number(i) }
            for step in 1...3 {
                for i in 0..<992 { sum.pointer[i] = number(step * 1000 + i) }
                optimizer.apply(
                    weights.pointer,
                    sum.pointer,
                    samples: 7,
                    rate: 0.01,
                    step: step,
                    kernels: try Kernels(set),
                    pool: LanePool(size: 1)
                )
            }
            let bits = weights.buffer.map(\.bitPattern)
            #expect(first == nil || bits == first, "\(type): \(set.rawValue)")
            first = bits
        }
    }

    @Test(arguments: ["sgd", "adam", "adamw", "rmsprop", "lion"])
    func decayOnMatricesSparesVectors(type: String) throws {
        let slices = [
            ParameterSlice(name: "a", shape: [4, 8], offset: 0, start: .constant(0)),
            ParameterSlice(name: "b", shape: [5], offset: 32, start: .constant(0)),
            ParameterSlice(name: "c", shape: [6, 6], offset: 48, start: .constant(0)),
        ]
        func stepped(_ parameters: [String: SpecValue]) throws -> [Float] {
            let optimizer = try Optimizer(
                spec(type, ["learning_rate": .number(0.1)].merging(parameters) { $1 }),
                parameterCount: 96,
                slices: slices
            )
            let (weights, sum) = (FloatArena(count: 96), FloatArena(count: 96))
            for i in 0..<96 { (weights.pointer[i], sum.pointer[i]) = (Float(i) - 40.5, Float(i % 7) - 2.5) }
            optimizer.apply(
                weights.pointer,
                sum.pointer,
                samples: 1,
                rate: 0.1,
                step: 1,
                kernels: try Kernels(Made.kernels),
                pool: LanePool(size: 1)
            )
            return Array(weights.buffer)
        }
        let all = try stepped(["weight_decay": .number(0.5)])
        let none = try stepped(["weight_decay": .number(0)])
        let matrices = try stepped(["weight_decay": .number(0.5), "weight_decay_on": .text("matrices")])
        #expect(matrices[..<32] == all[..<32] && matrices[48..<84] == all[48..<84])
        #expect(matrices[32..<37] == none[32..<37])
        #expect(all[32..<37] != none[32..<37])
    }

    @Test func accumulatedPartsGiveTheGradientOfTheWholeBatch() throws {
        var record = Made.record(model: Made.mlp, epochs: 1, optimizer: Self.all[0])
        let whole = try Made.train(record, Made.flat())
        record.spec.accumulate = 3
        let parts = try Made.train(record, Made.flat())
        let (a, b) = (try SafeTensors(reading: whole.weights), try SafeTensors(reading: parts.weights))
        for tensor in a.tensors {
            expectClose(
                try b.floats(tensor.name),
                try a.floats(tensor.name).map(Double.init),
                atol: 1e-6,
                rtol: 1e-4,
                tensor.name
            )
        }
        #expect(parts.steps.map(\.samples) == whole.steps.map(\.samples))
        record.spec.accumulate = 9
        let error = #expect(throws: TrainingError.self) { try Made.train(record, Made.flat()) }
        #expect(error?.message.contains("8 samples") == true)
    }

    @Test func whatIsJudgedAndSavedIsTheAverageOfTheWeights() throws {
        var record = Made.record(model: Made.mlp, epochs: 1, optimizer: Self.all[0])
        let plain = try Made.train(record, Made.flat())
        record.spec.averaging = 0.5
        let averaged = try Made.train(record, Made.flat())
        #expect(averaged.steps.map(\.loss) == plain.steps.map(\.loss))
        #expect(averaged.weights != plain.weights)
        #expect(averaged.epochs[0].valLoss != plain.epochs[0].valLoss)
        // The trained weights travel with the optimizer's state.
        let files = averaged.checkpoints[0].files
        let state = try SafeTensors(
            reading: try #require(files.first { $0.name == "optimizer.safetensors" }).bytes
        )
        let trained = try SafeTensors(reading: plain.weights)
        for tensor in trained.tensors {
            #expect(try state.floats("weights." + tensor.name) == trained.floats(tensor.name))
        }
        // Three steps by hand: d = 2/11, 3/12, 4/13.
        let kernels = try Kernels(Made.kernels)
        let average = WeightAverage(decay: 0.9, count: 17)
        let weights = FloatArena(count: 17)
        var expected = 0.0
        for step in 1...3 {
            weights.pointer.update(repeating: Float(step), count: 17)
            average.update(
                weights.pointer,
                trained: 16,
                step: step,
                kernels: kernels,
                pool: LanePool(size: 1)
            )
            let d = Double(1 + step) / Double(10 + step)
            expected = d * expected + (1 - d) * Double(step)
        }
        #expect(abs(Double(average.arena.pointer[15]) - expected) < 1e-6)
        #expect(average.arena.pointer[16] == 3)
    }

    @Test func anEarlyStopEndsTheRunAfterItsPatience() throws {
        var record = Made.record(model: Made.mlp, epochs: 30, optimizer: Self.all[2])
        record.spec.earlyStop = EarlyStopSpec(patience: 2)
        let result = try Made.train(record, Made.flat())
        let best = try #require(result.epochs.map { $0.valAccuracy ?? 0 }.max())
        let at = try #require(result.epochs.firstIndex { $0.valAccuracy == best })
        #expect(result.epochs.count == at + 3 && at + 3 < 30)
        #expect(result.checkpoints.last?.report?.epoch == at + 2)
        // A run that was resumed after its end stays at its end.
        let state = try CheckpointState.read(files: try #require(result.checkpoints.last).files)
        #expect(try Made.train(record, Made.flat(), resume: state).epochs.isEmpty)
        record.spec.monitor = "val_loss"
        let byLoss = try Made.train(record, Made.flat())
        #expect(byLoss.epochs.count != result.epochs.count)
        var samples = Made.flat()
        samples.validationIndices = []
        let error = #expect(throws: TrainingError.self) { try Made.train(record, samples) }
        #expect(error?.message.contains("validation") == true)
    }

    @Test func patienceCountsEpochsWithoutABetterValue() {
        var patience = Patience()
        for (value, waited) in [(0.5, 0), (0.5, 1), (0.55, 2), (0.61, 0), (0.2, 1)] {
            patience.hear(value, isLargerBetter: true, improvement: 0.1)
            #expect(patience.waited == waited)
        }
        patience = Patience()
        for (value, waited) in [(0.5, 0), (0.5, 1), (0.49, 0), (Double.nan, 1)] {
            patience.hear(value, isLargerBetter: false, improvement: 0)
            #expect(patience.waited == waited)
        }
    }
}
