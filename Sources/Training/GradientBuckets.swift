/// In which parts the gradient of a model can be given away while the rest is still computed.
///
/// Backward goes from the last layer to the first, so the last layers' gradients are final first. A bucket is a range of
/// whole layers of at least ``bucketBytes``, last layers first; running statistics, which belong to layers all over the
/// model, come at the end. A function of the model alone: all members of a run have the same.
public struct GradientBuckets: Hashable, Sendable {
    /// One of them.
    struct Bucket: Hashable, Sendable {
        /// Its place in the arena.
        var range: Range<Int>
        /// It is final when backward is done with this node.
        var finalAfter: Int
    }

    /// Larger ones begin later, smaller ones take more frames.
    static let bucketBytes = 1 << 20

    /// In the order in which they become final; one alone where there is nothing to overlap.
    let buckets: [Bucket]

    /// Their places in the arena; empty where there is one alone, which is exchanged at once.
    public var ranges: [Range<Int>] { buckets.count > 1 ? buckets.map(\.range) : [] }

    /// - Parameter bucketBytes: the least of a bucket; for tests.
    init(_ model: Model, bucketBytes: Int = Self.bucketBytes) {
        var places: [(start: Int, node: Int)] = []
        var firstStatistic = model.nodes.count
        for (index, node) in model.nodes.enumerated() {
            for slice in node.layer?.parameters ?? [] {
                if slice.statisticMomentum == nil {
                    places.append((slice.offset, index))
                } else {
                    firstStatistic = min(firstStatistic, index)
                }
            }
        }
        var buckets: [Bucket] = []
        var (end, node) = (model.trainedCount, model.nodes.count)
        for place in places.sorted(by: { $0.start > $1.start }) {
            node = min(node, place.node)
            guard (end - place.start) * 4 >= bucketBytes || place.start == 0 else { continue }
            buckets.append(Bucket(range: place.start..<end, finalAfter: node))
            end = place.start
        }
        guard buckets.count > 1 else {
            self.buckets = [Bucket(range: 0..<model.parameterCount, finalAfter: 0)]
            return
        }
        if model.parameterCount > model.trainedCount {
            let statistics = model.trainedCount..<model.parameterCount
            buckets.append(Bucket(range: statistics, finalAfter: min(node, firstStatistic)))
        }
        self.buckets = buckets
    }
}

extension Model {
    /// In which parts its gradient can be given away.
    public var gradientBuckets: GradientBuckets { GradientBuckets(self) }
}
