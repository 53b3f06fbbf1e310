import Basics
import ContentStore
import CoordTesting
import Testing

@testable import Datasets

@Suite struct SplitTests {
    private func split(_ table: SampleTable, _ spec: SplitSpec) throws -> (Split, [SampleID], [Int]) {
        let sorted = DatasetImporter.ids(of: table).enumerated().sorted { $0.element < $1.element }
        let ids = sorted.map(\.element), labels = sorted.map { table.labels[$0.offset] }
        return (try Split.make(ids: ids, labels: labels, classCount: table.classes.count, spec), ids, labels)
    }

    @Test(arguments: [(0.2, 0.0), (0.2, 0.1), (0.0, 0.0), (0.45, 0.45)])
    func everySampleIsOnOneSideAndEachClassInTheSameRatio(validation: Double, test: Double) throws {
        let (split, ids, labels) = try split(
            table(count: 1797),
            SplitSpec(validation: validation, test: test)
        )
        #expect((split.training + split.validation + split.test).sorted() == Array(ids.indices))
        #expect(split.training == split.training.sorted())
        #expect(split.validation.count == Int((validation * 1797).rounded()))
        #expect(split.test.count == Int((test * 1797).rounded()))
        for label in 0..<4 {
            let all = labels.count { $0 == label }
            let part = split.validation.count { labels[$0] == label }
            #expect(abs(Double(part) - validation * Double(all)) < 2)
        }
    }

    @Test func theSplitFollowsTheSeedAndNotTheOrderOfTheData() throws {
        let table = table(count: 400)
        let permutation = KeyedPermutation(count: 400, key: 9)
        let (first, ids, _) = try split(table, SplitSpec())
        let (second, same, _) = try split(table.reordered((0..<400).map { permutation[$0] }), SplitSpec())
        #expect(ids == same)
        #expect(first == second)
        let (other, _, _) = try split(table, SplitSpec(seed: 2))
        #expect(Set(first.validation).intersection(other.validation).count < 40)
    }

    @Test func samplesThatAreAddedMoveOnlyThoseAtABorder() throws {
        let table = table(count: 2000)
        let (before, oldIDs, _) = try split(table.reordered(Array(0..<1900)), SplitSpec())
        let (after, newIDs, _) = try split(table, SplitSpec())
        let old = Set(before.validation.map { oldIDs[$0] })
        let new = Set(after.validation.map { newIDs[$0] })
        let left = old.subtracting(new)
        #expect(left.count <= 25, "\(left.count) of \(old.count) samples left the validation split")
        let known = Set(oldIDs)
        #expect(new.subtracting(old).filter { known.contains($0) }.count <= 25)
    }

    @Test func theTestSplitDoesNotDependOnTheValidationFraction() throws {
        let table = table(count: 600)
        let (a, _, _) = try split(table, SplitSpec(validation: 0.1, test: 0.2))
        let (b, _, _) = try split(table, SplitSpec(validation: 0.3, test: 0.2))
        #expect(a.test == b.test)
    }

    @Test func equalSamplesStayOnOneSide() throws {
        // Each of 100 samples five times: wherever the border falls, it falls between groups.
        var table = table(count: 100, classes: 1).reordered((0..<500).map { $0 % 100 })
        table.labels = [Int](repeating: 0, count: 500)
        let (split, ids, _) = try split(table, SplitSpec(validation: 0.213, test: 0.117))
        let sides = [split.training, split.validation, split.test].map { side in
            Set(side.map { ids[$0].content })
        }
        #expect(sides[0].isDisjoint(with: sides[1]) && sides[0].isDisjoint(with: sides[2]))
        #expect(sides[1].isDisjoint(with: sides[2]))
        #expect((100...115).contains(split.validation.count))
    }

    @Test func aRareClassIsTrainedOn() throws {
        var table = table(count: 12, classes: 3)
        table.labels = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]
        let (split, _, labels) = try split(table, SplitSpec(validation: 0.5, test: 0.4))
        #expect(Set(split.training.map { labels[$0] }) == [0, 1, 2])
    }

    @Test(arguments: [(0.5, 0.5), (-0.1, 0.0), (1.0, 0.0), (Double.nan, 0.0)])
    func fractionsThatLeaveNothingAreRefused(validation: Double, test: Double) {
        let error = #expect(throws: DatasetError.self) {
            try split(table(count: 10), SplitSpec(validation: validation, test: test))
        }
        #expect(error?.code == .badSplit)
    }
}

@Suite struct LaneScheduleTests {
    private func schedule(
        _ count: Int,
        shards: Int = 4,
        lanes: Int,
        batch: Int,
        seed: UInt64 = 42
    ) -> LaneSchedule {
        LaneSchedule(
            training: (0..<count).map { 3 * $0 },
            shardCount: shards,
            shard: { $0 * shards / max(3 * count, 1) },
            laneCount: lanes,
            batch: batch,
            seed: seed
        )
    }

