import Basics
import Tensors
import Testing

@testable import Training

/// PowerSGD above an exact exchange: nothing is lost for good, members stay equal, half a step can be tried again.
@Suite(.timeLimit(.minutes(5))) struct LowRankTests {
    /// One member; what it is given comes back, unless it shall be tried again.
    private final class Echo: GradientExchange {
        let lanes = LaneSet(0..<2)
        var refusals: Set<Int>
        var calls = 0
        var committed: [UInt64] = []
        init(refusing refusals: Set<Int> = []) { self.refusals = refusals }

        func exchange(
            operation: UInt64,
            contributions: [Contribution],
            laneValues: inout [Double],
            sum: UnsafeMutableBufferPointer<Float>,
            settles: Bool
        ) throws -> ExchangeOutcome {
            defer { calls += 1 }
            if refusals.contains(calls) { return .retry }
            committed.append(operation)
            _ = sum.update(fromContentsOf: contributions[0].values)
            return .committed
        }
    }

    private let slices = [
        ParameterSlice(name: "w", shape: [12, 20], offset: 0, start: .constant(0)),
        ParameterSlice(name: "b", shape: [12], offset: 240, start: .constant(0)),
    ]

    private func gradient(_ step: Int) -> [Float] {
        let random = RandomSource(seed: 5)
        return (0..<256).map {
            $0 < 252 ? 2 * RandomSource.unit(random.block(.order, layer: step, position: $0)[0]) - 1 : 0
        }
    }

    /// Runs some steps; gives the results and what is left.
    private func run(
        _ base: Echo,
        steps: Int,
        settles: Bool = false
    ) throws -> (sums: [[Float]], left: [Float]) {
        try BLAS.pinToOneThread()
        let exchange = LowRankExchange(base, parameters: slices, parameterCount: 256, rank: 2, seed: 1)
        var sums: [[Float]] = []
        var operation: UInt64 = 0
        for step in 0..<steps {
            let given = FloatArena(count: 256)
            _ = given.mutableBuffer.update(from: gradient(step))
            var rows = [Double(step), 1]
            let sum = FloatArena(count: 256)
            var outcome = ExchangeOutcome.retry
            while outcome == .retry {
                outcome = try exchange.exchange(
                    operation: operation,
                    contributions: [
                        Contribution(subtree: LaneSubtree(start: 0, level: 1), values: given.buffer)
                    ],
                    laneValues: &rows,
                    sum: sum.mutableBuffer,
                    settles: settles && step + 1 == steps
                )
            }
            #expect(rows == [Double(step), 1])
            operation += exchange.lastOperations
            sums.append(Array(sum.buffer))
        }
        return (sums, Array(exchange.leftValues))
    }

    @Test(arguments: [false, true]) func allThatIsGivenArrivesOrIsLeft(settles: Bool) throws {
        let (sums, left) = try run(Echo(), steps: 8, settles: settles)
        #expect(left.contains { $0 != 0 } != settles)
        for index in 0..<256 {
            let given = (0..<8).reduce(0.0) { $0 + Double(gradient($1)[index]) }
            let arrived = sums.reduce(0.0) { $0 + Double($1[index]) }
            #expect(abs(given - arrived - Double(left[index])) < 1e-4)
        }
        // What is no matrix is exact.
        #expect((0..<8).allSatisfy { Array(sums[$0][240..<252]) == Array(gradient($0)[240..<252]) })
    }

    @Test func aMatrixOfTheRankArrivesWhole() throws {
        try BLAS.pinToOneThread()
        let exchange = LowRankExchange(Echo(), parameters: slices, parameterCount: 256, rank: 2, seed: 1)
        let given = FloatArena(count: 256)
        for row in 0..<12 {
            for column in 0..<20 {
                given.pointer[row * 20 + column] =
                    Float((row + 1) * (column - 3)) + Float((row % 3) * column * column)
            }
        }
        let sum = FloatArena(count: 256)
        var rows: [Double] = [0, 0]
        _ = try exchange.exchange(
            operation: 0,
            contributions: [Contribution(subtree: LaneSubtree(start: 0, level: 1), values: given.buffer)],
            laneValues: &rows,
            sum: sum.mutableBuffer,
            settles: false
        )
        for index in 0..<240 { #expect(abs(sum.pointer[index] - given.pointer[index]) < 1e-2) }
    }

    @Test func aStepThatIsTriedAgainGivesTheSameBits() throws {
        let plain = try run(Echo(), steps: 4)
        // Calls: both halves of a step are refused, the second one twice.
        let base = Echo(refusing: [0, 2, 3, 6])
        let shaky = try run(base, steps: 4)
        #expect(shaky.sums == plain.sums && shaky.left == plain.left)
        #expect(base.committed == Array(0..<8))
    }

    @Test func aRunLearnsAndResumesWithTheSameBits() throws {
        var record = Made.record(model: Made.mlp, epochs: 3)
        record.spec.exchange = ExchangeSpec(.powersgd)
        record.spec.exchange?.rank = 2
        let samples = Made.flat()
        let whole = try Made.train(record, samples)
        #expect(try #require(whole.epochs.last).trainLoss < (try #require(whole.epochs.first).trainLoss))
        let plain = try Made.train(Made.record(model: Made.mlp, epochs: 3), samples)
        #expect(whole.weights != plain.weights)
        let resumed = try Made.train(
            record,
            samples,
            resume: try CheckpointState.read(files: try #require(whole.checkpoints.first).files)
        )
        #expect(resumed.weights == whole.weights)
    }

    @Test func membersHoldTheSameWeights() throws {
        var record = Made.record(model: Made.mlp)
        record.spec.exchange = ExchangeSpec(.powersgd)
        let given = record
        let meeting = Meeting(lanes: [LaneSet(0..<2), LaneSet(2..<4)], laneCount: 4)
        var results = [Recorder?](repeating: nil, count: 2)
        results.withUnsafeMutableBufferPointer { results in
            LanePool(size: 2).run(2) { member, _ in
                results[member] = try? Made.train(
                    given,
                    Made.flat(),
                    exchange: MemberExchange(meeting, member)
                )
            }
        }
        let (a, b) = (try #require(results[0]), try #require(results[1]))
        #expect(a.checkpoints.map(\.weightsDigest) == b.checkpoints.map(\.weightsDigest))
        for (mine, other) in zip(a.checkpoints, b.checkpoints) {
            #expect(mine.files.map(\.bytes) == other.files.map(\.bytes))
        }
    }
}
