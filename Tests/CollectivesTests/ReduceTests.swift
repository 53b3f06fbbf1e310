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

    @Test(arguments: [Way.tcp, .memory])
    func membersThatCallDifferentCollectivesLearnIt(way: Way) throws {
        let lanes = LanePlanner.assign(laneCount: 2, weights: [1, 1])
        let calls: [@Sendable (Group, Int, UnsafeMutableRawBufferPointer) throws -> Void] = [
            { group, rank, values in  // one sums, the other looks for the smallest
                let result = RawArray(count: values.count)
                defer { withExtendedLifetime(result) {} }
                let given = [UnsafeRawBufferPointer(values)]
                try group.allReduce(given, into: result.bytes, of: .i32, by: rank == 0 ? .sum : .min)
            },
            { group, rank, values in try group.broadcast(values, from: 0, of: rank == 0 ? .f64 : .bf16) },
            { group, rank, values in try group.broadcast(values, from: rank, of: .f32) },
            { group, rank, values in
                if rank == 0 { try group.barrier() } else { try group.allGather(values, of: .f32) }
            },
        ]
        for call in calls {
            let cluster = try TestCluster(2, way)
            defer { cluster.close() }
            let members = cluster.members(lanes)
            onThreads(2) { rank in
                do {
                    let group = try cluster.open(rank, members, laneCount: 2)
                    defer { group.close() }
                    let values = RawArray(count: 80_000)
                    defer { withExtendedLifetime(values) {} }
                    try call(group, rank, values.bytes)
                    Issue.record("rank \(rank) went through")
                } catch let error as CollectivesError {
                    let known: [CollectivesError.Code] = [.mismatch, .peerAborted, .peerLost, .peerLeft]
                    #expect(known.contains(error.code), "rank \(rank): \(error)")
                } catch {
                    Issue.record("rank \(rank): \(error)")
                }
            }
        }
    }

    @Test
    func valuesThatAreNoNumbersHaveOneResultToo() throws {
        // Both members get the left value of a pair that has no order, and bf16 keeps NaN where floats would round it away.
        let lanes = LanePlanner.assign(laneCount: 2, weights: [1, 1])
        let left: [UInt16] = [0x7FC1, 0x3F80, 0x8000, 0x7F80, 0xFF80]  // NaN, 1, -0, inf, -inf
        let right: [UInt16] = [0x3F80, 0x7F81, 0x0000, 0xFF80, 0x0001]  // 1, NaN, 0, -inf, tiny
        let cluster = try TestCluster(2, .tcp)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(2) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: 2)
                defer { group.close() }
                func reduce(_ reduction: Reduction) throws -> [UInt16] {
                    let mine = RawArray(rank == 0 ? left : right), result = RawArray(count: 10)
                    defer { withExtendedLifetime(mine) {} }
                    try group.allReduce(
                        [UnsafeRawBufferPointer(mine.bytes)],
                        into: result.bytes,
                        of: .bf16,
                        by: reduction
                    )
                    return Array(result.bytes.bindMemory(to: UInt16.self))
                }
                #expect(try reduce(.min) == [0x7FC1, 0x3F80, 0x8000, 0xFF80, 0xFF80])
                #expect(try reduce(.max) == [0x7FC1, 0x3F80, 0x8000, 0x7F80, 0x0001])
                let sums = try reduce(.sum)
                #expect(sums[0] & 0x7FFF > 0x7F80 && sums[1] & 0x7FFF > 0x7F80 && sums[3] & 0x7FFF > 0x7F80)
                #expect(sums[2] == 0 && sums[4] == 0xFF80)
            } catch {
                Issue.record("rank \(rank): \(error)")
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
