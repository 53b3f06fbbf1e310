internal import Basics
internal import Tensors

/// The gradients of this member's lanes, and their sums along the lane tree.
///
/// Each lane keeps its own gradient until the operation is committed, so that a change of lanes costs
/// only the lanes that are missing. Buffers are made when a lane is first computed here.
final class LaneTree {
    private let laneCount: Int
    private let count: Int
    private let makeArena: (Int) -> FloatArena
    private var lanes: [Int: FloatArena] = [:]
    private var sums: [LaneSubtree: FloatArena] = [:]

    /// - Parameters:
    ///   - count: numbers in a gradient, N.
    ///   - makeArena: memory for what is contributed.
    init(laneCount: Int, count: Int, makeArena: @escaping (Int) -> FloatArena = FloatArena.init(count:)) {
        self.laneCount = laneCount
        self.count = count
        self.makeArena = makeArena
    }

    /// The gradient of a lane, `[N]`.
    func gradient(of lane: Int) -> FloatArena {
        if let arena = lanes[lane] { return arena }
        let arena = makeArena(count)
        lanes[lane] = arena
        return arena
    }

    /// How a subtree's sum comes from its lanes.
    struct Sum {
        var target: UnsafeMutablePointer<Float>
        /// The lanes' gradients, in rising order.
        var parts: [UnsafePointer<Float>]
    }

    /// Where the sums of a set of lanes' subtrees stand, and how they are made; a lane alone is its own sum.
    func subtrees(of set: LaneSet) -> (contributions: [Contribution], sums: [Sum]) {
        var sums: [Sum] = []
        let contributions = set.subtrees(laneCount: laneCount).map { tree in
            if tree.level == 0 {
                return Contribution(subtree: tree, values: gradient(of: tree.start).buffer)
            }
            let target = self.sums[tree] ?? makeArena(count)
            self.sums[tree] = target
            let parts = tree.lanes.map { UnsafePointer(gradient(of: $0).pointer) }
            sums.append(Sum(target: target.pointer, parts: parts))
            return Contribution(subtree: tree, values: target.buffer)
        }
        return (contributions, sums)
    }

    /// Sums a set of lanes into its subtrees.
    func contributions(of set: LaneSet, kernels: Kernels, pool: LanePool) -> [Contribution] {
        let (contributions, sums) = subtrees(of: set)
        for sum in sums { pool.forEachSlice(count) { kernels.treeSum(sum.target, sum.parts, $0) } }
        return contributions
    }

    /// Frees what a set of lanes does not need, after a change of lanes.
    func keepOnly(_ set: LaneSet) {
        lanes = lanes.filter { set.contains($0.key) }
        let trees = Set(set.subtrees(laneCount: laneCount))
        sums = sums.filter { trees.contains($0.key) }
    }

    /// The sum of one column of `[lanes × width]` along the lane tree.
    static func sum(_ values: [Double], width: Int, column: Int) -> Double {
        var row = stride(from: column, to: values.count, by: width).map { values[$0] }
        while row.count > 1 { row = stride(from: 0, to: row.count, by: 2).map { row[$0] + row[$0 + 1] } }
        return row.first ?? 0
    }
}
