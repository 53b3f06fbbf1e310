import Basics
import Collectives
import Testing

#if canImport(Glibc)
import Glibc
#endif

/// Every way × 1 to 16 members × any lanes × any size: a few by chance here, thousands and up to 64 MiB in
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
        let cluster = try TestCluster(count, way)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(count) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: laneCount)
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
                    try mine.reduce(group, operation, into: &sum)
                    #expect(
                        sum == expected[index],
                        "\(way), \(count) members, \(laneCount) lanes, \(size) values"
                    )
                    #expect(mine.rows == (0..<laneCount).flatMap { laneRow(operation, $0, index) })
                }
            } catch {
                Issue.record("\(way), rank \(rank) of \(count), \(sizes) values: \(error)")
            }
        }
    }
}
