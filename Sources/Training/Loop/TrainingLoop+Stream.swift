internal import Basics
internal import Tensors

// A step's gradient that travels while the rest of it is computed.
extension TrainingLoop {
    /// Begins the operation of a step before its lanes are computed; nil when the exchange takes all at once.
    func beginStream(_ held: LaneSet, _ sum: UnsafeMutableBufferPointer<Float>) -> GradientStream? {
        guard !buckets.ranges.isEmpty, !held.isEmpty else { return nil }
        let (contributions, sums) = tree.subtrees(of: held)
        let isBegun = exchange.begin(
            operation: state.operation,
            contributions: contributions,
            buckets: buckets.ranges,
            width: Self.valueCount,
            sum: sum
        )
        guard isBegun else { return nil }
        return GradientStream(
            contributions,
            sums,
            lanes: held.count,
            buckets: buckets,
            kernels: kernels,
            give: exchange.give(buckets:)
        )
    }

    /// Computes; should that fail, nobody may read any more what was to be given.
    func computing(_ body: () throws -> [LaneResult]) throws -> [LaneResult] {
        do {
            return try body()
        } catch {
            if stream != nil { exchange.abandon() }
            throw error
        }
    }
}
