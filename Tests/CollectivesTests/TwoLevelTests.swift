import Basics
import Synchronization
import Testing

@testable import Collectives

/// Members of one site meet as processes of one machine do, those of two sites over TCP.
private final class SiteTransport: Transport {
    private let near = Mutex<Set<String>>([])
    var sharesMemory: Bool { true }

    func join(_ addresses: [String]) { near.withLock { $0.formUnion(addresses) } }
    func listen(at address: String) throws(CollectivesError) -> any Listener {
        try DirectTransport().listen(at: address)
    }
    func connect(to address: String) throws(CollectivesError) -> any Link {
        if near.withLock({ $0.contains(address) }) { return try DirectTransport().connect(to: address) }
        return try TCPTransport().connect(to: address)
    }
}

/// Members that add up on their machine before machines exchange.
@Suite(.timeLimit(.minutes(5)))
struct TwoLevelTests {
    /// Runs some operations of all members, of which those of one site share memory.
    ///
    /// - Parameters:
    ///   - shares: values stand where the others read them; else they are copied from elsewhere.
    ///   - buckets: how the values are given.
    /// - Returns: what each member sent.
    private func exchange(
        sites: [Int],
        lanes: [LaneSet],
        laneCount: Int,
        size: Int,
        usesSites: Bool = true,
        shares: Bool = true,
        buckets: [Range<Int>] = []
    ) throws -> [Group.Counters] {
        let transports = sites.map { _ in SiteTransport() }
        let endpoints = try transports.map { try Endpoint(transport: $0) }
        defer { endpoints.forEach { $0.close() } }
        for (rank, transport) in transports.enumerated() {
            transport.join(sites.indices.filter { sites[$0] == sites[rank] }.map { endpoints[$0].address })
        }
        let members = sites.indices.map {
            Member(rank: $0, address: endpoints[$0].address, lanes: lanes[$0])
        }
        let expected = (0...3).map { serialTree(wholeTree(laneCount), UInt64($0), size) }
        let counters = Mutex([Group.Counters](repeating: Group.Counters(), count: sites.count))
        onThreads(sites.count) { rank in
            do {
                var options = Group.Options()
                if usesSites { options.sites = sites }
                options.buckets = buckets
                let group = try Group.open(
                    endpoint: endpoints[rank],
                    run: testRun,
                    generation: 1,
                    rank: rank,
                    members: members,
                    laneCount: laneCount,
                    secret: testSecret,
                    deadline: .now + .seconds(20),
                    options: options
                )
                defer { group.close() }
                let memory = try #require(endpoints[rank].memory)
                let blocks = try (group.subtrees.map { _ in size } + [size]).map {
                    try #require(memory.allocate($0))
                }
                defer { blocks.forEach(memory.free) }
                // After it everybody knows who reads whose memory.
                try group.barrier()
                for operation in UInt64(1)...3 {
                    var mine = Computed(operation, lanes[rank], laneCount: laneCount, count: size, width: 2)
                    if shares {
                        try mine.reduce(group, operation, in: blocks, buckets: buckets)
                        #expect(Array(blocks[blocks.count - 1]) == expected[Int(operation)], "rank \(rank)")
                    } else {
                        var sum = [Float](repeating: .nan, count: size)
                        try mine.reduce(group, operation, into: &sum, buckets: buckets)
                        #expect(sum == expected[Int(operation)], "rank \(rank)")
                    }
                    #expect(mine.rows == (0..<laneCount).flatMap { laneRow(operation, $0, 2) })
                }
                try group.barrier()
                counters.withLock { $0[rank] = group.counters }
            } catch {
                Issue.record("rank \(rank) of \(sites): \(error)")
            }
        }
        return counters.withLock { $0 }
    }

    @Test(arguments: 0..<24)
    func membersOfAnySitesGetTheSerialBits(seed: Int) throws {
        var generator = SplitMix(UInt64(seed) &* 104_729)
        let count = Int.random(in: 2...9, using: &generator)
        let laneCount = 1 << Int.random(in: 0...4, using: &generator)
        let sites = (0..<count).map { _ in Int.random(in: 0...min(3, count - 1), using: &generator) }
        let size = Int.random(in: 0...60_000, using: &generator)
        _ = try exchange(
            sites: sites,
            lanes: randomLanes(laneCount, count, &generator),
            laneCount: laneCount,
            size: size,
            shares: seed % 3 != 0,
            buckets: Bool.random(using: &generator) ? randomBuckets(size, &generator) : []
        )
    }

