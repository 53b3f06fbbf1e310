import Basics
import Synchronization
import Testing

@testable import Collectives

/// Harm that a member does to its own part is felt by the others as the fault that it stands for.
@Suite(.timeLimit(.minutes(1)))
struct DrillTests {
    private let lanes = [LaneSet([0, 1]), LaneSet([2, 3])]

    /// Two operations of two members; member 1 harms itself between them.
    ///
    /// - Returns: what each met.
    private func drill(
        _ way: Way,
        limit: Duration = .seconds(3),
        _ injury: @escaping @Sendable () -> Group.Injury
    ) throws -> [CollectivesError?] {
        let cluster = try TestCluster(2, way)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let outcomes = Mutex<[CollectivesError?]>([nil, nil])
        onThreads(2) { rank in
            do {
                var options = way.options
                options.silenceLimit = limit
                let group = try cluster.open(rank, members, laneCount: 4, options: options)
                defer { group.close() }
                for operation in UInt64(0)..<2 {
                    if operation == 1, rank == 1 { group.injure(injury()) }
                    var mine = Computed(operation, lanes[rank], laneCount: 4, count: 20_000, width: 1)
                    var sum = [Float](repeating: 0, count: 20_000)
                    try mine.reduce(group, operation, into: &sum)
                    #expect(sum == serialTree(wholeTree(4), operation, 20_000))
                }
            } catch let error as CollectivesError {
                outcomes.withLock { $0[rank] = error }
            } catch {
                Issue.record(error)
            }
        }
        return outcomes.withLock { $0 }
    }

    @Test(arguments: [Way.tcp, .memory, .sealed])
    func aMemberThatIsSilentForLongIsGivenUp(way: Way) throws {
        let start = ContinuousClock.now
        let outcomes = try drill(way, limit: .milliseconds(800)) { .silence(until: .now + .seconds(2)) }
        #expect(outcomes[0]?.code == .peerSilent)
        #expect(outcomes[0]?.ranks == [1])
        #expect(start.duration(to: .now) < .seconds(10))
    }

    @Test(arguments: [Way.tcp, .memory, .sealed])
    func aShortSilenceIsRiddenOut(way: Way) throws {
        let outcomes = try drill(way, limit: .seconds(1)) { .silence(until: .now + .milliseconds(500)) }
        #expect(outcomes.allSatisfy { $0 == nil })
    }

    @Test(arguments: [Way.tcp, .sealed])
    func aDamagedFrameIsNeverSummed(way: Way) throws {
        let outcomes = try drill(way) { .damage }
        #expect(outcomes[0]?.code == .badFrame)
        #expect(outcomes[0]?.ranks == [1])
        #expect(outcomes[1] != nil)
    }
}
