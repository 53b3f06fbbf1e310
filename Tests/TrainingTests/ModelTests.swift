import Basics
import Tensors
import Testing

@testable import Training

/// Rows of letters that follow a rule: each is the sum of the two before it.
private struct MadeText: SampleSource {
    var shape = [8]
    var classes = (0..<7).map { "\($0)" }
    var stepsPerEpoch = 8
    var trainingIndices = Array(0..<256)
    var validationIndices = Array(256..<320)
    /// A token that the model does not have.
    var wrong: Int?

    private func letters(_ index: Int) -> [Int] {
        var found = [index % 7, (index / 7) % 7]
        while found.count < 9 { found.append((found[found.count - 1] + found[found.count - 2]) % 7) }
        return found
    }
    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        (0..<8).map { (step * 32 + lane * 8 + $0) % 256 }
    }
    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
        for (i, letter) in letters(index).prefix(8).enumerated() { target[i] = Float(letter) }
        if index == wrong { target[3] = 7 }
    }
    func label(_ index: Int) -> Int { letters(index)[8] }
}

@Suite struct ModelTests {
    private let gpt = TypedSpec(
        type: "gpt",
        parameters: [
            "layers": .integer(1), "heads": .integer(2), "features": .integer(16), "dropout": .number(0.1),
            "positions": .text("rotary"),
        ]
    )
    private let tiny = TypedSpec(type: "tiny_net", parameters: ["width": .integer(4)])

    private func record(_ model: TypedSpec, epochs: Int = 2) -> RunRecord {
        Made.record(
            model: model,
            epochs: epochs,
            optimizer: TypedSpec(type: "adamw", parameters: ["learning_rate": .number(0.01)])
        )
    }

    @Test func aLanguageModelLearnsTheRuleOfItsText() throws {
        var model = gpt
        for (key, value) in [("layers", 2), ("features", 32), ("dropout", 0)] {
            model.parameters[key] = .integer(value)
        }
        let result = try Made.train(record(model, epochs: 40), MadeText())
        let first = try #require(result.epochs.first)
        let last = try #require(result.epochs.last)
        // The second letter of a text follows from nothing: one of eight tokens stays a guess.
        #expect(try #require(last.valAccuracy) > 0.7)
        #expect(last.trainLoss < first.trainLoss / 2)
        let files = try #require(result.checkpoints.last).files
        let bytes = Dictionary(uniqueKeysWithValues: files.map { ($0.name, $0.bytes) })
        let predictor = try Predictor(
            model: try #require(bytes["model.safetensors"]),
            signatureJSON: try #require(bytes["model.json"]),
            kernels: Made.kernels
        )
        #expect(try predictor.goldenCheck(try #require(bytes["golden.safetensors"]), tolerance: 0) == 0)
        let answer = try predictor.probabilities([1, 1, 2, 3, 5, 1, 6, 0])
        #expect(answer.count == 7 && answer.max() == answer[6])
        #expect(throws: TrainingError.self) { try predictor.logits([1, 1, 2, 3, 5, 1, 6, 7]) }
    }

    @Test func aTokenThatIsNotInTheVocabularyStopsTheRunByName() throws {
        var text = MadeText()
        text.wrong = 40
        let error = #expect(throws: TrainingError.self) { try Made.train(record(gpt), text) }
        #expect(error?.message == "sample 40 holds a token that is not in 0..<7")
    }

    @Test func threadsAndResumingDoNotChangeABitOfAModelWithStatisticsOrDropout() throws {
        let images = MadeSamples(shape: [2, 9, 8], training: 75, validation: 40, batch: 32, lanes: 4)
        for (model, samples) in [(tiny, images as any SampleSource), (gpt, MadeText())] {
            let whole = try Made.train(record(model), samples, threads: 1, snapshotAfter: 4)
            let many = try Made.train(record(model), samples, threads: 3)
            #expect(whole.weights == many.weights)
            let state = try CheckpointState.read(files: try #require(whole.snapshot).files)
            let resumed = try Made.train(record(model), samples, resume: state)
            #expect(
                resumed.checkpoints.last?.files.map(\.bytes) == whole.checkpoints.last?.files.map(\.bytes)
            )
        }
    }

