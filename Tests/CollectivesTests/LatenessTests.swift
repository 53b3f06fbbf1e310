import Basics
import Dispatch
import Synchronization
import Testing

@testable import Collectives

/// Members that live and keep the others waiting.
@Suite(.timeLimit(.minutes(5)))
struct LatenessTests {
    @Test
    func aWaitIsToldAgainEachTimeItHasDoubled() {
        let start = ContinuousClock.now
        var watch = LatenessWatch(now: start)
        let told = (0...100).filter { tenth in
            watch.look(operation: 3, late: [1], at: start + .milliseconds(100 * tenth)) != nil
        }
        #expect(told == [2, 4, 8, 16, 32, 64])
        // Another operation is another wait, and so is one after nobody was late.
        let later = start + .seconds(20)
        #expect(watch.look(operation: 4, late: [1], at: later) == nil)
        #expect(watch.look(operation: 4, late: [1], at: later + .milliseconds(250)) == .milliseconds(250))
        #expect(watch.look(operation: 4, late: [], at: later + .milliseconds(600)) == nil)
        #expect(watch.look(operation: 4, late: [1], at: later + .milliseconds(700)) == nil)
        #expect(watch.look(operation: nil, late: [1], at: later + .seconds(5)) == nil)
    }

    @Test(arguments: Way.allCases)
    func whoWaitsSaysForWhom(way: Way) throws {
        // Rank 2 has no lanes: nobody waits for its part.
        let lanes = [LaneSet([0, 1]), LaneSet([2, 3]), LaneSet()]
        let cluster = try TestCluster(3, way)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let waits = Mutex<[GroupWait]>([])
        let told = DispatchSemaphore(value: 0)
        let tell: @Sendable (GroupWait) -> Void = { wait in
            waits.withLock { $0.append(wait) }
            told.signal()
        }
        onThreads(3) { rank in
            do {
                let group = try Group.open(
                    endpoint: cluster.endpoints[rank],
                    run: testRun,
                    generation: 1,
                    rank: rank,
                    members: members,
                    laneCount: 4,
                    secret: testSecret,
                    deadline: .now + .seconds(20),
                    options: way.options,
                    onWait: rank == 0 ? tell : nil
                )
                defer { group.close() }
                var mine = Computed(0, lanes[rank], laneCount: 4, count: 5000, width: 2)
                var sum = [Float](repeating: .nan, count: 5000)
                if rank == 1 { told.wait() }
                try mine.reduce(group, 0, into: &sum)
                #expect(sum == serialTree(wholeTree(4), 0, 5000))
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
        let heard = waits.withLock { $0 }
        #expect(!heard.isEmpty)
        #expect(heard.allSatisfy { $0.ranks == [1] && $0.duration >= LatenessWatch.first })
    }

    @Test
    func whoStillComputesItselfWaitsForNobody() throws {
        let lanes = [LaneSet([0]), LaneSet([1])]
        let cluster = try TestCluster(2)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let waits = Mutex<[(rank: Int, wait: GroupWait)]>([])
        let told = DispatchSemaphore(value: 0)
        onThreads(2) { rank in
            do {
                var options = Group.Options()
                options.buckets = [1600..<3200, 0..<1600]
                let group = try Group.open(
                    endpoint: cluster.endpoints[rank],
                    run: testRun,
                    generation: 1,
                    rank: rank,
                    members: members,
                    laneCount: 2,
                    secret: testSecret,
                    deadline: .now + .seconds(20),
                    options: options,
                    onWait: { wait in
                        waits.withLock { $0.append((rank, wait)) }
                        told.signal()
                    }
                )
                defer { group.close() }
                let values = [Float](repeating: 1, count: 3200)
                var sum = [Float](repeating: .nan, count: 3200)
                var rows = [Double](repeating: 0, count: 2)
                try values.withUnsafeBufferPointer { values in
                    try sum.withUnsafeMutableBufferPointer { sum in
                        let given = [(subtree: group.subtrees[0], values: values)]
                        #expect(group.begin(operation: 0, contributions: given, width: 1, sum: sum))
                        group.give(buckets: 1)
                        // It computes for as long as the other one waits for it.
                        if rank == 0 { told.wait() }
                        try group.reduce(operation: 0, contributions: given, laneValues: &rows, sum: sum)
                    }
                }
                #expect(sum == [Float](repeating: 2, count: 3200))
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
        let heard = waits.withLock { $0 }
        #expect(!heard.isEmpty)
        #expect(heard.allSatisfy { $0.rank == 1 && $0.wait.ranks == [0] })
    }
}
