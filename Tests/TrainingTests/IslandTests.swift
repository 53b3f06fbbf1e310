import Basics
import Tensors
import Testing

@testable import Training

/// Islands that train alone and meet: what they end with, alone, on several members, resumed, and with one lost.
@Suite(.timeLimit(.minutes(5))) struct IslandTests {
    private func record(
        islands: Int,
        steps: Int,
        rate: Double = 0.7,
        momentum: Double = 0.9,
        epochs: Int = 3
    ) -> RunRecord {
        var record = Made.record(model: Made.mlp, epochs: epochs)
        var exchange = ExchangeSpec(.diloco)
        (exchange.islands, exchange.localSteps) = (islands, steps)
        (exchange.outerLearningRate, exchange.outerMomentum) = (rate, momentum)
        record.spec.exchange = exchange
        return record
    }

    private func train(
        _ record: RunRecord,
        _ samples: any SampleSource,
        _ meeting: Meeting,
        members: Int
    ) -> [Recorder?] {
        var results = [Recorder?](repeating: nil, count: members)
        results.withUnsafeMutableBufferPointer { results in
            LanePool(size: members).run(members) { member, _ in
                results[member] = try? Made.train(
                    record,
                    samples,
                    exchange: MemberExchange(meeting, member),
                    threads: member % 2 + 1
                )
            }
        }
        return results
    }

    @Test func anIslandAloneWithoutMomentumTrainsAsEverStepByStep() throws {
        let samples = Made.flat()
        let plain = try Made.train(Made.record(model: Made.mlp), samples)
        // Every meeting moves the weights to where the one island is, up to the rounding of a difference.
        let alone = try Made.train(record(islands: 1, steps: 3, rate: 1, momentum: 0, epochs: 2), samples)
        let (a, b) = (try #require(plain.epochs.last), try #require(alone.epochs.last))
        #expect(abs(a.trainLoss - b.trainLoss) < 1e-4)
        #expect(abs((a.valLoss ?? 0) - (b.valLoss ?? 9)) < 1e-4)
        #expect(alone.steps.map(\.globalStep).last == plain.steps.map(\.globalStep).last)
        #expect(alone.steps.reduce(0) { $0 + $1.samples } == plain.steps.reduce(0) { $0 + $1.samples })
        #expect(alone.steps.count < plain.steps.count)
    }

    @Test func theIslandsAreTheRunsAndNotTheMembers() throws {
        let samples = Made.flat()
        let record = record(islands: 2, steps: 3)
        let alone = try Made.train(record, samples)
        let meeting = Meeting(lanes: [LaneSet(0..<2), LaneSet(2..<4)], laneCount: 4)
        let members = train(record, samples, meeting, members: 2)
        for member in members {
            let member = try #require(member)
            #expect(member.checkpoints.map(\.weightsDigest) == alone.checkpoints.map(\.weightsDigest))
            // The optimizer's state and all else are alike too: any member's checkpoint will do.
            for (mine, other) in zip(member.checkpoints, alone.checkpoints) {
                #expect(mine.files.map(\.bytes) == other.files.map(\.bytes))
            }
        }
        let other = try Made.train(self.record(islands: 4, steps: 3), samples)
        #expect(other.weights != alone.weights)
    }

    @Test func aResumedRunEndsWithTheSameBits() throws {
        let samples = Made.flat()
        let record = record(islands: 2, steps: 4)
        let whole = try Made.train(record, samples)
        let resumed = try Made.train(
            record,
            samples,
            resume: try CheckpointState.read(files: try #require(whole.checkpoints.first).files)
        )
        #expect(resumed.weights == whole.weights)
    }

    @Test func aLostIslandCostsItsStepsOfOneMeetingAndNobodyWaits() throws {
        let samples = CountedSamples(base: Made.flat())
        let record = record(islands: 2, steps: 2)
        let meeting = Meeting(
            lanes: [LaneSet(0..<2), LaneSet(2..<4)],
            laneCount: 4,
            leaver: (member: 1, operation: 1)
        )
        let members = train(record, samples, meeting, members: 2)
        #expect(members[1] == nil)
        let left = try #require(members[0])
        let whole = try Made.train(record, Made.flat())
        #expect(left.steps.count == whole.steps.count)
        for (index, (mine, full)) in zip(left.steps, whole.steps).enumerated() {
            if index == 1 {
                #expect(mine.samples < full.samples && mine.samples >= full.samples / 3)
            } else {
                #expect(mine.samples == full.samples)
            }
        }
        #expect(try #require(left.epochs.last).trainLoss < (try #require(left.epochs.first).trainLoss))
    }

    @Test func aMeetingIsAStepOfNesterovMomentumOnTheMeanProgress() throws {
        var spec = record(islands: 2, steps: 1).spec
        spec.optimizer = TypedSpec(type: "sgd")
        let inner = try Optimizer(spec.optimizer, parameterCount: 16)
        let islands = try #require(try Islands(spec, parameterCount: 16, optimizer: inner))
        let (weights, sum) = (FloatArena(count: 16), FloatArena(count: islands.elements))
        let kernels = try Kernels(.v2)
        var (expected, momentum) = (1.0, 0.0)
        weights.pointer[3] = 1
        for round in 0..<3 {
            // Two islands of 8 samples each went 0.5 and 0.25 down.
            sum.clear()
            sum.pointer[3] = 8 * 0.5 + 8 * 0.25
            islands.meet(
                weights,
                sum: sum,
                samples: 16,
                round: round,
                settles: false,
                optimizer: inner,
                kernels: kernels,
                pool: LanePool(size: 1)
            )
            momentum = 0.9 * momentum + 0.375
            expected -= 0.7 * (0.375 + 0.9 * momentum)
            #expect(abs(Double(weights.pointer[3]) - expected) < 1e-6)
        }
    }
}
