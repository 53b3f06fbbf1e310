internal import Basics

// The first of two levels: a leader adds up what the members of its site give, where the bytes go on from.
extension CommLoop {
    /// Bytes from one of the subtrees that this member carries to the next.
    private var carriedStride: Int { (slot.shape.byteCount + 63) / 64 * 64 }

    /// Takes memory for the sums of the site.
    func reserveCarried() {
        let trees = slot.routes.sites[plan.rank]
        guard trees.contains(where: { $0.leaves.count > 1 }) else { return }
        let needed = trees.count * carriedStride
        guard carried.count < needed else { return }
        carried.deallocate()
        carried = .allocate(byteCount: needed, alignment: 64)
    }

    /// Where a subtree that this member carries stands, once ``addUpSite(_:_:)`` was there.
    func carriedBase(_ position: Int, _ active: PostedOperation) -> UnsafeRawPointer? {
        let trees = slot.routes.sites[plan.rank]
        guard !trees.isEmpty else { return active.contributions[position] }
        guard trees[position].leaves.count > 1 else { return base(of: trees[position].leaves[0], active) }
        return carried.baseAddress.map { UnsafeRawPointer($0 + position * carriedStride) }
    }

    /// Adds up a range of what the site's members gave, along the lane tree.
    func addUpSite(_ range: Range<Int>, _ active: PostedOperation) {
        let form = active.shape.form
        for (position, tree) in slot.routes.sites[plan.rank].enumerated() where tree.leaves.count > 1 {
            let offset = range.lowerBound * form.type.byteCount
            for (index, leaf) in tree.leaves.enumerated() {
                leaves[index] = base(of: leaf, active).map { $0 + offset }
            }
            guard let target = carried.baseAddress else { return }
            var unused = ResultFingerprint()
            leaves.withUnsafeBufferPointer { leaves in
                guard let leaves = leaves.baseAddress else { return }
                tree.combine(
                    leaves,
                    into: target + position * carriedStride + offset,
                    range,
                    form,
                    mode: active.floatMode,
                    &unused
                )
            }
        }
    }

    private func base(of leaf: LaneTree.Leaf, _ active: PostedOperation) -> UnsafeRawPointer? {
        leaf.rank == plan.rank
            ? active.contributions[leaf.position] : slot.siteBase(of: leaf.rank, position: leaf.position)
    }

    /// Takes note of values that a frame names in the sender's memory.
    ///
    /// - Parameter range: of them in the whole array.
    /// - Returns: where the array begins, all of which is in that memory.
    func array(
        at place: UnsafeRawBufferPointer,
        of link: MemberLink,
        _ shape: OperationShape,
        _ range: Range<Int>
    ) throws(CollectivesError) -> UnsafeRawPointer {
        let word = UInt64(littleEndian: place.loadUnaligned(as: UInt64.self))
        let before = UInt64(range.lowerBound * shape.form.type.byteCount)
        guard word >= before, let base = site?.find(word - before, of: link.rank, byteCount: shape.byteCount)
        else {
            throw bad(link, "it names a place that is not in its memory")
        }
        return base
    }
}
