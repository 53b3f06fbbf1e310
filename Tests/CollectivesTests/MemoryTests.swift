import Basics
import CShims
import Synchronization
import Testing

@testable import Collectives

#if canImport(Glibc)
import Glibc
#endif

/// Members of one machine: who shares memory, who does not, and what a member that lies in memory can do.
@Suite(.timeLimit(.minutes(5)))
struct MemoryTests {
    private let lanes = [LaneSet([0]), LaneSet([1])]

    /// Buffers from the endpoint's arena, so that nothing is copied in.
    @Test(arguments: [2, 3, 5], [16, 8192, 8193, 300_001])
    func valuesAreReadWhereTheyLie(count: Int, size: Int) throws {
        let sets = LanePlanner.assign(laneCount: 8, weights: Array(repeating: 1, count: count))
        let cluster = try TestCluster(count, .memory)
        defer { cluster.close() }
        let members = cluster.members(sets)
        let expected = serialTree(wholeTree(8), 3, size)
        onThreads(count) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: 8)
                defer { group.close() }
                let arena = try #require(cluster.endpoints[rank].memory)
                let sum = try #require(arena.allocate(size))
                let mine = Computed(3, sets[rank], laneCount: 8, count: size, width: 1)
                let values = try mine.values.map { values in
                    let buffer = try #require(arena.allocate(size))
                    _ = buffer.update(from: values)
                    return UnsafeBufferPointer(buffer)
                }
                for operation in UInt64(0)..<4 {
                    sum.update(repeating: .nan)
                    var rows = mine.rows
                    try group.reduce(
                        operation: operation,
                        contributions: Array(zip(mine.subtrees, values)),
                        laneValues: &rows,
                        sum: sum
                    )
                    #expect(Array(sum) == expected)
                    #expect(rows == (0..<8).flatMap { laneRow(3, $0, 1) })
                }
                #expect(group.ways.map(\.kind) == Array(repeating: .memory, count: count - 1))
                // Signs of life at most: the values went another way.
                #expect(group.counters.bytesSent < 4096 * count)
                #expect(group.counters.bytesThroughMemory == 4 * bytesRead(rank, sets, size))
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
    }

    /// Bytes that a member reads of the others' values in one all-reduce.
    private func bytesRead(_ rank: Int, _ sets: [LaneSet], _ size: Int) -> Int {
        let foreign = sets.indices.filter { $0 != rank }.map { sets[$0].subtrees(laneCount: 8).count }.reduce(
            0,
            +
        )
        if size <= 8192 { return 4 * size * foreign }
        let segmentation = Segmentation(elements: size, owners: sets.map { _ in true })
        let mine = segmentation.segment(of: rank).count
        return 4 * (mine * foreign + size - mine)
    }

    @Test
    func aMemberThatIsElsewhereMakesAllUseLinks() throws {
        let sets = LanePlanner.assign(laneCount: 4, weights: [1, 1, 1])
        // The last one has no unix socket: to the others it is as far away as any address.
        let endpoints = [
            try Endpoint(transport: DirectTransport()), try Endpoint(transport: DirectTransport()),
            try Endpoint(transport: TCPTransport()),
        ]
        defer { endpoints.forEach { $0.close() } }
        let members = sets.indices.map { Member(rank: $0, address: endpoints[$0].address, lanes: sets[$0]) }
        let ways = Mutex<[Int: [String]]>([:])
        onThreads(3) { rank in
            do {
                let group = try Group.open(
                    endpoint: endpoints[rank],
                    run: testRun,
                    generation: 1,
                    rank: rank,
                    members: members,
                    laneCount: 4,
                    secret: testSecret,
                    deadline: .now + .seconds(20)
                )
                defer { group.close() }
                for operation in UInt64(0)..<3 {
                    var mine = Computed(operation, sets[rank], laneCount: 4, count: 20_000, width: 1)
                    var sum = [Float](repeating: 0, count: 20_000)
                    try mine.reduce(group, operation, into: &sum)
                    #expect(sum == serialTree(wholeTree(4), operation, 20_000))
                }
                ways.withLock { $0[rank] = group.ways.map(\.description) }
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
        let told = ways.withLock { $0 }
        #expect(
            told[0] == [
                "local: rank 2: it is not on this machine", "network: rank 2: it is not on this machine",
            ]
        )
        #expect(told[2]?.allSatisfy { $0.hasPrefix("network: ") } == true)
    }

    /// A member 0 with a group, and what a member 1 holds that proved itself and then does as it likes.
    private func withLiar(
        says: @escaping @Sendable (OwnControl) -> Void,
        limit: Duration = .seconds(3),
        count: Int = 20_000
    ) throws -> CollectivesError? {
        let cluster = try TestCluster(2, .memory)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let result = Mutex<CollectivesError?>(nil)
        let isOver = Atomic(false)
        onThreads(2) { rank in
            do {
                if rank == 0 {
                    var options = Group.Options()
                    options.silenceLimit = limit
                    defer { isOver.store(true, ordering: .releasing) }
                    let group = try cluster.open(0, members, laneCount: 2, options: options)
                    defer { group.close() }
                    var mine = Computed(0, lanes[0], laneCount: 2, count: count, width: 1)
                    var sum = [Float](repeating: 0, count: count)
                    do {
                        try mine.reduce(group, 0, into: &sum)
                    } catch let error as CollectivesError {
                        result.withLock { $0 = error }
                    }
                } else {
                    let plan = GroupPlan(
                        run: FrameHeader.runNumber(testRun),
                        generation: 1,
                        rank: 1,
                        lanes: lanes,
                        tree: try LaneTree(laneCount: 2, lanes: lanes),
                        laneCount: 2,
                        owners: [true, true],
                        silenceLimit: .seconds(3)
                    )
                    let offer = try #require(MemoryOffer(cluster.endpoints[1]))
                    let met = try Meeting.meet(
                        endpoint: cluster.endpoints[1],
                        context: Handshake.Context(
                            run: testRun,
                            generation: 1,
                            rank: 1,
                            plan: plan.digest,
                            secret: testSecret,
                            state: MemberState()
                        ),
                        addresses: members.map(\.address),
                        dials: [0],
                        offer: offer,
                        deadline: .now + .seconds(20)
                    )
                    offer.control.publish(1, at: ControlBlock.vote, wakes: [])
                    says(offer.control)
                    while !isOver.load(ordering: .acquiring) {
                        // It wakes nobody by itself, so the other side's sleep is rung from here.
                        offer.control.publish(
                            offer.control.word(ControlBlock.posted),
                            at: ControlBlock.posted,
                            wakes: []
                        )
                        coordWake(offer.control)
                        pause(.milliseconds(1))
                    }
                    met[0]?.link.close()
                }
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
        return result.withLock { $0 }
    }

    private func post(_ control: OwnControl, elements: UInt64, width: UInt64 = 1, at place: UInt64 = 0) {
        control.write(elements, at: ControlBlock.elements)
        control.write(width, at: ControlBlock.width)
        control.write(place, at: ControlBlock.rows)
        control.write(place, at: ControlBlock.result)
        control.write(place, at: ControlBlock.contributions)
        control.publish(1, at: ControlBlock.posted, wakes: [])
    }

    @Test(arguments: [UInt64.max, UInt64.max - 63, UInt64(1) << 62, UInt64(1), UInt64(1) << 50])
    func aPlaceOutsideTheMemoryIsNamed(place: UInt64) throws {
        let error = try withLiar { post($0, elements: 20_000, at: place) }
        #expect(error?.code == .badFrame)
        #expect(error?.ranks == [1])
    }

    @Test
    func anotherShapeIsAMismatch() throws {
        #expect(try withLiar { post($0, elements: 19_999) }?.code == .mismatch)
        #expect(try withLiar { post($0, elements: 20_000, width: .max) }?.code == .mismatch)
    }

    @Test
    func aResultThatIsNotTheSumIsDivergence() throws {
        // Its memory is all zeros: also the pieces that it says it has summed.
        let error = try withLiar { control in
            post(control, elements: 20_000)
            control.publish(UInt64.max, at: ControlBlock.pieces, wakes: [])
            control.publish(ready: Digest(of: "lie"), of: 0, wakes: [])
        }
        #expect(error?.code == .diverged)
        #expect(error?.ranks == [0, 1])
    }

    @Test(arguments: [0, 20_000])
    func silenceWhileAnOperationWaitsIsNamed(count: Int) throws {
        let start = ContinuousClock.now
        let error = try withLiar(says: { _ in }, limit: .seconds(1), count: count)
        #expect(error?.code == .peerSilent)
        #expect(error?.ranks == [1])
        #expect(start.duration(to: .now) < .seconds(3))
    }

    @Test
    func nobodyElseCanWriteOrShrinkIt() throws {
        let region = try SharedRegion(name: "test", byteCount: 8192)
        #expect(mmap(nil, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, region.descriptor, 0) == MAP_FAILED)
        #expect(ftruncate(region.descriptor, 4096) == -1)
        #expect(pwrite(region.descriptor, [1], 1, 0) == -1)
        let peer = try PeerRegion(taking: dup(region.descriptor))
        region.base.storeBytes(of: 77, toByteOffset: 8000, as: UInt64.self)
        #expect(peer.base.load(fromByteOffset: 8000, as: UInt64.self) == 77)
        // What may still shrink could fault under a reader: it is not mapped.
        let name = "/dev/shm/coord-test-\(getpid())"
        let loose = coord_open(name, O_RDWR | O_CREAT, 0o600)
        unlink(name)
        #expect(ftruncate(loose, 8192) == 0)
        #expect(throws: CollectivesError.self) { try PeerRegion(taking: loose) }
    }

    @Test
    func theArenaGivesWhatIsFreeAndNoMore() throws {
        let arena = try SharedArena()
        let first = try #require(arena.allocate(1000)), second = try #require(arena.allocate(100_000))
        #expect(Int(bitPattern: first.baseAddress) % 64 == 0 && Int(bitPattern: second.baseAddress) % 64 == 0)
        first.update(repeating: 1)
        second.update(repeating: 2)
        #expect(first.allSatisfy { $0 == 1 })
        let address = try #require(second.baseAddress)
        #expect(arena.offset(of: address, byteCount: 400_000) != nil)
        #expect(arena.offset(of: address + 1, byteCount: 4) == nil)
        arena.free(second)
        #expect(arena.allocate(100_000)?.baseAddress == address)
        #expect(arena.allocate(1 << 50) == nil)
    }
}

private func coordWake(_ control: OwnControl) {
    coord_futex_wake((control.region.base + ControlBlock.bell).assumingMemoryBound(to: UInt32.self))
}

extension OwnControl {
    fileprivate func word(_ place: Int) -> UInt64 { region.base.load(fromByteOffset: place, as: UInt64.self) }
}
