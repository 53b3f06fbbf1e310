import Basics
import Collectives
import Synchronization
import Testing

/// Members that die at any byte: the others go on, and nobody can tell from the sums.
@Suite(.timeLimit(.minutes(5)))
struct FailureTests {
    /// Publishes a new generation whenever all that live have stopped in the last one.
    final class Membership: Sendable {
        struct Plan: Sendable {
            var generation: UInt32
            /// Who takes part, in rank order: their ids.
            var ids: [Int]
            var lanes: [LaneSet]
        }
        private struct State {
            var plan: Plan
            var stopped: [Int: Bool] = [:]  // id: whether it has nothing left to do
            var dead: Set<Int> = []
            var isOver = false
        }
        private let state: Mutex<State>
        private let laneCount: Int
        let endpoints = Mutex<[Endpoint]>([])

        init(count: Int, laneCount: Int) {
            self.laneCount = laneCount
            let lanes = LanePlanner.assign(laneCount: laneCount, weights: Array(repeating: 1, count: count))
            state = Mutex(State(plan: Plan(generation: 1, ids: Array(0..<count), lanes: lanes)))
        }

        var first: Plan { state.withLock { $0.plan } }

        /// Whoever still waits for the dead to open this generation is told not to.
        func died(_ id: Int) {
            let generation = state.withLock { state in
                state.dead.insert(id)
                return state.plan.generation
            }
            endpoints.withLock { all in all.forEach { $0.abandon(generation: generation, of: testRun) } }
        }

        /// Waits for the generation after `generation`; nil when all are done, or this one is dead.
        func next(after generation: UInt32, id: Int, isDone: Bool) -> Plan? {
            state.withLock { if $0.plan.generation == generation { $0.stopped[id] = isDone } }
            while true {
                let (plan, isOver): (Plan?, Bool) = state.withLock { state in
                    if state.isOver || state.dead.contains(id) { return (nil, true) }
                    if state.plan.generation > generation { return (state.plan, false) }
                    let alive = state.plan.ids.filter { !state.dead.contains($0) }
                    guard alive.allSatisfy({ state.stopped[$0] != nil }) else { return (nil, false) }
                    if alive.allSatisfy({ state.stopped[$0] == true }) {
                        state.isOver = true
                        return (nil, true)
                    }
                    let held = zip(state.plan.ids, state.plan.lanes).filter { alive.contains($0.0) }.map(\.1)
                    state.plan = Plan(
                        generation: generation + 1,
                        ids: alive,
                        lanes: LanePlanner.reassign(held: held, laneCount: laneCount)
                    )
                    state.stopped = [:]
                    return (state.plan, false)
                }
                if plan != nil || isOver { return plan }
                pause(.microseconds(200))
            }
        }
    }

    /// What the whole test counted.
    static let commitsForward = Atomic(0)
    static let recomputed = Atomic(0)

    @Test(arguments: 0..<90)
    func survivorsEndWithTheSameSums(seed: Int) throws {
        var generator = SplitMix(UInt64(seed) &* 7919)
        let count = Int.random(in: 2...4, using: &generator)
        let laneCount = 8, operations: UInt64 = 8
        // Small operations die in the words (rows, READY), large ones in the values.
        let size = seed % 2 == 0 ? 48 : 70_000
        let membership = Membership(count: count, laneCount: laneCount)
        let victims = seed % 5 == 0 && count > 2 ? [1, 2] : [Int.random(in: 0..<count, using: &generator)]
        let budget = seed % 2 == 0 ? 12_000 : 3_000_000
        let way = Way.allCases[seed % 4]
        let base = way.make(), address = way.address
        let transports = (0..<count).map { id in
            FaultTransport(
                base,
                // Values that stand in memory pass no link: such a member dies some time after it began an operation.
                cutAfter: victims.contains(id) && way != .memory
                    ? Int.random(in: 0..<budget, using: &generator) : .max,
                onCut: { membership.died(id) }
            )
        }
        let endpoints = try transports.map { try Endpoint(transport: $0, address: address) }
        defer { endpoints.forEach { $0.close() } }
        membership.endpoints.withLock { $0 = endpoints }
        // Values travel while the rest is computed: members die between two buckets, and in the middle of one.
        let buckets = seed % 4 < 2 ? [] : randomBuckets(size, &generator)
        let expected = (0..<operations).map { serialTree(wholeTree(laneCount), $0, size) }
        let finished = Mutex<Set<Int>>([])
        let begun = Atomic(0)
        let last = Int.random(in: 1...Int(operations), using: &generator)
        let moment = Duration.microseconds(Int64.random(in: 0..<(size < 100 ? 200 : 4000), using: &generator))

        onThreads(way == .memory ? count + 1 : count) { id in
            if id == count {
                while begun.load(ordering: .acquiring) < last { pause(.microseconds(20)) }
                pause(moment)
                for victim in victims { transports[victim].cut() }
                return
            }
            var options = way.options
            options.buckets = buckets
            let survivor = Survivor(
                id: id,
                endpoint: endpoints[id],
                membership: membership,
                options: options,
                siteOf: { seed % 3 == 0 ? $0 / 2 : nil }
            ) {
                if id == victims[0] { begun.add(1, ordering: .releasing) }
            }
            let sums = survivor.live(operations: operations, laneCount: laneCount, size: size) { rank in
                endpoints[rank].address
            }
            if transports[id].isCut { return }
            _ = finished.withLock { $0.insert(id) }
            #expect(sums.count == expected.count, "member \(id) of \(count)")
            for (operation, sum) in sums.enumerated() {
                #expect(sum == expected[operation], "operation \(operation), member \(id)")
            }
        }
        let alive = Set((0..<count).filter { !transports[$0].isCut })
        #expect(finished.withLock { $0 }.isSuperset(of: alive))
    }

