internal import Basics
internal import Synchronization
internal import Tensors

/// The gradient of one step on its way to the others, bucket by bucket, while the lanes are still on their way back.
///
/// The thread that finishes a bucket in the last of the lanes adds the lanes up there, along the lane tree; that
/// bucket is then told as final, with all before it.
final class GradientStream {
    /// What is given; final as far as it was told.
    let contributions: [Contribution]
    private let sums: [LaneTree.Sum]
    private let buckets: [GradientBuckets.Bucket]
    private let kernels: Kernels
    private let give: (_ buckets: Int) -> Void

    private struct State {
        /// For each bucket, how many lanes have not come to its end.
        var lanes: [Int]
        var isSummed: [Bool]
        /// The first buckets that are summed.
        var given = 0
    }
    private let state: Mutex<State>

    /// - Parameters:
    ///   - sums: how the contributions come from the lanes.
    ///   - lanes: how many there are.
    ///   - give: told how many of the first buckets are final; on any of the lanes' threads, never of all of them.
    init(
        _ contributions: [Contribution],
        _ sums: [LaneTree.Sum],
        lanes: Int,
        buckets: GradientBuckets,
        kernels: Kernels,
        give: @escaping (_ buckets: Int) -> Void
    ) {
        self.contributions = contributions
        self.sums = sums
        self.buckets = buckets.buckets
        self.kernels = kernels
        self.give = give
        let count = self.buckets.count
        state = Mutex(
            State(
                lanes: Array(repeating: lanes, count: count),
                isSummed: Array(repeating: false, count: count)
            )
        )
    }

    /// One lane on its way through the buckets; belongs to its thread.
    final class Lane {
        private let stream: GradientStream
        private var next = 0

        init(_ stream: GradientStream) { self.stream = stream }

        /// Backward is done with a node and all behind it.
        ///
        /// - Parameter finish: does what is left to do for a bucket's range.
        func passed(_ node: Int, finish: (Range<Int>) -> Void = { _ in }) {
            while next < stream.buckets.count, stream.buckets[next].finalAfter >= node {
                finish(stream.buckets[next].range)
                stream.finished(next)
                next += 1
            }
        }

        /// The lane's gradient is final as it stands.
        func passedAll(finish: (Range<Int>) -> Void = { _ in }) { passed(-1, finish: finish) }
    }

    /// A lane's gradient is final in a bucket.
    private func finished(_ bucket: Int) {
        let isLast = state.withLock { state in
            state.lanes[bucket] -= 1
            return state.lanes[bucket] == 0
        }
        guard isLast else { return }
        for sum in sums { kernels.treeSum(sum.target, sum.parts, buckets[bucket].range) }
        let given = state.withLock { state in
            state.isSummed[bucket] = true
            while state.given < buckets.count, state.isSummed[state.given] { state.given += 1 }
            return state.given
        }
        // The end of the step tells that all is final.
        if given < buckets.count { give(given) }
    }
}
