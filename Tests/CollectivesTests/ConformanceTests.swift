import Basics
import Collectives
import Testing

#if canImport(Glibc)
import Glibc
#endif

/// Every way × directly or in two levels × every collective × every type × 1 to 16 members × any lanes × any size: a few by chance here, thousands and up to 64 MiB in
/// `scripts/soak` (`COORD_SOAK_EXCHANGES`, `COORD_SOAK_SEED`).
@Suite(.timeLimit(.minutes(60)))
struct ConformanceTests {
    private static func number(_ name: String) -> Int? { getenv(name).flatMap { Int(String(cString: $0)) } }
    private static let rounds = number("COORD_SOAK_EXCHANGES") ?? 24
    private static let seed = number("COORD_SOAK_SEED") ?? 1
    private static let isShort = number("COORD_SOAK_EXCHANGES") == nil

    @Test(arguments: 0..<rounds)
    func sumsOfAnyShapeHaveTheSerialBits(round: Int) throws {
        var generator = SplitMix(UInt64(Self.seed &* 1_000_003 &+ round))
        let way = Way.allCases[round % Way.allCases.count]
        let count = Int.random(in: 1...16, using: &generator)
        let laneCount = 1 << Int.random(in: 0...(Self.isShort ? 4 : 6), using: &generator)
        let lanes = randomLanes(laneCount, count, &generator)
        // Any order of magnitude alike, and the neighbours of round numbers.
        let most = Self.isShort ? 16.0 : 24.0
        let sizes = (0..<3).map { _ in
            let size = Int(exp2(Double.random(in: 0...most, using: &generator)))
            return max(
                0,
                Bool.random(using: &generator)
                    ? size : size / 16 * 16 + Int.random(in: -1...1, using: &generator)
            )
        }
        let expected = sizes.enumerated().map { serialTree(wholeTree(laneCount), UInt64($0), $1) }
        // The second of them in parts, begun early by some of the members; the generation may be made for it or not.
        let buckets = Bool.random(using: &generator) ? randomBuckets(sizes[1], &generator) : []
        let sites = randomSites(count, &generator)
        let begins = (0..<count).map { _ in Bool.random(using: &generator) }
        let cluster = try TestCluster(count, way)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(count) { rank in
            do {
                var options = way.options
                options.buckets = buckets
                options.sites = sites
                let group = try cluster.open(rank, members, laneCount: laneCount, options: options)
                defer { group.close() }
                for (index, size) in sizes.enumerated() {
                    let operation = UInt64(index)
                    var mine = Computed(
                        operation,
                        lanes[rank],
                        laneCount: laneCount,
                        count: size,
                        width: index
                    )
                    var sum = [Float](repeating: .nan, count: size)
                    let parts = begins[rank] && index == 1 ? buckets : []
                    try mine.reduce(group, operation, into: &sum, buckets: parts)
                    #expect(
                        sum == expected[index],
                        "\(way), \(count) members, \(laneCount) lanes, \(size) values, \(buckets), \(sites)"
                    )
                    #expect(mine.rows == (0..<laneCount).flatMap { laneRow(operation, $0, index) })
                }
            } catch {
                Issue.record("\(way), rank \(rank) of \(count), \(sizes) values: \(error)")
            }
        }
    }

    @Test(arguments: 0..<rounds)
    func everyCollectiveHasTheSerialBits(round: Int) throws {
        switch round / Way.allCases.count % 4 {
        case 0: try collectives(of: Float.self, round)
        case 1: try collectives(of: BF16.self, round)
        case 2: try collectives(of: Double.self, round)
        default: try collectives(of: Int32.self, round)
        }
    }

    /// One group goes through all five, in an order by chance.
    private func collectives<Element: TestElement>(of element: Element.Type, _ round: Int) throws {
        var generator = SplitMix(UInt64(Self.seed &* 1_000_033 &+ round))
        let way = Way.allCases[round % Way.allCases.count]
        let count = Int.random(in: 1...16, using: &generator)
        let laneCount = 1 << Int.random(in: 0...(Self.isShort ? 4 : 6), using: &generator)
        let lanes = randomLanes(laneCount, count, &generator)
        let owners =
            Bool.random(using: &generator)
            ? [] : Set((0..<count).filter { _ in Bool.random(using: &generator) })
        let plan = (0..<6).map { _ in
            Round<Element>(count, laneCount, log2MostBytes: Self.isShort ? 18 : 26, &generator)
        }
        let sites = randomSites(count, &generator)
        let cluster = try TestCluster(count, way)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(count) { rank in
            do {
                var options = way.options
                options.sites = sites
                let group = try cluster.open(
                    rank,
                    members,
                    laneCount: laneCount,
                    owners: owners,
                    options: options
                )
                defer { group.close() }
                for round in plan {
                    let isRight = try round.perform(group)
                    #expect(
                        isRight,
                        "\(way), rank \(rank) of \(count), \(laneCount) lanes, \(sites), \(round)"
                    )
                }
                #expect(group.memberState.committed == UInt64(plan.count))
            } catch {
                Issue.record("\(way), rank \(rank) of \(count), \(plan): \(error)")
            }
        }
    }
}