    @Test(arguments: [(1438, 2, 64), (1438, 16, 512), (1000, 8, 64), (7, 4, 4), (3, 8, 16), (64, 1, 64)])
    func everySampleIsSeenOnceAnEpoch(count: Int, lanes: Int, batch: Int) {
        let schedule = schedule(count, lanes: lanes, batch: batch)
        for epoch in 0..<3 {
            var seen: [Int] = []
            for step in 0..<schedule.stepsPerEpoch {
                for lane in 0..<lanes {
                    let samples = schedule.microbatch(lane: lane, epoch: epoch, step: step)
                    #expect(samples.count <= batch / lanes)
                    seen += samples
                }
            }
            #expect(seen.sorted() == (0..<count).map { 3 * $0 })
        }
        for lane in 0..<lanes {
            #expect(schedule.microbatch(lane: lane, epoch: 0, step: schedule.stepsPerEpoch).isEmpty)
            #expect((count / lanes...count / lanes + 1).contains(schedule.samples(forLane: lane).count))
        }
        let (longest, size) = ((count + lanes - 1) / lanes, batch / lanes)
        #expect(schedule.stepsPerEpoch == (longest + size - 1) / size)
    }

    /// Balanced draws of `counts[c]` samples of each class; the samples seen in an epoch, by class.
    private func balanced(_ counts: [Int], lanes: Int, epoch: Int) -> [[Int]] {
        let labels = counts.enumerated().flatMap { [Int](repeating: $0, count: $1) }
        // As the names of samples are digests, the classes lie among one another.
        let mixed = KeyedPermutation(count: labels.count, key: 3)
        let schedule = LaneSchedule(
            training: Array(labels.indices),
            shardCount: 4,
            shard: { $0 * 4 / labels.count },
            laneCount: lanes,
            batch: 16,
            seed: 42,
            label: { labels[mixed[$0]] }
        )
        var seen = [[Int]](repeating: [], count: counts.count)
        for step in 0..<schedule.stepsPerEpoch {
            for lane in 0..<lanes {
                let samples = schedule.microbatch(lane: lane, epoch: epoch, step: step)
                #expect(Set(samples).isSubset(of: schedule.samples(forLane: lane)))
                for sample in samples { seen[labels[mixed[sample]]].append(sample) }
            }
        }
        #expect(seen.joined().count == labels.count)
        return seen
    }

    @Test(arguments: [1, 4, 16])
    func balancedClassesComeEquallyOften(lanes: Int) {
        let counts = [1200, 600, 150, 50]
        for epoch in 0..<2 {
            let seen = balanced(counts, lanes: lanes, epoch: epoch)
            for (label, samples) in seen.enumerated() {
                #expect(abs(samples.count - 500) <= 30, "class \(label): \(samples.count) draws")
            }
            // The frequent class: no sample twice. The rare one: all of them, in turns.
            #expect(Set(seen[0]).count == seen[0].count)
            #expect(Set(seen[3]).count == 50)
        }
        #expect(balanced(counts, lanes: lanes, epoch: 0) != balanced(counts, lanes: lanes, epoch: 1))
    }

    @Test func aClassThatFewLanesHoldStillComesOften() {
        // 3 samples over 16 lanes of 64 samples: one in 341, and balanced at least one in 5.
        let seen = balanced([1021, 3], lanes: 16, epoch: 0)
        #expect(seen[1].count >= 100 && Set(seen[1]).count == 3)
    }

    @Test func balancedClassesOfOneSizeAreAPlainEpoch() {
        let seen = balanced([100, 100, 100], lanes: 1, epoch: 0)
        #expect(seen.allSatisfy { Set($0).count == 100 })
    }

    @Test func epochsLanesAndSeedsHaveOrdersOfTheirOwn() {
        let a = schedule(1000, lanes: 2, batch: 64)
        let first = a.microbatch(lane: 0, epoch: 0, step: 0)
        #expect(first == a.microbatch(lane: 0, epoch: 0, step: 0))
        #expect(first != a.microbatch(lane: 0, epoch: 1, step: 0))
        let b = schedule(1000, lanes: 2, batch: 64, seed: 43)
        #expect(first != b.microbatch(lane: 0, epoch: 0, step: 0))
    }

    @Test func theOrderIsPartOfTheResult() {
        let schedule = schedule(100, lanes: 4, batch: 16, seed: 7)
        #expect(schedule.microbatch(lane: 1, epoch: 2, step: 3) == [96, 123, 90, 111])
    }

    @Test func aLaneNeedsFewShards() {
        let schedule = schedule(4096, shards: 64, lanes: 16, batch: 512)
        for lane in 0..<16 {
            let shards = schedule.shards(forLane: lane)
            #expect((4...5).contains(shards.count))
            let held = schedule.samples(forLane: lane).map { $0 * 64 / (3 * 4096) }
            #expect(Set(held) == Set(shards))
        }
        #expect(schedule.shards(for: LaneSet(0..<16)) == Array(0..<64))
        #expect(schedule.shards(for: LaneSet([])).isEmpty)
    }
}