    @Test
    func betweenSitesGoesWhatOneMemberEachWouldSend() throws {
        let lanes = LanePlanner.assign(laneCount: 8, weights: [1, 1, 1, 1])
        let size = 400_000, bytes = 3 * 4 * size
        let sites = [0, 0, 1, 1]
        let direct = try exchange(sites: sites, lanes: lanes, laneCount: 8, size: size, usesSites: false)
        let joined = try exchange(sites: sites, lanes: lanes, laneCount: 8, size: size)
        // Half of it as contributions, half as results, from each leader; the others name places alone.
        for leader in [0, 2] { #expect((bytes..<bytes * 21 / 20).contains(joined[leader].bytesSent)) }
        for member in [1, 3] { #expect(joined[member].bytesSent < bytes / 20) }
        #expect(direct.allSatisfy { $0.bytesSent > bytes })
        // Without memory the leader gets and gives all of it over the link within the site.
        let copied = try exchange(sites: sites, lanes: lanes, laneCount: 8, size: size, shares: false)
        for leader in [0, 2] { #expect(copied[leader].bytesSent > bytes * 19 / 10) }
        for member in [1, 3] { #expect((bytes..<bytes * 21 / 20).contains(copied[member].bytesSent)) }
    }

    @Test
    func aSitesSubtreesComeFromThoseOfItsMembers() throws {
        let lanes = [LaneSet([0, 1]), LaneSet([4]), LaneSet([2, 3]), LaneSet([5, 6, 7])]
        let routes = try ValueRoutes(
            sites: [7, 3, 7, 3],
            lanes: lanes,
            laneCount: 8,
            owners: [true, true, true, true]
        )
        #expect(routes.leaders == [0, 1, 0, 1])
        #expect(routes.owners == [true, true, false, false])
        #expect(routes.tree.leaves.map(\.rank) == [0, 1])
        #expect(routes.sites.map { $0.map(\.leaves.count) } == [[2], [3], [], []])
        #expect(routes.source(of: 1, for: 0) == 1 && routes.source(of: 1, for: 2) == 0)
        // Whoever sums is led by one of those who may.
        let led = try ValueRoutes(
            sites: [7, 3, 7, 3],
            lanes: lanes,
            laneCount: 8,
            owners: [false, false, true, false]
        )
        #expect(led.leaders == [2, 1, 2, 1])
        #expect(led.owners == [false, false, true, false])
    }

    @Test
    func aLeaderGivesWhatItsMembersHaveGiven() {
        // Ranks 0 and 1 are one site, 2 and 3 another; two pieces an owner.
        let size = 2 * 2 * Segmentation.pieceBytes / 4
        func ledger(_ rank: Int) -> OperationLedger {
            OperationLedger(
                rank: rank,
                shape: OperationShape(elements: size, width: 0),
                subtreeCounts: [1, 2, 1, 1],
                leaders: [0, 0, 2, 2],
                carriedCounts: [1, 0, 1, 0],
                laneCounts: [1, 2, 1, 1],
                owners: [true, false, true, false]
            )
        }
        var leader = ledger(0), member = ledger(1)
        #expect(member.contributionsDue(to: 0) == 8 && member.contributionsDue(to: 2) == 0)
        #expect(leader.contributionsDue(to: 2) == 0 && leader.summablePiece == nil)
        #expect(leader.contributionCount(of: 2, to: 0) == 2 && leader.contributionCount(of: 3, to: 0) == 0)
        for index in 0..<8 {
            #expect(leader.next(.contribution, from: 1) == index)
            leader.received(.contribution, from: 1)
        }
        #expect(leader.next(.contribution, from: 1) == nil)
        #expect(leader.contributionsDue(to: 2) == 2 && leader.contributionsDue(to: 1) == 0)
        #expect(leader.summablePiece == nil)
        for _ in 0..<2 { leader.received(.contribution, from: 2) }
        while leader.summablePiece != nil { leader.summed() }
        #expect(leader.resultsDue(of: 0, to: 1) == 2 && leader.resultsDue(of: 0, to: 2) == 2)
        #expect(leader.resultsDue(of: 0, to: 3) == 0 && leader.resultsDue(of: 2, to: 1) == 0)
        leader.received(.result, from: 2)
        #expect(leader.resultsDue(of: 2, to: 1) == 1 && !leader.isComplete)
        #expect(member.next(.result, from: 2) == nil)
        for owner in [0, 2] {
            for piece in 0..<2 {
                #expect(member.next(.result, from: 0, of: owner) == piece && !member.isComplete)
                member.received(.result, from: 0, of: owner)
            }
        }
    }
}
