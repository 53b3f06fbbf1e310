/// An aligned subtree of the lane tree: the lanes `start ..< start + 2^level`, with `start` a multiple of `2^level`.
///
/// The gradient of a step is the sum over all lanes along one fixed binary tree on lane numbers, so a worker
/// that holds all lanes of a subtree may send their sum as one value without changing a bit of the result.
public struct LaneSubtree: Hashable, Sendable, Codable, Comparable {
    /// The first lane.
    public var start: Int
    /// log2 of the number of lanes.
    public var level: Int

    /// - Precondition: `start` is a multiple of `2^level`.
    public init(start: Int, level: Int) {
        precondition(start & ((1 << level) - 1) == 0, "lane \(start) is not aligned to level \(level)")
        self.start = start
        self.level = level
    }

    /// The lanes of the subtree.
    public var lanes: Range<Int> { start..<(start + (1 << level)) }
    /// The two halves; nil for a single lane.
    public var halves: (LaneSubtree, LaneSubtree)? {
        level == 0
            ? nil
            : (
                LaneSubtree(start: start, level: level - 1),
                LaneSubtree(start: start + (1 << (level - 1)), level: level - 1)
            )
    }
    /// Orders by first lane, then by size.
    public static func < (a: LaneSubtree, b: LaneSubtree) -> Bool { (a.start, a.level) < (b.start, b.level) }
}

/// A set of lanes of a run; at most 64 lanes.
public struct LaneSet: Hashable, Sendable, Codable, CustomStringConvertible {
    /// Bit i stands for lane i.
    public var bits: UInt64

    /// Wraps a bit mask.
    public init(bits: UInt64 = 0) { self.bits = bits }
    /// The lanes of a sequence.
    public init(_ lanes: some Sequence<Int>) { bits = lanes.reduce(0) { $0 | (1 << UInt64($1)) } }

    /// How many lanes.
    public var count: Int { bits.nonzeroBitCount }
    /// True for no lane at all.
    public var isEmpty: Bool { bits == 0 }
    /// The lanes in rising order.
    public var lanes: [Int] { (0..<64).filter { bits & (1 << UInt64($0)) != 0 } }
    /// True when `lane` is a member.
    public func contains(_ lane: Int) -> Bool { bits & (1 << UInt64(lane)) != 0 }

    /// The fewest aligned subtrees that make up the set, in rising order.
    ///
    /// - Parameter laneCount: the lanes of the run, a power of two.
    public func subtrees(laneCount: Int) -> [LaneSubtree] {
        var found: [LaneSubtree] = []
        func visit(_ tree: LaneSubtree) {
            let mask = LaneSet(tree.lanes).bits
            if bits & mask == mask {
                found.append(tree)
            } else if bits & mask != 0, let (left, right) = tree.halves {
                visit(left)
                visit(right)
            }
        }
        visit(LaneSubtree(start: 0, level: laneCount.trailingZeroBitCount))
        return found
    }

    /// `{0-3,6}`.
    public var description: String {
        var parts: [String] = []
        var run: ClosedRange<Int>?
        for lane in lanes + [-2] {
            if let r = run, lane == r.upperBound + 1 {
                run = r.lowerBound...lane
            } else {
                if let r = run {
                    parts.append(r.count == 1 ? "\(r.lowerBound)" : "\(r.lowerBound)-\(r.upperBound)")
                }
                run = lane >= 0 ? lane...lane : nil
            }
        }
        return "{\(parts.joined(separator: ","))}"
    }
}

/// How fast a worker computes lanes: in rounds, one lane a thread.
public struct LanePace: Hashable, Sendable, Codable {
    /// Lanes that it computes side by side.
    public var threads: Int
    /// Seconds that a round takes.
    public var secondsPerRound: Double

    /// - Parameter seconds: what `lanes` lanes took with `threads` threads.
    public init(threads: Int, lanes: Int, seconds: Double) {
        self.threads = max(1, threads)
        secondsPerRound = seconds / Double(max(1, Self.rounds(lanes, self.threads)))
    }

    /// Seconds for a number of lanes.
    public func seconds(_ lanes: Int) -> Double { Double(Self.rounds(lanes, threads)) * secondsPerRound }

    private static func rounds(_ lanes: Int, _ threads: Int) -> Int { (lanes + threads - 1) / threads }
}