/// One collective over values of one type, and what it must give.
private struct Round<Element: TestElement>: CustomStringConvertible {
    enum Kind: CaseIterable { case allReduce, reduceScatter, allGather, broadcast, barrier }
    let kind: Kind
    let reduction: Reduction
    let count: Int
    let root: Int
    /// Bytes behind a cache line's beginning, where values stand.
    let offset: Int
    let expected: [Element]
    let laneCount: Int

    var description: String {
        "\(kind) of \(count) \(Element.type) by \(reduction) from \(root), offset \(offset)"
    }

    init(_ members: Int, _ laneCount: Int, log2MostBytes: Int, _ generator: inout SplitMix) {
        self.laneCount = laneCount
        kind = Kind.allCases.randomElement(using: &generator) ?? .barrier
        reduction = Reduction.allCases.randomElement(using: &generator) ?? .sum
        let most = Double(log2MostBytes - Element.type.byteCount.trailingZeroBitCount)
        // Any order of magnitude alike, none at all, and odd ones.
        let size = Int(exp2(Double.random(in: -1...most, using: &generator)))
        count = Swift.max(0, size - Int.random(in: 0...1, using: &generator))
        root = Int.random(in: 0..<members, using: &generator)
        offset = [0, Element.type.byteCount, 24].randomElement(using: &generator) ?? 0
        let count = count, operation = UInt64(count)
        switch kind {
        case .allReduce, .reduceScatter:
            expected = Element.tree(wholeTree(laneCount), operation, count, reduction)
        case .allGather, .broadcast: expected = (0..<count).map { Element(operation, 99, $0) }
        case .barrier: expected = []
        }
    }

    /// Does it as one member; whether what came out is right.
    func perform(_ group: Group) throws -> Bool {
        let size = Element.type.byteCount
        let reduces = kind == .allReduce || kind == .reduceScatter
        let gives = group.subtrees.map {
            RawArray(Element.tree($0, UInt64(count), reduces ? count : 0, reduction), offset: offset)
        }
        defer { withExtendedLifetime(gives) {} }
        let given = gives.map { UnsafeRawBufferPointer($0.bytes) }
        let whole = RawArray(expected)
        switch kind {
        case .allReduce:
            let result = RawArray(count: count * size, offset: offset)
            try group.allReduce(given, into: result.bytes, of: Element.type, by: reduction)
            return result.values == whole.values
        case .reduceScatter:
            let range = group.segment(of: group.rank, elements: count, Element.type)
            let result = RawArray(count: range.count * size, offset: offset)
            try group.reduceScatter(
                given,
                elements: count,
                into: result.bytes,
                of: Element.type,
                by: reduction
            )
            return result.values == Array(whole.bytes[range.lowerBound * size..<range.upperBound * size])
        case .allGather:
            let result = RawArray(count: count * size, offset: offset)
            let range = group.gatheredSegment(of: group.rank, elements: count, Element.type)
            let mine = range.lowerBound * size..<range.upperBound * size
            UnsafeMutableRawBufferPointer(rebasing: result.bytes[mine])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: whole.bytes[mine]))
            try group.allGather(result.bytes, of: Element.type)
            return result.values == whole.values
        case .broadcast:
            let result =
                group.rank == root
                ? RawArray(expected, offset: offset) : RawArray(count: count * size, offset: offset)
            try group.broadcast(result.bytes, from: root, of: Element.type)
            return result.values == whole.values
        case .barrier:
            try group.barrier()
            return true
        }
    }
}
