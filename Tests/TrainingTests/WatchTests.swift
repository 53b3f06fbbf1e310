import Basics
import Tensors
import Testing

@testable import Training

/// Samples with a reading of their own for training.
private struct Altered: SampleSource {
    var base: MadeSamples
    /// Samples whose values are multiplied from a step on.
    var loud: [Int: Float] = [:]
    var from = 0

    var shape: [Int] { base.shape }
    var classes: [String] { base.classes }
    var stepsPerEpoch: Int { base.stepsPerEpoch }
    var trainingIndices: [Int] { base.trainingIndices }
    var validationIndices: [Int] { base.validationIndices }
    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        base.microbatch(lane: lane, epoch: epoch, step: step)
    }
    func label(_ index: Int) -> Int { base.label(index) }
    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) { base.read(index, into: target) }
    func read(_ index: Int, step: Int, position: Int, into target: UnsafeMutableBufferPointer<Float>) {
        base.read(index, into: target)
        guard step >= from, let factor = loud[index] else { return }
        for place in target.indices { target[place] *= factor }
    }
    func name(of index: Int) -> String { "sample-\(index)" }
}

@Suite struct LossWatchTests {
    /// What the watch says of each loss.
    private func heard(_ losses: [Double], _ watch: inout LossWatch) -> [Bool] {
        losses.map { watch.hear($0) }
    }

    @Test func aLossOutOfLineIsToldOnceAndThenAgainAfterItWasBack() {
        var watch = LossWatch()
        let noise = RandomSource(seed: 1)
        let usual = (0..<101).map {
            2 + 0.1 * Double(RandomSource.unit(noise.block(.order, position: $0)[0]))
        }
        let quiet = heard(Array(usual.prefix(100)), &watch)
        #expect(!quiet.contains(true))
        let loud = heard([9, 9, 8, usual[100], 9], &watch)
        #expect(loud == [true, false, false, false, true])
    }

    @Test func aNewLevelIsTheUsualOneInTheEnd() {
        var watch = LossWatch()
        _ = heard((0..<50).map { 1 + 0.01 * Double($0 % 3) }, &watch)
        let after = heard([Double](repeating: 4, count: 1 + 2 * LossWatch.window), &watch)
        #expect(after.first == true && after.count { $0 } == 1)
        #expect(watch.usual.map { abs($0.mean - 4) < 1e-9 } == true)
    }

    @Test func nothingIsToldInTheFirstStepsNorOfALossThatFalls() {
        var watch = LossWatch()
        let first = heard((0..<LossWatch.least).map { $0 == 3 ? 100 : 1 }, &watch)
        #expect(!first.contains(true))
        var falling = LossWatch()
        let fall = heard((0..<300).map { 3 / (1 + Double($0) / 20) }, &falling)
        #expect(!fall.contains(true))
    }
}

@Suite struct WatchTests {
    @Test func aLossThatIsNoNumberNamesStepLaneAndSample() throws {
        var samples = Altered(base: Made.flat())
        // Of the second step of the second epoch.
        let victim = samples.base.microbatch(lane: 2, epoch: 1, step: 1)[3]
        samples.loud = [victim: .nan]
        samples.from = 7
        let error = #expect(throws: TrainingError.self) {
            try Made.train(Made.record(model: Made.mlp, epochs: 3), samples)
        }
        #expect(error?.code == .diverged)
        #expect(
            error?.message
                == "the loss is no finite number in step 9 (epoch 2), lane 2, samples sample-\(victim)"
        )
    }

    /// Samples so large that their loss is still a number and their gradient, times the rate, is none.
    @Test func anUpdateThatMakesWeightsInfiniteIsNamed() throws {
        let record = Made.record(
            model: Made.mlp,
            optimizer: TypedSpec(type: "sgd", parameters: ["learning_rate": .number(1e6)]),
            schedule: TypedSpec(type: "constant")
        )
        var samples = Altered(base: Made.flat())
        // One that the model has right by chance has no gradient: all of a lane.
        for victim in samples.base.microbatch(lane: 3, epoch: 0, step: 0) { samples.loud[victim] = 1e35 }
        let error = #expect(throws: TrainingError.self) { try Made.train(record, samples) }
        #expect(error?.code == .diverged)
        let words = "an update has made weights infinite; that of step 1 did it, whose largest loss,"
        #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
        #expect(error?.message.hasSuffix("was in lane 3") == true)
    }

    @Test func aSpikeNamesStepLaneAndSamples() throws {
        var samples = Altered(base: Made.flat())
        let step = 30  // of 7 an epoch: the third of the fifth
        let victims = samples.base.microbatch(lane: 1, epoch: 4, step: 2)
        for victim in victims { samples.loud[victim] = -1000 }
        samples.from = step
        let result = try Made.train(Made.record(model: Made.mlp, epochs: 5), samples)
        let notice = try #require(result.steps.compactMap(\.notice).first)
        #expect(notice.globalStep == step && notice.epoch == 4 && notice.lanes == [1])
        #expect(notice.loss > 1.5 * notice.usual)
        #expect(notice.samples.count == 5)
        #expect(Set(notice.samples).isSubset(of: victims.map { "sample-\($0)" }))
    }

    @Test func theTimeOfAStepIsPartedAndAddsUp() throws {
        let result = try Made.train(Made.record(model: Made.cnn), Made.images(), threads: 2)
        for step in result.steps {
            let times = step.times
            for part in [times.data, times.forward, times.backward, times.update] { #expect(part > 0) }
            let sum = times.data + times.forward + times.backward + times.exchange + times.update
            #expect(sum <= (step.secondsCompute + step.secondsExchange) * 1.0001)
        }
    }
}

