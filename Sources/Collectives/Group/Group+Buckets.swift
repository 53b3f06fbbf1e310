public import Basics
internal import CShims
internal import Synchronization

// An operation that travels while the caller still computes its part of it.
extension Group {
    /// Begins a training step's all-reduce whose contributions are not final yet.
    ///
    /// What is final is told by ``give(buckets:)`` and travels from then on, on the group's thread;
    /// ``reduce(operation:contributions:laneValues:sum:feedback:settles:)`` with the same arguments ends it. It is one operation as
    /// any other: committed on all members or on none, with the same bits, whoever of them begins it early.
    ///
    /// - Parameters:
    ///   - operation: ``MemberState/committed`` of ``memberState``.
    ///   - contributions: exactly the subtrees of this member's lanes, each `[N]`.
    ///   - width: W, doubles in a lane row.
    ///   - sum: `[N]`, out; the group writes there from now on.
    /// - Returns: false where it has to be given at once: there are no buckets of N values
    ///   (``Options/buckets``), values travel through memory or lose something, or the group has ended.
    /// - Precondition: after true, contributions and sum stay where they are until `reduce` returns or the group is closed.
    public func begin(
        operation: UInt64,
        contributions: [(subtree: LaneSubtree, values: UnsafeBufferPointer<Float>)],
        width: Int,
        sum: UnsafeMutableBufferPointer<Float>
    ) -> Bool {
        let shape = OperationShape(elements: sum.count, width: width)
        guard !plan.buckets(of: shape).isEmpty, memberCount > 1, !mayUseMemory else { return false }
        check(contributions, sum)
        for (index, contribution) in contributions.enumerated() {
            given.initializeElement(at: index, to: UnsafeRawPointer(contribution.values.baseAddress))
        }
        let posted = PostedOperation(
            operation: operation,
            shape: shape,
            isWhole: false,
            contributions: UnsafeBufferPointer(rebasing: given[..<contributions.count]),
            laneValues: UnsafeMutableBufferPointer(start: nil, count: 0),
            result: UnsafeMutableRawPointer(sum.baseAddress),
            floatMode: coord_float_mode()
        )
        shared.given.store(0, ordering: .releasing)
        let refusal = begin(posted) { state in (state.posted, state.begun) = (posted, posted) }
        shared.wake.signal()
        return refusal == nil
    }

    /// Tells that the contributions to the operation that was begun are final in the first buckets.
    ///
    /// From any thread; what was told once may be told again.
    public func give(buckets: Int) {
        shared.given.max(buckets, ordering: .releasing)
        shared.wake.signal()
    }

    /// Whether values go through memory, or that is not settled yet.
    private var mayUseMemory: Bool { exchange != nil && shared.state.withLock { $0.sharesMemory } != false }

    /// Ends the operation that was begun; nil when none was.
    func finishBegun(
        _ operation: UInt64,
        _ laneValues: UnsafeMutableBufferPointer<Double>
    ) -> CollectivesError?? {
        let refusal: CollectivesError?? = shared.state.withLock { state in
            guard var posted = state.begun else { return nil }
            precondition(
                posted.operation == operation && laneValues.count == posted.shape.width * plan.laneCount,
                "operation \(posted.operation), \(posted.shape), was begun, not \(operation)"
            )
            state.begun = nil
            if let failure = state.failure { return .some(failure) }
            (posted.laneValues, posted.isWhole) = (laneValues, true)
            state.posted = posted
            return .some(nil)
        }
        guard case .some(nil) = refusal else { return refusal }
        return waitForThread()
    }
}