    @Test func runningStatisticsAreTheMeanOverAllSamplesOfTheLanes() throws {
        var record = record(tiny, epochs: 1)
        record.spec.averaging = 0.5
        record.spec.schedule = TypedSpec(type: "constant")
        let samples = MadeSamples(shape: [2, 9, 8], training: 32, validation: 8, batch: 32, lanes: 4)
        let result = try SafeTensors(reading: try Made.train(record, samples).weights)
        // One step from 0 and 1 with momentum 0.1: the mean of the lanes' means needs one lane's to be like the others'.
        let mean = try result.floats("bn1.running_mean")
        let variance = try result.floats("bn1.running_var")
        #expect(mean.allSatisfy { abs($0) > 0 && abs($0) < 0.2 })
        #expect(variance.allSatisfy { $0 > 0.9 && $0 < 1.5 })
        // Of 32 samples and no other number: a lane of its own gives the same sum.
        var alone = record
        alone.spec.lanes = 1
        let one = MadeSamples(shape: [2, 9, 8], training: 32, validation: 8, batch: 32, lanes: 1)
        let whole = try SafeTensors(reading: try Made.train(alone, one).weights)
        expectClose(
            mean,
            try whole.floats("bn1.running_mean").map(Double.init),
            atol: 1e-5,
            rtol: 1e-4,
            "mean over lanes"
        )
    }

    @Test func batchNormIsRefusedWhereALaneHasFewerThanEightSamples() throws {
        var record = record(tiny)
        record.spec.accumulate = 2
        let samples = MadeSamples(shape: [2, 9, 8], training: 75, validation: 40, batch: 32, lanes: 4)
        let error = #expect(throws: TrainingError.self) { try Made.train(record, samples) }
        #expect(error?.message == "batch-norm needs 8 samples at a time; batch 32 in 4 lanes leaves 4")
    }

    @Test func everyLossLearns() throws {
        for loss in [
            TypedSpec(type: "cross_entropy", parameters: ["label_smoothing": .number(0.1)]),
            TypedSpec(type: "focal"), TypedSpec(type: "mse"), TypedSpec(type: "bce"),
        ] {
            var record = Made.record(model: Made.mlp, epochs: 6)
            record.spec.loss = loss
            let result = try Made.train(record, Made.flat())
            #expect(try #require(result.epochs.last?.valAccuracy) > 0.85, "\(loss.type)")
        }
        var record = Made.record(model: Made.mlp)
        record.spec.loss = TypedSpec(type: "mse", parameters: ["class_weights": .list([.integer(1)])])
        let error = #expect(throws: TrainingError.self) { try Made.train(record, Made.flat()) }
        #expect(error?.message.contains("1 numbers, there are 4 classes") == true)
    }

    @Test func theKnownModelsHaveTheirKnownSizes() throws {
        // Trained numbers as torchvision counts them, for 1000 classes; GPT's as nanoGPT's baby of 65 letters with biases.
        let image = [3, 224, 224]
        for (type, shape, classes, count) in [
            ("resnet18", image, 1000, 11_689_512), ("resnet34", image, 1000, 21_797_672),
            ("resnet50", image, 1000, 25_557_032), ("mobilenet_v2", image, 1000, 3_504_872),
            ("gpt", [256], 65, 10_770_816),
        ] {
            let model = try Model(TypedSpec(type: type), inputShape: shape, classCount: classes)
            let trained = model.parameters.filter { $0.statisticMomentum == nil }.map(\.count).reduce(0, +)
            #expect(trained == count, "\(type)")
            #expect(Set(model.parameters.map(\.name)).count == model.parameters.count)
        }
    }

    @Test(arguments: [
        (TypedSpec(type: "conf"), "conv"),
        (TypedSpec(type: "conv", parameters: ["groups": .integer(3)]), "groups 3 must divide 2 channels"),
        (TypedSpec(type: "conv", parameters: ["size": .integer(3)]), "filters"),
        (TypedSpec(type: "conv", parameters: ["kernel": .integer(12)]), "too small"),
        (TypedSpec(type: "layer_norm"), "stands behind images"),
        (TypedSpec(type: "attention"), "needs tokens"),
        (
            TypedSpec(type: "residual", parameters: ["layers": .list([.spec(TypedSpec(type: "max_pool"))])]),
            "keep the shape"
        ),
        (TypedSpec(type: "residual"), "needs layers"),
    ])
    func aLayerThatDoesNotFitIsRefusedWithItsReason(layer: TypedSpec, words: String) {
        let spec = TypedSpec(type: "sequential", parameters: ["layers": .list([.spec(layer)])])
        let error = #expect(throws: TrainingError.self) {
            try Model(spec, inputShape: [2, 9, 8], classCount: 3)
        }
        #expect(error?.code == .badSpec)
        #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
    }
}
