import Basics
import Foundation
import Tensors
import Testing

@testable import Training

/// `Tests/Fixtures/training.json`, written by `scripts/fixtures/training.py` with PyTorch.
private struct Facts: Decodable {
    struct Case: Decodable {
        var shape: [Int]
        var losses: [String: [Double]]
    }
    var steps: Int
    var batch: Int
    var classes: Int
    var cases: [String: Case]
    var rates: [String: [Double]]
    var plateau: Plateau

    struct Plateau: Decodable {
        var heard: [Double]
        var rates: [Double]
    }

    static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures")

    static func read() throws -> Facts {
        try JSONDecoder().decode(Facts.self, from: Data(contentsOf: folder.appending(path: "training.json")))
    }
    static func tensors(_ name: String) throws -> SafeTensors {
        let url = folder.appending(path: "training-\(name).safetensors")
        return try SafeTensors(reading: [UInt8](Data(contentsOf: url)))
    }
}

/// The fixture's samples in their order: step s takes the next `batch`, lane by lane.
private struct FixtureSamples: SampleSource {
    var shape: [Int]
    var classes: [String]
    var stepsPerEpoch: Int
    var lanes: Int
    var batch: Int
    var inputs: [Float]
    var labels: [Int64]
    var trainingIndices: [Int] { Array(labels.indices) }
    var validationIndices: [Int] { [] }

    init(_ name: String, lanes: Int) throws {
        let facts = try Facts.read()
        let file = try Facts.tensors(name)
        shape = facts.cases[name]?.shape ?? []
        classes = (0..<facts.classes).map(String.init)
        stepsPerEpoch = facts.steps
        batch = facts.batch
        self.lanes = lanes
        inputs = try file.floats("inputs")
        labels = try file.integers("labels")
    }

    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        let first = step * batch + lane * (batch / lanes)
        return Array(first..<(first + batch / lanes))
    }
    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
        _ = target.update(fromContentsOf: inputs[(index * target.count)..<((index + 1) * target.count)])
    }
    func label(_ index: Int) -> Int { Int(labels[index]) }
}

@Suite struct PyTorchGolden {
    private func spec(_ name: String) -> TypedSpec {
        name == "mlp"
            ? TypedSpec(type: "mlp", parameters: ["hidden": .list([.integer(9), .integer(7)])])
            : TypedSpec(
                type: "simple_cnn",
                parameters: ["channels": .list([.integer(3), .integer(4)]), "hidden": .integer(6)]
            )
    }

    private let optimizers = [
        "adam": TypedSpec(
            type: "adam",
            parameters: [
                "learning_rate": .number(0.003), "beta1": .number(0.9), "beta2": .number(0.99),
                "epsilon": .number(1e-8), "weight_decay": .number(0.05),
            ]
        ),
        "rmsprop": TypedSpec(
            type: "rmsprop",
            parameters: [
                "learning_rate": .number(0.002), "alpha": .number(0.95), "epsilon": .number(1e-6),
                "momentum": .number(0.8), "weight_decay": .number(0.01),
            ]
        ),
        "lamb": TypedSpec(
            type: "lamb",
            parameters: [
                "learning_rate": .number(0.01), "beta1": .number(0.9), "beta2": .number(0.99),
                "epsilon": .number(1e-6), "weight_decay": .number(0.05),
            ]
        ),
        "lion": TypedSpec(
            type: "lion",
            parameters: [
                "learning_rate": .number(0.002), "beta1": .number(0.9), "beta2": .number(0.95),
                "weight_decay": .number(0.1),
            ]
        ),
        "sgd": TypedSpec(
            type: "sgd",
            parameters: [
                "learning_rate": .number(0.05), "momentum": .number(0.9), "nesterov": .boolean(true),
                "weight_decay": .number(0.01),
            ]
        ),
        "adamw": TypedSpec(
            type: "adamw",
            parameters: [
                "learning_rate": .number(0.003), "beta1": .number(0.9), "beta2": .number(0.99),
                "epsilon": .number(1e-8), "weight_decay": .number(0.05),
            ]
        ),
    ]

    @Test(arguments: ["mlp", "cnn"])
    func logitsAndEachNamedGradientArePyTorchs(name: String) throws {
        try BLAS.pinToOneThread()
        let samples = try FixtureSamples(name, lanes: 1)
        let file = try Facts.tensors(name)
        let kernels = try Kernels(Made.kernels)
        let model = try Model(spec(name), inputShape: samples.shape, classCount: 4)
        let weights = FloatArena(count: model.parameterCount)
        let gradients = FloatArena(count: model.parameterCount)
        try model.load(weights.pointer, from: file, prefix: "initial.")
        let workspace = Workspace(model: model, kernels: kernels, capacity: samples.batch, trains: true)
        let channels = samples.shape.count == 3 ? samples.shape[0] : 1
        for index in 0..<samples.batch {
            samples.read(index, into: workspace.raw)
            workspace.accept(
                position: index,
                count: samples.batch,
                mean: [Float](repeating: 0, count: channels),
                deviation: [Float](repeating: 1, count: channels)
            )
            workspace.labels[index] = Int32(samples.label(index))
        }
        let logits = workspace.forward(count: samples.batch, weights: weights.pointer)
        expectClose(
            Array(UnsafeBufferPointer(start: logits, count: samples.batch * 4)),
            try file.floats("logits").map(Double.init),
            atol: 2e-6,
            rtol: 1e-5,
            "logits"
        )
        _ = workspace.train(
            count: samples.batch,
            weights: weights.pointer,
            TrainingPass(gradients: gradients.pointer, random: RandomSource(seed: 1), step: 0, position: 0)
        )
        for slice in model.parameters {
            expectClose(
                (0..<slice.count).map { gradients.pointer[slice.offset + $0] / Float(samples.batch) },
                try file.floats("gradient." + slice.name, shape: slice.shape).map(Double.init),
                atol: 1e-6,
                rtol: 1e-4,
                "gradient of \(slice.name)"
            )
        }
    }

