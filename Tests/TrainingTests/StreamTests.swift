import Basics
import Dispatch
import Synchronization
import Testing

@testable import Training

/// Another exchange, whose operations are begun early: looks whether what is said to be final stays as it is.
private final class StreamingExchange: GradientExchange {
    private struct State {
        var isOpen = false
        var ranges: [Range<Int>] = []
        /// By subtree, what was told so far; NaN where nothing was.
        var seen: [[Float]] = []
        var given = 0
    }
    private let base: any GradientExchange
    private let state = Mutex(State())
    /// Buckets that were told before the end of their step, over all steps.
    let early = Mutex(0)
    private var contributions: [Contribution] = []

    init(_ base: any GradientExchange) { self.base = base }

    var lanes: LaneSet { base.lanes }

    func begin(
        operation: UInt64,
        contributions: [Contribution],
        buckets: [Range<Int>],
        width: Int,
        sum: UnsafeMutableBufferPointer<Float>
    ) -> Bool {
        #expect(buckets.count > 1 && width == 3)
        #expect(contributions.map(\.subtree) == lanes.subtrees(laneCount: 4))
        var covered = [Int](repeating: 0, count: sum.count)
        for place in buckets.joined() { covered[place] += 1 }
        #expect(covered.allSatisfy { $0 == 1 })
        self.contributions = contributions
        state.withLock { state in
            #expect(!state.isOpen)
            state.isOpen = true
            (state.ranges, state.given) = (buckets, 0)
            state.seen = contributions.map { Array(repeating: .nan, count: $0.values.count) }
        }
        return true
    }

    func give(buckets: Int) {
        let contributions = contributions
        state.withLock { state in
            #expect(state.isOpen)
            guard buckets > state.given else { return }
            for range in state.ranges[state.given..<buckets] {
                for (index, given) in contributions.enumerated() {
                    for place in range { state.seen[index][place] = given.values[place] }
                }
            }
            early.withLock { $0 += buckets - state.given }
            state.given = buckets
        }
    }

    func abandon() { state.withLock { $0.isOpen = false } }

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        state.withLock { state in
            guard state.isOpen else { return }
            state.isOpen = false
            for (seen, given) in zip(state.seen, contributions) {
                for range in state.ranges[..<state.given] {
                    #expect(range.allSatisfy { seen[$0].bitPattern == given.values[$0].bitPattern })
                }
            }
        }
        return try base.exchange(
            operation: operation,
            contributions: contributions,
            laneValues: &laneValues,
            sum: sum,
            settles: settles
        )
    }
}

/// Gradients that travel while the rest is computed.
@Suite(.timeLimit(.minutes(5))) struct StreamTests {
    private static let models: [(name: String, spec: TypedSpec, isImage: Bool)] = [
        ("mlp", Made.mlp, false), ("cnn", Made.cnn, true),
        // Batch statistics, sums, rectifiers left to them.
        (
            "resnet18",
            TypedSpec(type: "resnet18", parameters: ["width": .integer(4), "stem": .text("cifar")]), true
        ),
    ]

    @Test(arguments: ["mlp", "cnn", "resnet18"], [1, 3])
    func whatIsToldIsFinalAndTheBitsStay(name: String, threads: Int) throws {
        let (_, spec, isImage) = try #require(Self.models.first { $0.name == name })
        for parts in [1, 2] {
            var record = Made.record(model: spec, epochs: 1, batch: 64)
            record.spec.accumulate = parts
            let samples =
                isImage
                ? MadeSamples(shape: [2, 9, 8], training: 150, validation: 40, batch: 64, lanes: 4)
                : MadeSamples(shape: [20], training: 203, validation: 300, batch: 64, lanes: 4)
            let plain = try Made.train(record, samples)
            for fit in [MemoryFit(), MemoryFit(recomputes: true)] {
                let exchange = StreamingExchange(SoloExchange(laneCount: 4))
                let streamed = try Made.train(
                    record,
                    samples,
                    exchange: exchange,
                    threads: threads,
                    bucketBytes: 256,
                    fit: fit
                )
                #expect(streamed.weights == plain.weights)
                #expect(exchange.early.withLock { $0 } > samples.stepsPerEpoch)
            }
        }
    }

    @Test func membersWithAnyLanesEndWithTheSameBits() throws {
        let record = Made.record(model: Made.mlp)
        let samples = Made.flat()
        let plain = try Made.train(record, samples)
        let lanes = [LaneSet([0, 1, 3]), LaneSet([2])]
        // The second one leaves in the middle: what was begun is done again, at once.
        for leaver in [nil, (member: 1, operation: UInt64(4))] {
            let meeting = Meeting(lanes: lanes, laneCount: 4, leaver: leaver)
            let weights = Mutex<[[UInt8]]>([])
            let done = DispatchGroup()
            for member in 0..<2 {
                DispatchQueue.global().async(group: done) {
                    do {
                        let exchange = StreamingExchange(MemberExchange(meeting, member))
                        let trained = try Made.train(record, samples, exchange: exchange, bucketBytes: 256)
                        #expect(exchange.early.withLock { $0 } > 0)
                        weights.withLock { $0.append(trained.weights) }
                    } catch is Meeting.Left {
                        #expect(leaver?.member == member)
                    } catch {
                        Issue.record("member \(member): \(error)")
                    }
                }
            }
            done.wait()
            let all = weights.withLock { $0 }
            #expect(all.count == (leaver == nil ? 2 : 1))
            #expect(all.allSatisfy { $0 == plain.weights })
        }
    }

    @Test func aBucketHoldsWholeLayersLastOnesFirst() throws {
        let model = try Model(Made.mlp, inputShape: [20], classCount: 4)
        let buckets = GradientBuckets(model, bucketBytes: 256)
        #expect(buckets.ranges.count == 3)
        #expect(buckets.buckets.map(\.finalAfter) == buckets.buckets.map(\.finalAfter).sorted(by: >))
        let starts = Set(model.parameters.map(\.offset))
        #expect(buckets.ranges.allSatisfy { starts.contains($0.lowerBound) })
        #expect(buckets.ranges.first?.upperBound == model.trainedCount)
        #expect(buckets.ranges.last?.lowerBound == 0)
        // Too small to be worth it: all at once.
        #expect(model.gradientBuckets.ranges.isEmpty)
    }

    @Test func statisticsOfAllLayersComeLast() throws {
        let model = try Model(
            TypedSpec(type: "resnet18", parameters: ["stem": .text("cifar")]),
            inputShape: [3, 32, 32],
            classCount: 10
        )
        let ranges = model.gradientBuckets.ranges
        #expect(ranges.last == model.trainedCount..<model.parameterCount)
        #expect(ranges.reduce(0) { $0 + $1.count } == model.parameterCount)
        #expect(ranges.dropLast(2).allSatisfy { $0.count * 4 >= GradientBuckets.bucketBytes })
    }
}
