internal import Basics
internal import CShims

// The collectives over raw values. Every one is an operation like a training step's: members call the same ones in the
// same order, it takes the next number (``MemberState/committed``), and it is committed on all members or on none.
//
// P = members, S = bytes of the whole array, N = its values. Values stand as they do in memory, little endian. A call
// is made by one thread at a time and returns when every member has said that it is done; after any error the
// group is unusable. All throw what ``reduce(operation:contributions:laneValues:sum:feedback:settles:)`` throws, and
// `.mismatch` when members call different operations or with different N, types or reductions.
extension Group {
    /// Combines the values of all lanes; every member gets the result.
    ///
    /// - Parameters:
    ///   - contributions: one `[N]` for each of ``subtrees``, in that order.
    ///   - result: `[N]`, out; must not overlap a contribution unless P is 1.
    ///   - type: of the values.
    ///   - reduction: what a node of the lane tree does.
    /// - Throws: ``CollectivesError``.
    /// - Precondition: all buffers hold whole values, and as many as `result`.
    /// - Cost: two latencies and one for the commit; `2·S·(P-1)/P` bytes sent when each member holds one subtree.
    public func allReduce(
        _ contributions: [UnsafeRawBufferPointer],
        into result: UnsafeMutableRawBufferPointer,
        of type: ElementType,
        by reduction: Reduction = .sum
    ) throws(CollectivesError) {
        check(contributions, byteCount: result.count, type)
        try perform(
            OperationForm(.allReduce, type, by: reduction),
            elements: result.count / type.byteCount,
            contributions,
            result.baseAddress
        )
    }

    /// Combines the values of all lanes; every member gets its segment of the result.
    ///
    /// What a member holds in the end is known to it alone: here the commit says that all are done, not that
    /// they hold the same.
    /// - Parameters:
    ///   - contributions: one `[N]` for each of ``subtrees``, in that order.
    ///   - elements: N.
    ///   - result: `segment(of: rank, elements: N, type)`, out.
    ///   - type: of the values.
    ///   - reduction: what a node of the lane tree does.
    /// - Throws: ``CollectivesError``.
    /// - Precondition: all contributions hold N values, and `result` the segment.
    /// - Cost: one latency and one for the commit; `S·(P-1)/P` bytes sent when each member holds one subtree.
    public func reduceScatter(
        _ contributions: [UnsafeRawBufferPointer],
        elements: Int,
        into result: UnsafeMutableRawBufferPointer,
        of type: ElementType,
        by reduction: Reduction = .sum
    ) throws(CollectivesError) {
        let form = OperationForm(.reduceScatter, type, by: reduction)
        let segment = form.segmentation(elements: elements, owners: plan.owners).segment(of: rank)
        check(contributions, byteCount: elements * type.byteCount, type)
        precondition(
            result.count == segment.count * type.byteCount,
            "\(result.count) bytes for a segment of \(segment.count) \(type) values"
        )
        try perform(
            form,
            elements: elements,
            contributions,
            result.baseAddress.map { $0 - segment.lowerBound * type.byteCount }
        )
    }

    /// Every member gives its segment; all get the whole.
    ///
    /// - Parameters:
    ///   - values: `[N]`, in: `gatheredSegment(of: rank, elements: N, type)`; out: all of it.
    ///   - type: of the values.
    /// - Throws: ``CollectivesError``.
    /// - Cost: one latency and one for the commit; `S·(P-1)/P` bytes sent.
    public func allGather(
        _ values: UnsafeMutableRawBufferPointer,
        of type: ElementType
    ) throws(CollectivesError) {
        check([], byteCount: values.count, type)
        try perform(
            OperationForm(.allGather, type),
            elements: values.count / type.byteCount,
            [],
            values.baseAddress
        )
    }

    /// One member gives all values; all get them.
    ///
    /// - Parameters:
    ///   - values: `[N]`, in at `root`, out elsewhere.
    ///   - root: the rank of who gives.
    ///   - type: of the values.
    /// - Throws: ``CollectivesError``.
    /// - Cost: one latency and one for the commit; `S·(P-1)` bytes sent by the root.
    public func broadcast(
        _ values: UnsafeMutableRawBufferPointer,
        from root: Int,
        of type: ElementType
    ) throws(CollectivesError) {
        precondition((0..<memberCount).contains(root), "root \(root) of \(memberCount) members")
        check([], byteCount: values.count, type)
        try perform(
            OperationForm(.broadcast(root: root), type),
            elements: values.count / type.byteCount,
            [],
            values.baseAddress
        )
    }

    /// Waits until every member has come here.
    ///
    /// - Throws: ``CollectivesError``.
    /// - Cost: one latency, no bytes of values.
    public func barrier() throws(CollectivesError) {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        try perform(OperationForm(), elements: 0, subtrees.map { _ in nothing }, nil)
    }

    /// The values that a member gets in a reduce-scatter; may be empty.
    ///
    /// Segments are equal but for the last ones and begin on multiples of 64 bytes. Where only some members own
    /// segments (`owners` of ``open(endpoint:run:generation:rank:members:laneCount:secret:state:deadline:dials:owners:options:onFailure:)``)
    /// the others' are empty.
    public func segment(of member: Int, elements: Int, _ type: ElementType) -> Range<Int> {
        OperationForm(.reduceScatter, type).segmentation(elements: elements, owners: plan.owners)
            .segment(of: member)
    }

    /// The values that a member gives in an all-gather; may be empty.
    ///
    /// As in ``segment(of:elements:_:)``, but every member has one.
    public func gatheredSegment(of member: Int, elements: Int, _ type: ElementType) -> Range<Int> {
        OperationForm(.allGather, type).segmentation(elements: elements, owners: plan.owners)
            .segment(of: member)
    }

    private func check(_ contributions: [UnsafeRawBufferPointer], byteCount: Int, _ type: ElementType) {
        precondition(byteCount % type.byteCount == 0, "\(byteCount) bytes are no whole \(type) values")
        precondition(
            contributions.allSatisfy { $0.count == byteCount },
            "contributions of \(contributions.map(\.count)) bytes, not \(byteCount)"
        )
    }

    private func perform(
        _ form: OperationForm,
        elements: Int,
        _ contributions: [UnsafeRawBufferPointer],
        _ result: UnsafeMutableRawPointer?
    ) throws(CollectivesError) {
        precondition(
            !form.combines || contributions.count == subtrees.count,
            "rank \(rank) gives \(contributions.count) contributions, its subtrees are \(subtrees)"
        )
        let count = contributions.count
        let failure = withUnsafeTemporaryAllocation(of: UnsafeRawPointer?.self, capacity: count) { given in
            for index in 0..<count {
                given.initializeElement(at: index, to: contributions[index].baseAddress)
            }
            return run(
                PostedOperation(
                    operation: memberState.committed,
                    shape: OperationShape(elements: elements, form: form),
                    contributions: UnsafeBufferPointer(given),
                    laneValues: UnsafeMutableBufferPointer(start: nil, count: 0),
                    result: elements > 0 ? result : nil,
                    floatMode: coord_float_mode()
                )
            )
        }
        if let failure { throw failure }
    }
}
