import Basics
import Tensors
import Testing

@testable import Training

@Suite struct SpecTests {
    @Test func parametersHaveTheirPyTorchNamesAndShapes() throws {
        let cnn = try Model(TypedSpec(type: "simple_cnn"), inputShape: [1, 28, 28], classCount: 10)
        #expect(
            cnn.parameters.map { "\($0.name) \($0.shape)" } == [
                "conv1.weight [32, 1, 3, 3]", "conv1.bias [32]", "conv2.weight [64, 32, 3, 3]",
                "conv2.bias [64]",
                "fc1.weight [128, 3136]", "fc1.bias [128]", "fc2.weight [10, 128]", "fc2.bias [10]",
            ]
        )
        let mlp = try Model(TypedSpec(type: "mlp"), inputShape: [1, 28, 28], classCount: 10)
        #expect(mlp.parameters.map(\.name) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"])
        let linear = try Model(TypedSpec(type: "linear"), inputShape: [7], classCount: 3)
        #expect(linear.parameters.map(\.shape) == [[3, 7], [3]])
        for model in [cnn, mlp, linear] {
            #expect(model.parameters.allSatisfy { $0.offset % 16 == 0 })
            #expect(model.parameterCount % 16 == 0)
        }
    }

    @Test func initialValuesAreUniformWithinTheBoundAndFollowTheSeed() throws {
        let model = try Model(TypedSpec(type: "mlp"), inputShape: [784], classCount: 10)
        let (a, b) = (FloatArena(count: model.parameterCount), FloatArena(count: model.parameterCount))
        model.initialize(a.pointer, seed: 1)
        model.initialize(b.pointer, seed: 2)
        #expect(Array(a.buffer) != Array(b.buffer))
        for slice in model.parameters {
            let values = (0..<slice.count).map { Double(a.pointer[slice.offset + $0]) }
            guard case .fanIn(let fanIn) = slice.start else { continue }
            let bound = 1 / Double(fanIn).squareRoot()
            #expect(values.allSatisfy { abs($0) <= bound })
            // Four standard errors of the mean, and of the mean square, of U(±bound).
            let error = 4 / Double(values.count).squareRoot()
            let mean = values.reduce(0, +) / Double(values.count)
            let square = values.reduce(0) { $0 + $1 * $1 } / Double(values.count)
            #expect(abs(mean) < bound * 0.578 * error)
            #expect(abs(square * 3 / (bound * bound) - 1) < 0.895 * error)
        }
    }

    @Test(arguments: [
        (
            TypedSpec(type: "resnet"), [1, 28, 28],
            "gpt, linear, mlp, mobilenet_v2, resnet18, resnet34, resnet50"
        ),
        (TypedSpec(type: "mlp", parameters: ["hiden": .integer(3)]), [4], "hidden"),
        (TypedSpec(type: "mlp", parameters: ["hidden": .integer(3)]), [4], "list of whole numbers"),
        (TypedSpec(type: "mlp", parameters: ["hidden": .list([.integer(0)])]), [4], "whole numbers in 1"),
        (TypedSpec(type: "simple_cnn"), [784], "images"),
        (TypedSpec(type: "simple_cnn"), [1, 3, 3], "too small"),
        (TypedSpec(type: "linear", parameters: ["hidden": .integer(1)]), [4], "hidden"),
        (TypedSpec(type: "linear"), [4, 4], "[C, H, W]"),
        (TypedSpec(type: "linear"), [1 << 19, 1 << 19, 1 << 19], "shape"),
    ])
    func aModelThatIsNotKnownIsRefusedWithWhatIs(spec: TypedSpec, shape: [Int], words: String) {
        let error = #expect(throws: TrainingError.self) { try Model(spec, inputShape: shape, classCount: 3) }
        #expect(error?.code == .badSpec)
        #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
    }

    @Test func anOptimizerOrScheduleThatIsNotKnownIsRefusedWithWhatIs() {
        let cases: [(TypedSpec, String)] = [
            (TypedSpec(type: "adamm"), "adam, adamw, lamb, lion, rmsprop, sgd"),
            (TypedSpec(type: "sgd", parameters: ["beta1": .number(0.9)]), "learning_rate"),
            (TypedSpec(type: "sgd", parameters: ["nesterov": .boolean(true)]), "momentum"),
            (TypedSpec(type: "adamw", parameters: ["beta2": .number(1)]), "beta2"),
            (TypedSpec(type: "adamw", parameters: ["learning_rate": .text("fast")]), "learning_rate"),
        ]
        for (spec, words) in cases {
            let error = #expect(throws: TrainingError.self) { try Optimizer(spec, parameterCount: 16) }
            #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
        }
        let schedules: [(TypedSpec, String)] = [
            (TypedSpec(type: "linear"), "constant, cosine, one_cycle, plateau, step"),
            (
                TypedSpec(type: "cosine", parameters: ["warmup_steps": .integer(41)]),
                "longer than the run of 40"
            ),
            (TypedSpec(type: "cosine", parameters: ["warmup": .integer(4)]), "warmup_steps"),
        ]
        for (spec, words) in schedules {
            let error = #expect(throws: TrainingError.self) {
                try Schedule(spec, rate: 0.1, stepsPerEpoch: 8, epochs: 5)
            }
            #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
        }
    }

    @Test func theWarmUpIsALine() throws {
        let spec = TypedSpec(type: "constant", parameters: ["warmup_steps": .integer(4)])
        let schedule = try Schedule(spec, rate: 0.2, stepsPerEpoch: 3, epochs: 3)
        #expect((0..<6).map { schedule.rate(at: $0) } == [0.05, 0.1, 0.15000000000000002, 0.2, 0.2, 0.2])
    }

    @Test func clippingBoundsTheNormOfTheMeanGradient() throws {
        let kernels = try Kernels(Made.kernels)
        let spec = TypedSpec(
            type: "sgd",
            parameters: ["learning_rate": .number(1), "clip_norm": .number(2)]
        )
        let optimizer = try Optimizer(spec, parameterCount: 32)
        let (weights, sum) = (FloatArena(count: 32), FloatArena(count: 32))
        sum.pointer[0] = 40
        sum.pointer[1] = 30
        let pool = LanePool(size: 1)
        func apply(samples: Double) {
            optimizer.apply(
                weights.pointer,
                sum.pointer,
                samples: samples,
                rate: 1,
                step: 1,
                kernels: kernels,
                pool: pool
            )
        }
        apply(samples: 10)  // mean (4, 3), norm 5: clipped to 2
        #expect(abs(weights.pointer[0] + 1.6) < 1e-5 && abs(weights.pointer[1] + 1.2) < 1e-5)
        weights.clear()
        sum.pointer[0] = 4
        sum.pointer[1] = 3
        apply(samples: 5)  // norm 1: left alone
        #expect(weights.pointer[0] == -0.8 && weights.pointer[1] == -0.6)
    }

    @Test func aRunMaySayItsNormalisation() throws {
        let samples = Made.images()
        let model = try Model(Made.cnn, inputShape: samples.shape, classCount: samples.classes.count)
        func given(_ type: String, _ parameters: [String: [Double]] = [:]) throws -> Normalization? {
            let spec = TypedSpec(
                type: type,
                parameters: parameters.mapValues { .list($0.map(SpecValue.number)) }
            )
            return try Normalization.given(spec, samples, model)
        }
        #expect(try Normalization.given(nil, samples, model) == nil)
        let none = try given("none")
        #expect(none?.mean == [0, 0] && none?.deviation == [1, 1])
        let own = try given("given", ["mean": [0.5, -3], "std": [0.25, 2]])
        #expect(own?.mean == [0.5, -3] && own?.deviation == [0.25, 2])
        let short = #expect(throws: TrainingError.self) {
            try given("given", ["mean": [0.5], "std": [1, 1]])
        }
        #expect(
            short?.message
                == "normalize given: mean has 1 numbers and std 2, for samples [2, 9, 8] it takes 2 each"
        )
        #expect(throws: TrainingError.self) { try given("given", ["mean": [0, 0], "std": [1e-300, 1]]) }
        #expect(throws: TrainingError.self) { try given("none", ["mean": [0, 0]]) }
        #expect(throws: TrainingError.self) { try given("zscore") }

        var record = Made.record(model: Made.cnn)
        record.spec.normalize = TypedSpec(type: "none")
        let loop = try TrainingLoop(
            preparedRecord: record,
            samples: samples,
            exchange: SoloExchange(laneCount: 4),
            laneThreads: 1,
            observer: Recorder(),
            resume: nil,
            start: nil
        )
        #expect(loop.signature.mean == [0, 0] && loop.signature.deviation == [1, 1])
    }

    @Test func meanAndDeviationAreThoseOfTheTrainingSplitForAnyThreads() throws {
        let samples = MadeSamples(shape: [2, 5, 5], training: 700, validation: 10, batch: 4, lanes: 1)
        let kernels = try Kernels(Made.kernels)
        let one = try Normalization.measure(samples, kernels: kernels, pool: LanePool(size: 1))
        let three = try Normalization.measure(samples, kernels: kernels, pool: LanePool(size: 3))
        #expect(one.mean == three.mean && one.deviation == three.deviation)
        var values: [[Double]] = [[], []]
        let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: 50)
        defer { buffer.deallocate() }
        for index in samples.trainingIndices {
            samples.read(index, into: buffer)
            for c in 0..<2 { values[c] += buffer[(c * 25)..<(c * 25 + 25)].map(Double.init) }
        }
        for c in 0..<2 {
            let mean = values[c].reduce(0, +) / Double(values[c].count)
            let variance = values[c].reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values[c].count)
            #expect(abs(Double(one.mean[c]) - mean) < 1e-4)
            #expect(abs(Double(one.deviation[c]) - variance.squareRoot()) < 1e-4)
        }
    }
}