@Suite struct MixupTests {
    private func spec(_ alpha: Double) -> TypedSpec {
        TypedSpec(type: "mixup", parameters: ["alpha": .number(alpha)])
    }

    /// The share follows Beta(α, α): mean 1/2, variance 1/(4(2α + 1)); the same key gives the same draw.
    @Test(arguments: [0.2, 1, 3])
    func sharesAreThoseOfTheBetaDistribution(alpha: Double) throws {
        let model = try Model(Made.mlp, inputShape: [20], classCount: 4)
        let mixup = try Mixup(spec(alpha), model: model)
        let random = RandomSource(seed: 5)
        let count = 20_000
        let draws = (0..<count).compactMap { mixup.mix(random, step: $0, position: 8, count: 16) }
        #expect(draws.count == count)
        #expect(draws.allSatisfy { (0...1).contains($0.share) && (1..<16).contains($0.shift) })
        #expect(Set(draws.map(\.shift)).count == 15)
        let mean = draws.reduce(0) { $0 + Double($1.share) } / Double(count)
        let variance =
            draws.reduce(0) { $0 + (Double($1.share) - mean) * (Double($1.share) - mean) } / Double(count)
        #expect(abs(mean - 0.5) < 0.01)
        #expect(abs(variance * 4 * (2 * alpha + 1) - 1) < 0.03, "variance \(variance)")
        #expect(mixup.mix(random, step: 9, position: 8, count: 16)?.share == draws[9].share)
        #expect(mixup.mix(random, step: 9, position: 8, count: 1) == nil)
    }

    /// Loss and gradient of mixed samples are those of the mixed inputs under both labels, by their shares.
    @Test func lossAndGradientAreTheMixOfBoth() throws {
        try BLAS.pinToOneThread()
        let kernels = try Kernels(Made.kernels)
        for (shape, spec) in [([20], Made.mlp), ([2, 9, 8], Made.cnn)] {
            let samples = MadeSamples(shape: shape, training: 8, validation: 1, batch: 8, lanes: 1)
            let model = try Model(spec, inputShape: shape, classCount: 4)
            let weights = FloatArena(count: model.parameterCount)
            model.initialize(weights.pointer, seed: 1)
            let channels = shape.count == 3 ? shape[0] : 1
            let size = shape.reduce(1, *)
            func fill(_ workspace: Workspace, _ values: (Int) -> [Float], labels: (Int) -> Int) {
                for position in 0..<8 {
                    _ = workspace.raw.update(fromContentsOf: values(position))
                    workspace.accept(
                        position: position,
                        count: 8,
                        mean: [Float](repeating: 90, count: channels),
                        deviation: [Float](repeating: 40, count: channels)
                    )
                    workspace.setTargets(position: position, label: labels(position))
                }
            }
            func gradient(_ workspace: Workspace) -> (loss: Double, values: [Float]) {
                let target = FloatArena(count: model.parameterCount)
                let pass = TrainingPass(
                    gradients: target.pointer,
                    random: RandomSource(seed: 1),
                    step: 0,
                    position: 0
                )
                let (loss, _) = workspace.train(count: 8, weights: weights.pointer, pass)
                return (loss, Array(target.buffer))
            }
            func raw(_ index: Int) -> [Float] {
                [Float](unsafeUninitializedCapacity: size) { target, count in
                    samples.read(index, into: UnsafeMutableBufferPointer(rebasing: target[..<size]))
                    count = size
                }
            }
            let workspace = Workspace(model: model, kernels: kernels, capacity: 8, trains: true)
            fill(workspace, raw, labels: samples.label)
            workspace.mix((3, 0.7), count: 8)
            let mixed = gradient(workspace)
            func blended(_ position: Int) -> [Float] {
                zip(raw(position), raw((position + 3) % 8)).map { 0.7 * $0 + 0.3 * $1 }
            }
            let plain = Workspace(model: model, kernels: kernels, capacity: 8, trains: true)
            fill(plain, blended, labels: samples.label)
            let first = gradient(plain)
            fill(plain, blended) { samples.label(($0 + 3) % 8) }
            let second = gradient(plain)
            #expect(abs(mixed.loss - (0.7 * first.loss + 0.3 * second.loss)) < 1e-4)
            expectClose(
                mixed.values,
                zip(first.values, second.values).map { 0.7 * Double($0) + 0.3 * Double($1) },
                atol: 1e-4,
                rtol: 1e-4,
                spec.type
            )
            // And nothing of it stays.
            fill(workspace, blended, labels: samples.label)
            workspace.mix(nil, count: 8)
            #expect(gradient(workspace).values == first.values)
        }
    }

    @Test func threadsAndResumingDoNotChangeABit() throws {
        var record = Made.record(model: Made.cnn)
        record.spec.augment = [spec(0.4)]
        let whole = try Made.train(record, Made.images(), threads: 1, snapshotAfter: 4)
        let many = try Made.train(record, Made.images(), threads: 3)
        #expect(whole.weights == many.weights)
        let state = try CheckpointState.read(files: try #require(whole.snapshot).files)
        #expect(try Made.train(record, Made.images(), resume: state).weights == whole.weights)
        #expect(try Made.train(Made.record(model: Made.cnn), Made.images()).weights != whole.weights)
    }
}
