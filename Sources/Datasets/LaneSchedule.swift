public import Basics

/// Which samples each lane contributes in each step.
///
/// The training samples, in a seeded order of shards, are cut into one slice a lane, of equal length or one
/// more. In each epoch a lane walks its slice in an order of its own, drawn from (seed, epoch, lane) alone:
/// every training sample is seen exactly once an epoch, whoever computes the lanes. A lane that runs out
/// early contributes nothing. With balanced classes an epoch has as many samples, drawn from the lane's slice.
public struct LaneSchedule: Sendable {
    /// Lanes of the run.
    public let laneCount: Int
    /// Samples that a lane contributes in a full step.
    public let microbatchSize: Int
    /// Steps in an epoch: the longest slice decides.
    public let stepsPerEpoch: Int

    private let order: [Int]
    private let slices: [Range<Int>]
    private let laneShards: [[Int]]
    /// One a lane; nil where each sample comes once.
    private let balances: [ClassBalance]?
    private let random: RandomSource
    /// Of the order of shards: no lane has this number.
    private static let shardLayer = 0xFF_FFFF

    /// Schedules a dataset's training samples.
    ///
    /// - Parameters:
    ///   - training: rising indices, as a ``Split`` gives them.
    ///   - laneCount: a power of two.
    ///   - batch: samples in a step over all lanes.
    ///   - seed: the run's.
    ///   - sampling: which samples an epoch is made of.
    /// - Precondition: `laneCount` divides `batch`.
    public init(
        dataset: Dataset,
        training: [Int],
        laneCount: Int,
        batch: Int,
        seed: UInt64,
        sampling: Sampling = .uniform
    ) {
        self.init(
            training: training,
            shardCount: dataset.index.shards.count,
            shard: { dataset.shard($0) },
            laneCount: laneCount,
            batch: batch,
            seed: seed,
            label: sampling == .balanced ? { dataset.label($0) } : nil
        )
    }

    /// Schedules training samples whose shards a function knows.
    ///
    /// - Parameter label: the class of a sample, where all classes are to come equally often.
    public init(
        training: [Int],
        shardCount: Int,
        shard: (Int) -> Int,
        laneCount: Int,
        batch: Int,
        seed: UInt64,
        label: ((Int) -> Int)? = nil
    ) {
        precondition(
            laneCount > 0 && batch > 0 && batch % laneCount == 0,
            "batch \(batch) over \(laneCount) lanes"
        )
        self.laneCount = laneCount
        microbatchSize = batch / laneCount
        random = RandomSource(seed: seed)
        var groups = [[Int]](repeating: [], count: shardCount)
        for sample in training { groups[shard(sample)].append(sample) }
        let shards = KeyedPermutation(count: shardCount, key: random.key(.order, layer: Self.shardLayer))
        var ordered = (0..<shardCount).flatMap { groups[shards[$0]] }
        let cuts = (0...laneCount).map { $0 * ordered.count / laneCount }
        slices = zip(cuts, cuts.dropFirst()).map { $0..<$1 }
        laneShards = slices.map { slice in Set(ordered[slice].map(shard)).sorted() }
        let longest = slices.map(\.count).max() ?? 0
        stepsPerEpoch = (longest + microbatchSize - 1) / microbatchSize
        if let label {
            balances = ClassBalance.lanes(&ordered, slices, label: label, random: random)
        } else {
            balances = nil
        }
        order = ordered
    }

    /// The samples that a lane contributes in a step of an epoch: at most ``microbatchSize``, fewer or none
    /// at the end.
    ///
    /// - Cost: one keyed permutation a sample; no memory but the result.
    public func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        let slice = slices[lane]
        let start = min(step * microbatchSize, slice.count)
        let end = min(start + microbatchSize, slice.count)
        let permutation = KeyedPermutation(
            count: slice.count,
            key: random.key(.order, layer: lane, step: epoch)
        )
        return (start..<end).map { place in
            let drawn = permutation[place]
            return order[slice.lowerBound + (balances?[lane].place(drawn, epoch: epoch) ?? drawn)]
        }
    }

    /// All samples of a lane, in no particular order.
    public func samples(forLane lane: Int) -> ArraySlice<Int> { order[slices[lane]] }

    /// The shards that a lane needs, rising.
    public func shards(forLane lane: Int) -> [Int] { laneShards[lane] }

    /// The shards that a set of lanes needs, rising.
    public func shards(for lanes: LaneSet) -> [Int] {
        Set(lanes.lanes.flatMap { laneShards[$0] }).sorted()
    }
}