    /// One member's step loop, as the agent runs it.
    struct Survivor {
        let id: Int
        let endpoint: Endpoint
        let membership: Membership
        let options: Group.Options
        /// Of each member's id; nil where values go directly.
        let siteOf: (Int) -> Int?
        let willReduce: () -> Void

        func live(
            operations: UInt64,
            laneCount: Int,
            size: Int,
            address: (Int) -> String
        ) -> [[Float]] {
            var plan = membership.first
            var state = MemberState()
            var sums: [[Float]] = []
            var retained: [Float] = []
            while true {
                guard let rank = plan.ids.firstIndex(of: id) else { return sums }
                let members = plan.ids.indices.map {
                    Member(rank: $0, address: address(plan.ids[$0]), lanes: plan.lanes[$0])
                }
                var group: Group?
                var options = options
                options.sites = plan.ids.compactMap(siteOf)
                do {
                    let opened = try Group.open(
                        endpoint: endpoint,
                        run: testRun,
                        generation: plan.generation,
                        rank: rank,
                        members: members,
                        laneCount: laneCount,
                        secret: testSecret,
                        state: state,
                        deadline: .now + .seconds(20),
                        options: options
                    )
                    group = opened
                    if opened.resolution == .commitReady {
                        sums.append(retained)
                        FailureTests.commitsForward.add(1, ordering: .relaxed)
                    } else if plan.generation > 1 {
                        FailureTests.recomputed.add(1, ordering: .relaxed)
                    }
                    while UInt64(sums.count) < operations {
                        let operation = opened.memberState.committed
                        #expect(operation == UInt64(sums.count))
                        var mine = Computed(
                            operation,
                            plan.lanes[rank],
                            laneCount: laneCount,
                            count: size,
                            width: 2
                        )
                        retained = [Float](repeating: .nan, count: size)
                        willReduce()
                        try mine.reduce(
                            opened,
                            operation,
                            into: &retained,
                            buckets: options.buckets
                        )
                        for lane in 0..<laneCount {
                            #expect(
                                Array(mine.rows[lane * 2..<lane * 2 + 2]) == laneRow(operation, lane, 2)
                            )
                        }
                        sums.append(retained)
                    }
                } catch let error as CollectivesError {
                    if error.code == .diverged || error.code == .mismatch || error.code == .badFrame {
                        Issue.record("member \(id): \(error)")
                        return sums
                    }
                } catch {
                    Issue.record("member \(id): \(error)")
                }
                // A group that is done stays until all are: others may need its links.
                if let group { state = group.memberState }
                let isDone = UInt64(sums.count) == operations
                if !isDone { group?.close() }
                let next = membership.next(after: plan.generation, id: id, isDone: isDone)
                group?.close()
                guard let next else { return sums }
                plan = next
            }
        }
    }

    @Test
    func aLostMemberIsNamedAtOnceAlsoBetweenOperations() throws {
        let lanes = LanePlanner.assign(laneCount: 4, weights: [1, 1])
        let cluster = try TestCluster(2)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let noticed = Mutex<CollectivesError?>(nil)
        let dies = FaultTransport(TCPTransport(), cutAfter: 1000)
        let other = try Endpoint(transport: dies)
        defer { other.close() }
        onThreads(2) { rank in
            if rank == 0 {
                do {
                    let group = try cluster.open(0, members, laneCount: 4) { error in
                        noticed.withLock { $0 = error }
                    }
                    defer { group.close() }
                    let start = ContinuousClock.now
                    while group.failure == nil, start.duration(to: .now) < .seconds(10) {
                        pause(.milliseconds(1))
                    }
                    var sum: [Float] = []
                    var mine = Computed(0, lanes[0], laneCount: 4, count: 0, width: 0)
                    let error = #expect(throws: CollectivesError.self) {
                        try mine.reduce(group, 0, into: &sum)
                    }
                    #expect(error?.code == .peerLost)
                    #expect(error?.ranks == [1])
                    #expect(noticed.withLock { $0?.code } == .peerLost)
                } catch {
                    Issue.record("\(error)")
                }
            } else {
                do {
                    // Dies of its beats: it never begins an operation.
                    let group = try Group.open(
                        endpoint: other,
                        run: testRun,
                        generation: 1,
                        rank: 1,
                        members: members,
                        laneCount: 4,
                        secret: testSecret,
                        deadline: .now + .seconds(20)
                    )
                    while group.failure == nil { pause(.milliseconds(5)) }
                    group.close()
                } catch {
                    Issue.record("\(error)")
                }
            }
        }
    }

    @Test
    func abortEndsABlockedReduceHereAndThere() throws {
        let lanes = LanePlanner.assign(laneCount: 4, weights: [1, 1, 1])
        let cluster = try TestCluster(3)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(3) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: 4)
                defer { group.close() }
                if rank == 2 {
                    // Never comes, so the others wait; it hears of the end all the same.
                    while group.failure == nil { pause(.milliseconds(1)) }
                    #expect(group.failure?.code == .peerAborted)
                    return
                }
                onThreads(rank == 1 ? 2 : 1) { role in
                    if role == 1 {
                        pause(.milliseconds(30))
                        return group.abort("the run was stopped")
                    }
                    var sum = [Float](repeating: 0, count: 100)
                    var mine = Computed(0, lanes[rank], laneCount: 4, count: 100, width: 1)
                    let error = #expect(throws: CollectivesError.self) {
                        try mine.reduce(group, 0, into: &sum)
                    }
                    #expect(error?.code == (rank == 1 ? .aborted : .peerAborted))
                    #expect(rank == 0 || error?.message == "the run was stopped")
                }
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
    }

    @Test
    func leavingOnPurposeIsNoLoss() throws {
        let lanes = LanePlanner.assign(laneCount: 4, weights: [1, 1, 1])
        let cluster = try TestCluster(3)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(3) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: 4)
                var sum = [Float](repeating: 0, count: 1000)
                // The last operation ends for all, however early one of them leaves.
                for operation in UInt64(0)..<5 {
                    var mine = Computed(operation, lanes[rank], laneCount: 4, count: 1000, width: 1)
                    try mine.reduce(group, operation, into: &sum)
                }
                if rank != 0 {
                    group.close()
                    return
                }
                while group.failure == nil { pause(.milliseconds(1)) }
                #expect(group.failure?.code == .peerLeft || group.failure?.code == .peerAborted)
                group.close()
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
    }

    @Test(arguments: [2_000, 9_000, 70_000, 300_000], [Way.tcp, .sealed])
    func aFlippedByteEndsTheLinkNeverTheSum(position: Int, way: Way) throws {
        let lanes = LanePlanner.assign(laneCount: 4, weights: [1, 1])
        let transport = TCPTransport()
        let endpoints = [
            try Endpoint(transport: transport),
            try Endpoint(transport: FaultTransport(transport, flipAt: position)),
        ]
        defer { endpoints.forEach { $0.close() } }
        let members = (0..<2).map { Member(rank: $0, address: endpoints[$0].address, lanes: lanes[$0]) }
        onThreads(2) { rank in
            do {
                let group = try Group.open(
                    endpoint: endpoints[rank],
                    run: testRun,
                    generation: 1,
                    rank: rank,
                    members: members,
                    laneCount: 4,
                    secret: testSecret,
                    deadline: .now + .seconds(20),
                    options: way.options
                )
                defer { group.close() }
                var failure: CollectivesError?
                for operation in UInt64(0)..<8 where failure == nil {
                    var sum = [Float](repeating: 0, count: 20_000)
                    var mine = Computed(operation, lanes[rank], laneCount: 4, count: 20_000, width: 1)
                    do {
                        try mine.reduce(group, operation, into: &sum)
                        #expect(sum == serialTree(wholeTree(4), operation, 20_000))
                    } catch let error as CollectivesError {
                        failure = error
                    }
                }
                #expect(failure?.code == (rank == 0 ? .badFrame : .peerAborted))
                #expect(rank == 1 || failure?.ranks == [1])
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
    }

    @Test
    func nothingLeaksOverAHundredGroups() throws {
        let lanes = LanePlanner.assign(laneCount: 4, weights: [1, 1, 1])
        let cluster = try TestCluster(3)
        let members = cluster.members(lanes)
        let before = Self.openDescriptors(of: cluster)
        onThreads(3) { rank in
            for generation in UInt32(1)...100 {
                do {
                    let group = try cluster.open(rank, members, laneCount: 4, generation: generation)
                    var sum = [Float](repeating: 0, count: 10)
                    var mine = Computed(0, lanes[rank], laneCount: 4, count: 10, width: 1)
                    try mine.reduce(group, 0, into: &sum)
                    group.close()
                } catch {
                    Issue.record("rank \(rank), generation \(generation): \(error)")
                    return
                }
            }
        }
        #expect(Self.openDescriptors(of: cluster) == before)
        cluster.close()
    }

    /// Sockets of this process that belong to the cluster's ports; other tests run beside this one.
    private static func openDescriptors(of cluster: TestCluster) -> Int {
        let ports = Set(
            cluster.endpoints.compactMap { $0.address.split(separator: ":").last.flatMap { Int($0) } }
        )
        return ownSocketPorts().count { ports.contains($0.local) || ports.contains($0.remote) }
    }
}