    @Test(arguments: ["mlp", "cnn"], ["sgd", "adamw"])
    func twentyLossesAndTheFinalWeightsArePyTorchs(name: String, optimizer: String) throws {
        let (recorder, parameters) = try train(name, optimizer)
        let file = try Facts.tensors(name)
        let result = try SafeTensors(reading: recorder.weights)
        for slice in parameters {
            expectClose(
                try result.floats(slice.name),
                try file.floats("final.\(optimizer).\(slice.name)").map(Double.init),
                atol: 5e-5,
                rtol: 1e-4,
                "final \(slice.name)"
            )
        }
        let epoch = try #require(recorder.epochs.first)
        #expect(epoch.valLoss == nil && epoch.valAccuracy == nil)
    }

    /// Adam and RMSprop are PyTorch's; LAMB and Lion are the papers', written out in the generator.
    @Test(arguments: ["adam", "rmsprop", "lamb", "lion"])
    func twentyLossesOfTheOtherOptimizersAreTheirReferences(optimizer: String) throws {
        _ = try train("mlp", optimizer)
    }

    /// Twenty steps from the fixture's weights; the losses must be the fixture's.
    private func train(_ name: String, _ optimizer: String) throws -> (Recorder, [ParameterSlice]) {
        let samples = try FixtureSamples(name, lanes: 4)
        let facts = try Facts.read()
        let channels = samples.shape.count == 3 ? samples.shape[0] : 1
        let record = Made.record(
            model: spec(name),
            epochs: 1,
            batch: samples.batch,
            lanes: 4,
            optimizer: try #require(optimizers[optimizer]),
            schedule: TypedSpec(type: "constant")
        )
        try BLAS.pinToOneThread()
        let recorder = Recorder()
        let loop = try TrainingLoop(
            preparedRecord: record,
            samples: samples,
            exchange: SoloExchange(laneCount: 4),
            laneThreads: 2,
            observer: recorder,
            resume: nil,
            start: (
                try Facts.tensors(name), "initial.",
                Normalization(
                    mean: [Float](repeating: 0, count: channels),
                    deviation: [Float](repeating: 1, count: channels)
                )
            )
        )
        try loop.run()
        let losses = try #require(facts.cases[name]?.losses[optimizer])
        expectClose(recorder.steps.map { Float($0.loss) }, losses, atol: 2e-5, rtol: 2e-5, "losses")
        return (recorder, loop.model.parameters)
    }

    @Test func aPlateauReducesTheRateWherePyTorchDoes() throws {
        let facts = try Facts.read()
        let spec = TypedSpec(
            type: "plateau",
            parameters: ["factor": .number(0.5), "patience": .integer(1), "improvement": .number(0.005)]
        )
        let schedule = try Schedule(spec, rate: 0.1, stepsPerEpoch: 8, epochs: 12)
        var progress = Progress()
        for (value, expected) in zip(facts.plateau.heard, facts.plateau.rates) {
            schedule.hear(value, isLargerBetter: true, &progress)
            #expect(abs(schedule.rate(at: 9, reductions: progress.reductions) - expected) < 1e-9 * expected)
        }
        #expect(progress.reductions > 2)
    }

    @Test(arguments: ["mlp", "cnn"])
    func ourSafetensorsWriterGivesTheReferenceWritersBytes(name: String) throws {
        let url = Facts.folder.appending(path: "training-\(name).safetensors")
        let bytes = [UInt8](try Data(contentsOf: url))
        #expect(SafeTensors.write(try SafeTensors(reading: bytes).tensors.reversed()) == bytes)
    }

    @Test func learningRatesArePyTorchs() throws {
        let facts = try Facts.read()
        let specs = [
            "cosine": TypedSpec(type: "cosine", parameters: ["minimum_factor": .number(0.01)]),
            "one_cycle": TypedSpec(type: "one_cycle"),
            "step": TypedSpec(
                type: "step",
                parameters: ["every_epochs": .integer(2), "factor": .number(0.5)]
            ),
        ]
        for (name, spec) in specs {
            let schedule = try Schedule(spec, rate: 0.1, stepsPerEpoch: 8, epochs: 5)
            for (step, expected) in try #require(facts.rates[name]).enumerated() {
                let found = schedule.rate(at: step)
                #expect(abs(found - expected) < 1e-12 + 1e-9 * expected, "\(name) at \(step)")
            }
        }
    }
}
