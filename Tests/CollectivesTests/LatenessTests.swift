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
}
