import Basics
import Dispatch
import Synchronization
import Testing

@testable import Training

/// Members in one process: the last one to arrive adds up, then all go on.
final class Meeting: Sendable {
    struct Left: Error {}

    private struct State {
        var lanes: [LaneSet]
        var alive: [Bool]
        var sums: [LaneSubtree: [Float]] = [:]
        var rows: [Double] = []
        var arrived: [Int] = []
        /// What each member takes away; nil values mean a retry.
        ///
        /// A faster member may already be at the next operation.
        var delivery: [Int: (values: [Double], root: [Float])?] = [:]
    }

    private let state: Mutex<State>
    private let doors: [DispatchSemaphore]
    let laneCount: Int
    /// Member and operation: leaves instead of contributing.
    let leaver: (member: Int, operation: UInt64)?

    init(lanes: [LaneSet], laneCount: Int, leaver: (member: Int, operation: UInt64)? = nil) {
        self.laneCount = laneCount
        self.leaver = leaver
        doors = lanes.map { _ in DispatchSemaphore(value: 0) }
        state = Mutex(State(lanes: lanes, alive: lanes.map { _ in true }))
    }

    func lanes(of member: Int) -> LaneSet { state.withLock { $0.lanes[member] } }

    func exchange(
        _ member: Int,
        _ operation: UInt64,
        _ contributions: [Contribution],
        _ values: inout [Double],
        _ sum: UnsafeMutableBufferPointer<Float>
    ) throws -> ExchangeOutcome {
        let leaves = leaver.map { $0.member == member && $0.operation == operation } ?? false
        let (rows, parts) = (values, contributions.map { ($0.subtree, Array($0.values)) })
        state.withLock { state in
            if leaves {
                state.alive[member] = false
            } else {
                #expect(parts.map(\.0) == state.lanes[member].subtrees(laneCount: laneCount))
                state.arrived.append(member)
                for (tree, numbers) in parts { state.sums[tree] = numbers }
                let width = rows.count / laneCount
                if state.rows.isEmpty { state.rows = [Double](repeating: .nan, count: rows.count) }
                for lane in state.lanes[member].lanes {
                    for i in 0..<width { state.rows[lane * width + i] = rows[lane * width + i] }
                }
            }
            guard state.arrived.count == state.alive.filter({ $0 }).count else { return }
            let survivors = state.alive.indices.filter { state.alive[$0] }
            if survivors.contains(where: { !state.arrived.contains($0) }) { return }
            if state.lanes.indices.contains(where: { !state.alive[$0] && !state.lanes[$0].isEmpty }) {
                let held = LanePlanner.reassign(held: survivors.map { state.lanes[$0] }, laneCount: laneCount)
                for index in state.lanes.indices { state.lanes[index] = LaneSet() }
                for (index, set) in zip(survivors, held) { state.lanes[index] = set }
                for member in survivors { state.delivery[member] = .some(nil) }
            } else {
                let tree = LaneSubtree(start: 0, level: laneCount.trailingZeroBitCount)
                let root = Self.combine(tree, state.sums)
                for member in survivors { state.delivery[member] = (state.rows, root) }
            }
            (state.arrived, state.sums, state.rows) = ([], [:], [])
            for door in survivors { doors[door].signal() }
        }
        if leaves { throw Left() }
        doors[member].wait()
        let taken = state.withLock { $0.delivery.removeValue(forKey: member) }
        guard let taken, let taken else { return .retry }
        values = taken.values
        _ = sum.update(fromContentsOf: taken.root)
        return .committed
    }

    private static func combine(_ tree: LaneSubtree, _ sums: [LaneSubtree: [Float]]) -> [Float] {
        if let known = sums[tree] { return known }
        guard let (left, right) = tree.halves else {
            Issue.record("lane \(tree.start) is missing")
            return []
        }
        return zip(combine(left, sums), combine(right, sums)).map { $0 + $1 }
    }
}

final class MemberExchange: GradientExchange {
    private let meeting: Meeting
    private let member: Int

    init(_ meeting: Meeting, _ member: Int) {
        self.meeting = meeting
        self.member = member
    }

    var lanes: LaneSet { meeting.lanes(of: member) }

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        try meeting.exchange(member, operation, contributions, &laneValues, sum)
    }
}

/// One member whose lanes change in the middle of operations.
private final class ShakyExchange: GradientExchange {
    private(set) var lanes = LaneSet([1])
    private(set) var retries = 0
    private let plan: [LaneSet]

    init(laneCount: Int) { plan = [LaneSet([1]), LaneSet([0, 1, 3]), LaneSet(0..<laneCount)] }

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        #expect(contributions.map(\.subtree) == lanes.subtrees(laneCount: 4))
        if lanes == plan[2] {
            _ = sum.update(fromContentsOf: contributions[0].values)
            lanes = plan[Int(operation) % 3]
            return .committed
        }
        retries += 1
        lanes = plan[(plan.firstIndex(of: lanes) ?? 0) + 1]
        return .retry
    }
}

