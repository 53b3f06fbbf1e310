internal import Basics

/// Which samples of a lane's slice an epoch takes for all classes to come equally often.
///
/// A sample weighs 1 / (samples of its class in all lanes), and the lane's epoch is shared among its classes by
/// weight, so that over all lanes each class gets its part also where a rare one is in few lanes. Within a class
/// the samples take turns: none comes twice more often than another.
struct ClassBalance: Sendable {
    /// Below 64; with the class it is the layer of the keys.
    private let lane: Int
    /// Where each class begins in the slice: `[classes + 1]`.
    private let starts: [Int]
    /// Where the draws of each class begin: `[classes + 1]`, the last one the samples of the slice.
    private let draws: [Int]
    private let random: RandomSource

    /// Sorts each slice by class, and shares out its epoch.
    ///
    /// - Parameters:
    ///   - order: the samples of all slices.
    ///   - label: the class of a sample.
    static func lanes(
        _ order: inout [Int],
        _ slices: [Range<Int>],
        label: (Int) -> Int,
        random: RandomSource
    ) -> [ClassBalance] {
        var sizes: [Int] = []
        for sample in order {
            let label = label(sample)
            if label >= sizes.count { sizes += repeatElement(0, count: label + 1 - sizes.count) }
            sizes[label] += 1
        }
        return slices.enumerated().map { lane, slice in
            var groups = [[Int]](repeating: [], count: sizes.count)
            for sample in order[slice] { groups[label(sample)].append(sample) }
            order.replaceSubrange(slice, with: groups.joined())
            let weights = zip(groups, sizes).map { Double($0.count) / Double(max(1, $1)) }
            return ClassBalance(
                lane: lane,
                starts: sums(groups.map(\.count)),
                draws: sums(shares(of: slice.count, weights)),
                random: random
            )
        }
    }

    /// The place in the slice that a draw takes in an epoch.
    ///
    /// - Cost: a search over the classes and one keyed permutation.
    func place(_ draw: Int, epoch: Int) -> Int {
        // The last class that begins at or before the draw; an empty one begins where the next one does.
        var (low, high) = (0, draws.count - 1)
        while high - low > 1 {
            let middle = (low + high) / 2
            if draws[middle] <= draw { low = middle } else { high = middle }
        }
        let size = starts[low + 1] - starts[low]
        let turns = KeyedPermutation(
            count: size,
            key: random.key(.order, layer: ((low + 1) << 6 | lane) & 0xFF_FFFF, step: epoch)
        )
        return starts[low] + turns[(draw - draws[low]) % size]
    }

    /// `total` shared in proportion to weights: rounded down, and what is left to the largest remainders.
    private static func shares(of total: Int, _ weights: [Double]) -> [Int] {
        let sum = weights.reduce(0, +)
        let exact = weights.map { sum > 0 ? Double(total) * $0 / sum : 0 }
        var shares = exact.map { Int($0) }
        let byRemainder = exact.indices.sorted {
            (exact[$0] - Double(shares[$0]), $1) > (exact[$1] - Double(shares[$1]), $0)
        }
        for index in byRemainder.prefix(total - shares.reduce(0, +)) { shares[index] += 1 }
        return shares
    }

    private static func sums(_ counts: [Int]) -> [Int] {
        counts.reduce(into: [0]) { $0.append(($0.last ?? 0) + $1) }
    }
}