/// Who computes which lanes.
///
/// Scheduling only: it never changes a bit of the result.
public enum LanePlanner {
    /// The run file's `lanes: auto`: the largest power of two ≤ 16 that divides `batch` and leaves ≥ 32 samples a lane.
    public static func automaticLaneCount(batch: Int) -> Int {
        var lanes = 16
        while lanes > 1, batch / lanes < 32 || batch % lanes != 0 { lanes /= 2 }
        return lanes
    }

    /// Gives out all lanes in proportion to `weights` (largest remainder), as ``place(counts:laneCount:)`` does.
    ///
    /// - Parameters:
    ///   - laneCount: a power of two.
    ///   - weights: one a member, > 0; a member beyond the number of lanes gets none.
    /// - Returns: one set a member, together all lanes.
    public static func assign(laneCount: Int, weights: [Double]) -> [LaneSet] {
        precondition(!weights.isEmpty, "no member to give lanes to")
        let total = weights.reduce(0, +)
        let exact = weights.map { Double(laneCount) * $0 / total }
        var counts = exact.map { Int($0) }
        let order = weights.indices.sorted {
            (exact[$0] - Double(counts[$0]), $1) > (exact[$1] - Double(counts[$1]), $0)
        }
        for index in order.prefix(laneCount - counts.reduce(0, +)) { counts[index] += 1 }
        // Every member works while there are lanes enough: take from the largest.
        for index in counts.indices where counts[index] == 0 {
            guard let richest = counts.indices.max(by: { counts[$0] < counts[$1] }), counts[richest] > 1
            else { break }
            counts[richest] -= 1
            counts[index] = 1
        }
        return place(counts: counts, laneCount: laneCount)
    }

    /// Lays numbers of lanes out in the fewest aligned subtrees: n lanes cross the network as popcount(n) values.
    ///
    /// Blocks of falling size, one after the other, are always aligned (buddy allocation).
    /// - Precondition: the counts add up to `laneCount`, a power of two.
    public static func place(counts: [Int], laneCount: Int) -> [LaneSet] {
        precondition(counts.reduce(0, +) == laneCount, "\(counts) are not \(laneCount) lanes")
        var sets = counts.map { _ in LaneSet() }
        var next = 0
        for size in stride(from: laneCount.trailingZeroBitCount, through: 0, by: -1).map({ 1 << $0 }) {
            for index in counts.indices where counts[index] & size != 0 {
                sets[index].bits |= LaneSet(next..<(next + size)).bits
                next += size
            }
        }
        return sets
    }

    /// How many lanes each member should have so that the slowest is done as early as can be.
    ///
    /// Lane by lane to the member that is done with it first; ties go to the lower index. Each member gets at least one while there are enough, so that its speed stays known.
    /// - Parameters:
    ///   - laneCount: a power of two.
    ///   - paces: one a member; whoever would never be done gets none.
    public static func counts(laneCount: Int, paces: [LanePace]) -> [Int] {
        var counts = paces.map { _ in 0 }
        let able = paces.indices.filter { paces[$0].secondsPerRound.isFinite }
        for index in able.prefix(laneCount) { counts[index] = 1 }
        for _ in counts.reduce(0, +)..<max(laneCount, counts.reduce(0, +)) {
            guard
                let first = paces.indices.min(by: {
                    (paces[$0].seconds(counts[$0] + 1), $0) < (paces[$1].seconds(counts[$1] + 1), $1)
                })
            else { break }
            counts[first] += 1
        }
        return counts
    }

    /// Gives the lanes of members that are gone to those that stay, who keep what they have.
    ///
    /// - Parameters:
    ///   - held: what each survivor holds now.
    ///   - laneCount: a power of two.
    ///   - paces: one a survivor; nil = all alike.
    /// - Returns: one set a survivor, together all lanes. The member that is done with it first takes the next one.
    public static func reassign(held: [LaneSet], laneCount: Int, paces: [LanePace]? = nil) -> [LaneSet] {
        precondition(!held.isEmpty, "no survivor to give lanes to")
        var sets = held
        let taken = held.reduce(UInt64(0)) { $0 | $1.bits }
        for lane in 0..<laneCount where taken & (1 << UInt64(lane)) == 0 {
            let seconds = sets.indices.map { index in
                let count = sets[index].count + 1
                return paces.map { $0[index].seconds(count) } ?? Double(count)
            }
            guard let first = sets.indices.min(by: { (seconds[$0], $0) < (seconds[$1], $1) }) else { break }
            sets[first].bits |= 1 << UInt64(lane)
        }
        return sets
    }
}