/// One member, some of whose lanes are taken while it computes them, and come back when it has moved on.
private final class TakingExchange: GradientExchange {
    private(set) var lanes = LaneSet(0..<4)
    private(set) var moves = 0
    /// Questions until lanes 2 and 3 are taken.
    private var patience = 5

    func hasMoved(lane: Int) -> Bool {
        patience -= 1
        return lane >= 2 && patience < 0 && lanes.count == 4
    }

    func moveOn() throws {
        moves += 1
        lanes = LaneSet([0, 1])
    }

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        #expect(contributions.map(\.subtree) == lanes.subtrees(laneCount: 4))
        guard lanes.count == 4 else {
            (lanes, patience) = (LaneSet(0..<4), 40)
            return .retry
        }
        _ = sum.update(fromContentsOf: contributions[0].values)
        patience = 3 + moves % 11
        return .committed
    }
}

/// Counts the samples that are read, and passes all on.
struct CountedSamples: SampleSource {
    final class Counter: Sendable {
        let value = Atomic<Int>(0)
    }
    var base: MadeSamples
    let counter = Counter()
    var shape: [Int] { base.shape }
    var classes: [String] { base.classes }
    var stepsPerEpoch: Int { base.stepsPerEpoch }
    var trainingIndices: [Int] { base.trainingIndices }
    var validationIndices: [Int] { base.validationIndices }
    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        base.microbatch(lane: lane, epoch: epoch, step: step)
    }
    func label(_ index: Int) -> Int { base.label(index) }
    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
        counter.value.wrappingAdd(1, ordering: .relaxed)
        base.read(index, into: target)
    }
}

@Suite(.timeLimit(.minutes(5))) struct ExchangeTests {
    /// Trains with members on threads of their own; nil for one that left.
    private func train(
        _ record: RunRecord,
        _ samples: MadeSamples,
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

    @Test(arguments: [[1.0, 1.0], [3.0, 1.0], [1.0, 1.0, 1.0], [5.0, 2.0, 1.0]])
    func membersEndWithTheBitsOfOneAlone(weights: [Double]) throws {
        for (model, samples) in [(Made.mlp, Made.flat(lanes: 8)), (Made.cnn, Made.images(lanes: 8))] {
            let record = Made.record(model: model, lanes: 8)
            let alone = try Made.train(record, samples)
            let lanes = LanePlanner.assign(laneCount: 8, weights: weights)
            let meeting = Meeting(lanes: lanes, laneCount: 8)
            for member in train(record, samples, meeting, members: weights.count) {
                let member = try #require(member)
                #expect(member.checkpoints.map(\.weightsDigest) == alone.checkpoints.map(\.weightsDigest))
                #expect(
                    member.checkpoints.last?.files.map(\.bytes) == alone.checkpoints.last?.files.map(\.bytes)
                )
                #expect(member.steps.map(\.loss) == alone.steps.map(\.loss))
            }
        }
    }

    @Test(arguments: [0, 3, 7, 11] as [UInt64])
    func aMemberThatLeavesChangesNoBit(operation: UInt64) throws {
        let samples = Made.flat(lanes: 8)
        let record = Made.record(model: Made.mlp, lanes: 8)
        let alone = try Made.train(record, samples)
        let lanes = LanePlanner.assign(laneCount: 8, weights: [1, 1, 1])
        let meeting = Meeting(lanes: lanes, laneCount: 8, leaver: (1, operation))
        let results = train(record, samples, meeting, members: 3)
        #expect(results[1] == nil)
        for member in [results[0], results[2]] {
            #expect(
                try #require(member).checkpoints.map(\.weightsDigest)
                    == alone.checkpoints.map(\.weightsDigest)
            )
        }
    }

    @Test(arguments: [Made.mlp, Made.cnn])
    func lanesThatAreTakenWhileTheyAreComputedChangeNoBit(model: TypedSpec) throws {
        let record = Made.record(model: model)
        let samples = model == Made.mlp ? Made.flat() : Made.images()
        let alone = try Made.train(record, samples, threads: 1)
        let exchange = TakingExchange()
        let result = try Made.train(record, samples, exchange: exchange, threads: 1)
        #expect(exchange.moves > 4)
        #expect(result.checkpoints.last?.files.map(\.bytes) == alone.checkpoints.last?.files.map(\.bytes))
    }

    @Test func aRetryComputesTheMissingLanesOnlyAndChangesNoBit() throws {
        let record = Made.record(model: Made.mlp)
        let calm = CountedSamples(base: Made.flat())
        let alone = try Made.train(record, calm)
        let shaken = CountedSamples(base: Made.flat())
        let exchange = ShakyExchange(laneCount: 4)
        let result = try Made.train(record, shaken, exchange: exchange)
        #expect(exchange.retries > 10)
        #expect(result.checkpoints.last?.files.map(\.bytes) == alone.checkpoints.last?.files.map(\.bytes))
        #expect(shaken.counter.value.load(ordering: .relaxed) == calm.counter.value.load(ordering: .relaxed))
    }
}
