import Basics
import Tensors
import Testing

@testable import Training

@Suite struct TrainingLoopTests {
    @Test func aDenseNetworkLearnsTheClasses() throws {
        let result = try Made.train(Made.record(model: Made.mlp, epochs: 6), Made.flat())
        let first = try #require(result.epochs.first)
        let last = try #require(result.epochs.last)
        #expect(last.trainLoss < first.trainLoss / 2)
        #expect(try #require(last.valAccuracy) > 0.9)
        #expect(result.steps.count == 6 * 7)
        #expect(result.steps.prefix(7).map(\.samples).reduce(0, +) == 203)
    }

    @Test func aConvolutionalNetworkLearnsTheClasses() throws {
        let result = try Made.train(Made.record(model: Made.cnn, epochs: 6), Made.images())
        #expect(try #require(result.epochs.last?.valAccuracy) > 0.9)
    }

    @Test(arguments: [2, 4])
    func theNumberOfThreadsDoesNotChangeABit(threads: Int) throws {
        for (model, samples) in [(Made.mlp, Made.flat()), (Made.cnn, Made.images())] {
            let alone = try Made.train(Made.record(model: model), samples, threads: 1)
            let many = try Made.train(Made.record(model: model), samples, threads: threads)
            #expect(alone.weights == many.weights)
            #expect(alone.steps.map(\.loss) == many.steps.map(\.loss))
            #expect(alone.epochs.map(\.valLoss) == many.epochs.map(\.valLoss))
        }
    }

    @Test func equalRunsGiveEqualCheckpointBytes() throws {
        let first = try Made.train(Made.record(model: Made.cnn), Made.images())
        let second = try Made.train(Made.record(model: Made.cnn), Made.images())
        #expect(first.checkpoints.count == 2)
        for (a, b) in zip(first.checkpoints, second.checkpoints) {
            #expect(a.files.map(\.name) == b.files.map(\.name))
            #expect(a.files.map(\.bytes) == b.files.map(\.bytes))
            #expect(a.weightsDigest == b.weightsDigest)
        }
    }

    @Test(arguments: ["adamw", "sgd"])
    func aResumedRunEndsWithTheBitsOfAnUninterruptedOne(optimizer: String) throws {
        var parameters: [String: SpecValue] = ["learning_rate": .number(0.01), "clip_norm": .number(0.5)]
        if optimizer == "sgd" { parameters["momentum"] = .number(0.9) }
        let record = Made.record(
            model: Made.mlp,
            epochs: 3,
            optimizer: TypedSpec(type: optimizer, parameters: parameters)
        )
        let whole = try Made.train(record, Made.flat(), snapshotAfter: 10)
        let atEpoch = try CheckpointState.read(files: whole.checkpoints[0].files)
        let inEpoch = try CheckpointState.read(files: try #require(whole.snapshot).files)
        #expect(atEpoch.nextEpoch == 1 && atEpoch.globalStep == 7 && atEpoch.nextOperation == 8)
        #expect(inEpoch.nextEpoch == 1 && inEpoch.globalStep == 10)
        for state in [atEpoch, inEpoch] {
            let resumed = try Made.train(record, Made.flat(), resume: state)
            #expect(
                resumed.checkpoints.last?.files.map(\.bytes) == whole.checkpoints.last?.files.map(\.bytes)
            )
            #expect(resumed.epochs.last?.trainLoss == whole.epochs.last?.trainLoss)
        }
    }

    @Test func aCheckpointOfAnotherRecordIsRefused() throws {
        let result = try Made.train(Made.record(model: Made.mlp, epochs: 1), Made.flat())
        let state = try CheckpointState.read(files: result.checkpoints[0].files)
        let error = #expect(throws: TrainingError.self) {
            try Made.train(Made.record(model: Made.mlp, epochs: 2), Made.flat(), resume: state)
        }
        #expect(error?.code == .badCheckpoint)
    }

    @Test func aDamagedCheckpointIsRefusedByName() throws {
        let result = try Made.train(Made.record(model: Made.mlp, epochs: 1), Made.flat())
        for index in 0..<4 {
            var files = result.checkpoints[0].files
            files[index].bytes[files[index].bytes.count / 2] ^= 0x80
            let name = files[index].name
            let error = #expect(throws: TrainingError.self) { try CheckpointState.read(files: files) }
            #expect(error?.message.contains(name) == true)
        }
    }

    @Test func aLossThatIsNoNumberStopsTheRunByName() throws {
        var samples = Made.flat()
        let step = 3
        let poisoned = samples.microbatch(lane: 2, epoch: 0, step: step)[0]
        samples.poisoned = poisoned
        // The mean would see it too: measure without, train with.
        let clean = try Made.train(Made.record(model: Made.mlp), Made.flat(), snapshotAfter: 2)
        let start = try CheckpointState.read(files: try #require(clean.snapshot).files)
        let error = #expect(throws: TrainingError.self) {
            try Made.train(Made.record(model: Made.mlp), samples, resume: start)
        }
        #expect(error?.code == .diverged)
        #expect(
            error?.message == "the loss is no finite number in step 4 (epoch 1), lane 2, samples \(poisoned)"
        )
    }

    @Test func aModelThatDivergesInItsLastStepIsNotSaved() throws {
        // One step of one epoch without validation: no later loss sees the update.
        let samples = MadeSamples(shape: [20], training: 32, validation: 0, batch: 32, lanes: 4)
        let optimizer = TypedSpec(
            type: "sgd",
            parameters: ["learning_rate": .number(1e6), "weight_decay": .number(1e6)]
        )
        let spec = TypedSpec(type: "mlp", parameters: ["hidden": .list((0..<8).map { _ in .integer(8) })])
        let record = Made.record(
            model: spec,
            epochs: 1,
            optimizer: optimizer,
            schedule: TypedSpec(type: "constant")
        )
        let error = #expect(throws: TrainingError.self) { try Made.train(record, samples) }
        #expect(error?.code == .diverged)
        #expect(error?.message.contains("after 1 steps") == true)
    }

    @Test func aPredictorGivesTheTrainersOutputs() throws {
        for (model, samples) in [(Made.mlp, Made.flat()), (Made.cnn, Made.images())] {
            let result = try Made.train(Made.record(model: model, epochs: 3), samples)
            let checkpoint = try #require(result.checkpoints.last)
            let files = Dictionary(uniqueKeysWithValues: checkpoint.files.map { ($0.name, $0.bytes) })
            let predictor = try Predictor(
                model: try #require(files["model.safetensors"]),
                signatureJSON: try #require(files["model.json"]),
                kernels: Made.kernels
            )
            var golden = try #require(files["golden.safetensors"])
            #expect(try predictor.goldenCheck(golden, tolerance: 0) == 0)
            let inputs = try SafeTensors(reading: golden).floats("inputs")
            let probabilities = try predictor.probabilities(inputs + inputs + inputs + inputs + inputs)
            #expect(probabilities.count == 80 * 4)
            for row in 0..<80 {
                #expect(abs(probabilities[(row * 4)..<(row * 4 + 4)].reduce(0, +) - 1) < 1e-5)
            }
            golden[golden.count - 1] ^= 0x3
            let error = #expect(throws: TrainingError.self) {
                try predictor.goldenCheck(golden, tolerance: 1e-4)
            }
            #expect(error?.code == .goldenMismatch)
        }
    }
}
