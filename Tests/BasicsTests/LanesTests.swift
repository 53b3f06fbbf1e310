import Basics
import Testing

@Suite struct LanesTests {
    @Test(arguments: [1, 2, 4, 8, 16, 64])
    func subtreesOfARandomSetAreAlignedAndMakeUpTheSet(laneCount: Int) {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<50 {
            let all: UInt64 = laneCount == 64 ? .max : (1 << UInt64(laneCount)) - 1
            let set = LaneSet(bits: UInt64.random(in: 0...(.max), using: &generator) & all)
            let trees = set.subtrees(laneCount: laneCount)
            #expect(trees.flatMap { Array($0.lanes) } == set.lanes)
            #expect(trees == trees.sorted())
        }
        #expect(LaneSet(0..<laneCount).subtrees(laneCount: laneCount).count == 1)
    }

    @Test(arguments: 1...9)
    func everyMemberGetsALaneWhileThereAreEnough(members: Int) {
        let sets = LanePlanner.assign(laneCount: 16, weights: (0..<members).map { Double($0 * $0 + 1) })
        #expect(sets.reduce(0) { $0 + $1.count } == 16)
        #expect(sets.reduce(0) { $0 | $1.bits } == 0xFFFF)
        #expect(sets.allSatisfy { !$0.isEmpty })
    }

    @Test func moreMembersThanLanesLeavesSomeWithoutWork() {
        let sets = LanePlanner.assign(laneCount: 2, weights: [1, 1, 1])
        #expect(sets.map(\.count).sorted() == [0, 1, 1])
    }

    @Test func survivorsKeepTheirLanesAndShareTheRest() {
        let next = LanePlanner.reassign(held: [LaneSet([0, 1]), LaneSet([6, 7])], laneCount: 8)
        #expect(next[0].contains(0) && next[0].contains(1) && next[1].contains(6) && next[1].contains(7))
        #expect(next.map(\.count) == [4, 4])
        #expect(next[0].bits | next[1].bits == 0xFF)
    }

    @Test func automaticLanesFollowFromTheBatchAlone() {
        #expect(LanePlanner.automaticLaneCount(batch: 64) == 2)
        #expect(LanePlanner.automaticLaneCount(batch: 512) == 16)
        #expect(LanePlanner.automaticLaneCount(batch: 4096) == 16)
        #expect(LanePlanner.automaticLaneCount(batch: 96) == 2)
        #expect(LanePlanner.automaticLaneCount(batch: 33) == 1)
        #expect(LanePlanner.automaticLaneCount(batch: 10) == 1)
    }

    @Test func setsAreNamedByRanges() {
        #expect(LaneSet([0, 1, 2, 3, 6]).description == "{0-3,6}")
        #expect(LaneSet().description == "{}")
    }
}
