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

    @Test func everyNumberOfLanesTakesTheFewestSubtrees() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            var counts = [Int](repeating: 0, count: Int.random(in: 1...9, using: &generator))
            for _ in 0..<32 { counts[Int.random(in: counts.indices, using: &generator)] += 1 }
            let sets = LanePlanner.place(counts: counts, laneCount: 32)
            #expect(sets.map(\.count) == counts)
            #expect(sets.reduce(0) { $0 | $1.bits } == 0xFFFF_FFFF)
            #expect(sets.map { $0.subtrees(laneCount: 32).count } == counts.map(\.nonzeroBitCount))
        }
    }

    @Test func lanesFollowTheMeasuredPace() {
        let fast = LanePace(threads: 1, lanes: 8, seconds: 0.8)
        let slow = LanePace(threads: 1, lanes: 8, seconds: 1.6)
        #expect(LanePlanner.counts(laneCount: 16, paces: [fast, slow]) == [11, 5])
        // A host with four threads computes four lanes in the time of one.
        let wide = LanePace(threads: 4, lanes: 4, seconds: 0.1)
        #expect(wide.seconds(5) == 0.2)
        // The numbers whose slowest member is done first, found by trying all.
        for pair in [(fast, slow), (wide, fast), (slow, wide)] {
            let best = (1..<64).map { max(pair.0.seconds($0), pair.1.seconds(64 - $0)) }.min() ?? 0
            let counts = LanePlanner.counts(laneCount: 64, paces: [pair.0, pair.1])
            #expect(abs(max(pair.0.seconds(counts[0]), pair.1.seconds(counts[1])) - best) < 1e-12)
        }
        // However slow, a member keeps a lane: else nobody would learn that it has become fast again.
        let stuck = LanePace(threads: 1, lanes: 1, seconds: 100)
        #expect(LanePlanner.counts(laneCount: 4, paces: [fast, stuck]) == [3, 1])
        #expect(LanePlanner.counts(laneCount: 2, paces: [fast, fast, fast]) == [1, 1, 0])
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
