import Basics
import Synchronization
import Testing

@testable import Collectives

/// Lossy operations between members: equal replicas, nothing lost for good, nothing changed by what came to nothing.
@Suite(.timeLimit(.minutes(5)))
struct LossyReduceTests {
    static let codecs: [PayloadCodec] = [.bf16, .int8, .topK(fraction: 1.0 / 32)]
    static let count = 40_000
    static let steps: UInt64 = 12

    /// What one member ends with.
    struct Outcome: Sendable {
        var results: [[UInt32]] = []
        var left: [Float] = []
        var bytesSent = 0
    }

    /// Runs `steps` operations on a cluster; the last one settles when asked to.
    private func train(
        _ codec: PayloadCodec,
        _ lanes: [LaneSet],
        settles: Bool = false,
        way: Way = .inProcess
    ) throws -> [Outcome] {
        let cluster = try TestCluster(lanes.count, way)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let outcomes = Mutex(Array(repeating: Outcome(), count: lanes.count))
        var options = Group.Options()
        (options.combines, options.codec) = (true, codec)
        let chosen = options
        onThreads(lanes.count) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: 8, options: chosen)
                defer { group.close() }
                let feedback = ErrorFeedback(codec: codec)
                var outcome = Outcome()
                for operation in 0..<Self.steps {
                    var mine = Computed(operation, lanes[rank], laneCount: 8, count: Self.count, width: 1)
                    var sum = [Float](repeating: .nan, count: Self.count)
                    let last = settles && operation + 1 == Self.steps
                    try mine.reduce(group, operation, into: &sum, feedback: feedback, settles: last)
                    feedback.commit()
                    outcome.results.append(sum.map(\.bitPattern))
                    #expect(mine.rows == (0..<8).flatMap { laneRow(operation, $0, 1) })
                }
                outcome.left = Array(feedback.values)
                outcome.bytesSent = group.counters.bytesSent
                outcomes.withLock { [outcome] in $0[rank] = outcome }
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
        return outcomes.withLock { $0 }
    }

    /// Largest distance, over all values, between all inputs summed, and all results and all that is left.
    private func missing(_ outcomes: [Outcome]) -> Double {
        var total = [Double](repeating: 0, count: Self.count)
        for operation in 0..<Self.steps {
            for (index, value) in serialTree(wholeTree(8), operation, Self.count).enumerated() {
                total[index] += Double(value)
            }
        }
        for result in outcomes[0].results {
            for (index, bits) in result.enumerated() { total[index] -= Double(Float(bitPattern: bits)) }
        }
        for outcome in outcomes {
            for (index, value) in outcome.left.enumerated() { total[index] -= Double(value) }
        }
        return total.map(abs).max() ?? 0
    }

    @Test(arguments: codecs, [1, 2, 3, 5])
    func replicasAreEqualAndAllThatWasGivenArrivesOrIsLeft(codec: PayloadCodec, members: Int) throws {
        let lanes = LanePlanner.assign(laneCount: 8, weights: Array(repeating: 1, count: members))
        let outcomes = try train(codec, lanes)
        for outcome in outcomes { #expect(outcome.results == outcomes[0].results) }
        // Inputs are up to 2^8 in each of 8 lanes and 12 steps; sums in single precision.
        #expect(missing(outcomes) < 0.01)
        let anythingLeft = outcomes.contains { $0.left.contains { $0 != 0 } }
        #expect(anythingLeft == (members > 1))
        // A second time, and over another transport: the same plan gives the same bits.
        let again = try train(codec, lanes, way: .tcp)
        #expect(again.map(\.results) == outcomes.map(\.results))
        #expect(again.map { $0.left.map(\.bitPattern) } == outcomes.map { $0.left.map(\.bitPattern) })
    }

    @Test(arguments: codecs)
    func theStepThatSettlesDeliversAllThatWasLeft(codec: PayloadCodec) throws {
        let outcomes = try train(codec, LanePlanner.assign(laneCount: 8, weights: [1, 1, 1]), settles: true)
        for outcome in outcomes {
            #expect(outcome.results == outcomes[0].results)
            #expect(outcome.left.allSatisfy { $0 == 0 })
        }
        #expect(missing(outcomes) < 0.01)
    }

    @Test
    func fewerBytesCrossTheLinks() throws {
        let lanes = LanePlanner.assign(laneCount: 8, weights: [1, 1])
        let exact = Double(4 * Self.count) * Double(Self.steps)
        for (codec, ratio) in zip(Self.codecs, [2.0, 3.9, 20]) {
            let sent = try train(codec, lanes).map(\.bytesSent).max() ?? 0
            #expect(exact / Double(sent) > ratio * 0.95, "\(codec): \(sent) bytes instead of \(exact)")
        }
    }

    @Test(arguments: codecs)
    func anOperationThatCameToNothingLeavesWhatWasLeft(codec: PayloadCodec) throws {
        let lanes = LanePlanner.assign(laneCount: 8, weights: [1, 1])
        let cluster = try TestCluster(2, .inProcess)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        var options = Group.Options()
        (options.combines, options.codec) = (true, codec)
        let chosen = options
        onThreads(2) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: 8, options: chosen)
                let feedback = ErrorFeedback(codec: codec)
                var sum = [Float](repeating: .nan, count: Self.count)
                var mine = Computed(0, lanes[rank], laneCount: 8, count: Self.count, width: 1)
                try mine.reduce(group, 0, into: &sum, feedback: feedback)
                feedback.commit()
                let before = feedback.values.map(\.bitPattern)
                #expect(before.contains { $0 != 0 })
                if rank == 1 { return group.close() }  // leaves in place of its part of the next operation
                defer { group.close() }
                mine = Computed(1, lanes[rank], laneCount: 8, count: Self.count, width: 1)
                #expect(throws: CollectivesError.self) {
                    try mine.reduce(group, 1, into: &sum, feedback: feedback)
                }
                feedback.abandon()
                #expect(feedback.values.map(\.bitPattern) == before)
                feedback.commit()  // nothing is under way
                #expect(feedback.values.map(\.bitPattern) == before)
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
    }

    @Test
    func membersWithDifferentCodecsRefuseEachOther() throws {
        let lanes = LanePlanner.assign(laneCount: 8, weights: [1, 1])
        let cluster = try TestCluster(2, .inProcess)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(2) { rank in
            var options = Group.Options()
            options.combines = true
            options.codec = rank == 0 ? .int8 : .bf16
            do throws(CollectivesError) {
                let group = try cluster.open(
                    rank,
                    members,
                    laneCount: 8,
                    within: .seconds(2),
                    options: options
                )
                group.close()
                Issue.record("rank \(rank) met a member with another codec")
            } catch {
                let codes: [CollectivesError.Code] = [.mismatch, .deadlineExceeded, .handshakeRefused]
                #expect(codes.contains(error.code), "\(error)")
            }
        }
    }
}
