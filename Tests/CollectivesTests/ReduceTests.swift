import Basics
import Collectives
import Synchronization
import Testing

@Suite(.timeLimit(.minutes(5)))
struct ReduceTests {
    @Test(arguments: Way.allCases, 1...8)
    func sumHasTheBitsOfTheSerialTree(way: Way, members: Int) throws {
        var generator = SplitMix(UInt64(members) * 31 + (way == .tcp ? 1 : 2))
        for laneCount in [1, 2, 4, 8, 16, 64] {
            let lanes = randomLanes(laneCount, members, &generator)
            let sizes = [0, 1, 15, 16, 17, 1000] + (laneCount == 8 ? [100_003] : [])
            try check(way, lanes, laneCount: laneCount, sizes: sizes)
        }
    }

    @Test(arguments: Way.allCases)
    func manyPiecesAndManySubtreesArriveInPlace(way: Way) throws {
        // Odd lanes here, even lanes there: four subtrees of each cross the network, several pieces a segment.
        let lanes = [LaneSet(stride(from: 0, to: 8, by: 2)), LaneSet(stride(from: 1, to: 8, by: 2))]
        try check(way, lanes, laneCount: 8, sizes: [300_001, 5])
    }

    @Test(arguments: Way.allCases, [[1], [0, 2]])
    func someOwnersSumForAll(way: Way, owners: [Int]) throws {
        let lanes = LanePlanner.assign(laneCount: 8, weights: [1, 1, 1])
        try check(way, lanes, laneCount: 8, sizes: [0, 5, 100_003], owners: Set(owners))
    }

    @Test
    func whoOwnsNothingSendsItsPartOnceAndGetsTheSumOnce() throws {
        let lanes = LanePlanner.assign(laneCount: 4, weights: [1, 1, 1, 1])
        let cluster = try TestCluster(4, .tcp)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let count = 200_000
        onThreads(4) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: 4, owners: [2])
                defer { group.close() }
                var mine = Computed(0, lanes[rank], laneCount: 4, count: count, width: 0)
                var sum = [Float](repeating: .nan, count: count)
                try mine.reduce(group, 0, into: &sum)
                let (sent, received) = (group.counters.bytesSent, group.counters.bytesReceived)
                let once = 4 * count..<(4 * count + 40_000)
                if rank != 2 { #expect(once.contains(sent) && once.contains(received)) }
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
    }

    @Test
    func membersWithOtherOwnersDoNotMeet() throws {
        let lanes = LanePlanner.assign(laneCount: 2, weights: [1, 1])
        let cluster = try TestCluster(2, .tcp)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(2) { rank in
            #expect(throws: CollectivesError.self) {
                try cluster.open(rank, members, laneCount: 2, within: .seconds(5), owners: [rank])
            }
        }
    }

    private func check(
        _ way: Way,
        _ lanes: [LaneSet],
        laneCount: Int,
        sizes: [Int],
        owners: Set<Int> = []
    ) throws {
        let cluster = try TestCluster(lanes.count, way)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let expected = sizes.enumerated().map { operation, size in
            serialTree(wholeTree(laneCount), UInt64(operation), size)
        }
        onThreads(lanes.count) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: laneCount, owners: owners)
                defer { group.close() }
                #expect(group.resolution == .recompute)
                for (index, size) in sizes.enumerated() {
                    let operation = UInt64(index)
                    let width = index % 3
                    var mine = Computed(
                        operation,
                        lanes[rank],
                        laneCount: laneCount,
                        count: size,
                        width: width
                    )
                    var sum = [Float](repeating: .nan, count: size)
                    try mine.reduce(group, operation, into: &sum)
                    #expect(sum.map(\.bitPattern) == expected[index].map(\.bitPattern))
                    #expect(mine.rows == (0..<laneCount).flatMap { laneRow(operation, $0, width) })
                }
                #expect(group.memberState.committed == UInt64(sizes.count))
            } catch {
                Issue.record("rank \(rank) of \(lanes): \(error)")
            }
        }
    }

    @Test(arguments: Way.allCases)
    func twoHundredOperationsWithMembersOutOfStep(way: Way) throws {
        let lanes = LanePlanner.assign(laneCount: 8, weights: [1, 1, 1])
        let cluster = try TestCluster(3, way)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(3) { rank in
            do {
                var generator = SplitMix(UInt64(rank))
                let group = try cluster.open(rank, members, laneCount: 8)
                defer { group.close() }
                for operation in UInt64(0)..<200 {
                    if generator.next() % 4 == 0 {
                        pause(.microseconds(Int64(generator.next() % 2000)))
                    }
                    let size = operation % 7 == 0 ? 0 : 257
                    var mine = Computed(operation, lanes[rank], laneCount: 8, count: size, width: 2)
                    var sum = [Float](repeating: .nan, count: size)
                    try mine.reduce(group, operation, into: &sum)
                    #expect(sum == serialTree(wholeTree(8), operation, size))
                }
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
    }
}
