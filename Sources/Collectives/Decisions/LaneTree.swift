internal import Basics
internal import CShims

/// The one order in which the lanes' values are added, whoever holds them: node = left + right.
struct LaneTree: Sendable {
    /// Where a leaf comes from.
    struct Leaf: Hashable, Sendable {
        var subtree: LaneSubtree
        var rank: Int
        /// The position among the subtrees of its member.
        var position: Int
    }

    /// The leaves, left to right.
    let leaves: [Leaf]
    /// The tree in postfix order, as `coord_combine_tree` wants it.
    let program: [Int16]
    /// The subtrees of each member, in rising order.
    let subtrees: [[LaneSubtree]]

    /// Builds the tree.
    ///
    /// - Parameters:
    ///   - laneCount: L, a power of two, at most 64.
    ///   - lanes: what each member holds.
    ///   - combines: each member gives one sum of all its lanes; members are added in the order of their first lanes.
    /// - Throws: ``CollectivesError`` `.mismatch` when a lane belongs to nobody or to two members.
    init(laneCount: Int, lanes: [LaneSet], combines: Bool = false) throws(CollectivesError) {
        guard (1...64).contains(laneCount), laneCount & (laneCount - 1) == 0 else {
            throw CollectivesError(.mismatch, "\(laneCount) lanes: not a power of two up to 64")
        }
        let all = laneCount == 64 ? UInt64.max : (1 << UInt64(laneCount)) - 1
        var taken: UInt64 = 0
        for (rank, set) in lanes.enumerated() {
            guard set.bits & ~all == 0, set.bits & taken == 0 else {
                throw CollectivesError(
                    .mismatch,
                    "rank \(rank) holds lanes \(set) that are another's or not among \(laneCount)",
                    ranks: [rank]
                )
            }
            taken |= set.bits
        }
        guard taken == all else {
            throw CollectivesError(.mismatch, "nobody holds lanes \(LaneSet(bits: all & ~taken))")
        }
        guard !combines else {
            self.init(members: lanes, whole: LaneSubtree(start: 0, level: laneCount.trailingZeroBitCount))
            return
        }
        self.init(
            of: LaneSubtree(start: 0, level: laneCount.trailingZeroBitCount),
            held: lanes.map { $0.subtrees(laneCount: laneCount) }
        )
    }

    /// Builds the tree of a subtree whose lanes are all held.
    ///
    /// - Parameter held: by member; what is not among the subtree's lanes is left out.
    init(of root: LaneSubtree, held subtrees: [[LaneSubtree]]) {
        var byTree: [LaneSubtree: Leaf] = [:]
        for (rank, held) in subtrees.enumerated() {
            for (position, subtree) in held.enumerated() {
                byTree[subtree] = Leaf(subtree: subtree, rank: rank, position: position)
            }
        }
        var leaves: [Leaf] = []
        var program: [Int16] = []
        func visit(_ tree: LaneSubtree) {
            if let leaf = byTree[tree] {
                program.append(Int16(leaves.count))
                leaves.append(leaf)
            } else if let (left, right) = tree.halves {
                visit(left)
                visit(right)
                program.append(-1)
            }
        }
        visit(root)
        self.init(leaves: leaves, program: program, subtrees: subtrees)
    }

    private init(leaves: [Leaf], program: [Int16], subtrees: [[LaneSubtree]]) {
        self.leaves = leaves
        self.program = program
        self.subtrees = subtrees
    }

    /// One leaf a member, whatever it holds.
    private init(members lanes: [LaneSet], whole: LaneSubtree) {
        let order = lanes.indices.sorted {
            (lanes[$0].bits.trailingZeroBitCount, $0) < (lanes[$1].bits.trailingZeroBitCount, $1)
        }
        var program: [Int16] = []
        func visit(_ range: Range<Int>) {
            guard range.count > 1 else { return program.append(Int16(range.lowerBound)) }
            let middle = range.lowerBound + (range.count + 1) / 2
            visit(range.lowerBound..<middle)
            visit(middle..<range.upperBound)
            program.append(-1)
        }
        visit(order.indices)
        self.init(
            leaves: order.map { Leaf(subtree: whole, rank: $0, position: 0) },
            program: program,
            subtrees: lanes.map { _ in [whole] }
        )
    }

    /// Combines `count` values of all leaves into `target`.
    ///
    /// - Parameters:
    ///   - pointers: one a leaf.
    ///   - range: the values in the whole array; begins on a multiple of 64 bytes.
    ///   - form: what they are and how they are combined.
    ///   - mode: the floating-point control word to compute under.
    ///   - fingerprint: takes the results in.
    func combine(
        _ pointers: UnsafePointer<UnsafeRawPointer?>,
        into target: UnsafeMutableRawPointer,
        _ range: Range<Int>,
        _ form: OperationForm,
        mode: UInt64,
        _ fingerprint: inout ResultFingerprint
    ) {
        let result = program.withUnsafeBufferPointer { program in
            fingerprint.withWords { words in
                coord_combine_tree(
                    Int32(form.type.rawValue),
                    Int32(form.reduction.rawValue),
                    pointers,
                    program.baseAddress,
                    program.count,
                    target,
                    range.count,
                    mode,
                    words,
                    UInt64(range.lowerBound)
                )
            }
        }
        precondition(result == 0, "a lane tree of \(leaves.count) leaves is no tree")
    }
}
