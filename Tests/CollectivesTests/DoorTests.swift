import Basics
import Synchronization
import Testing

@testable import Collectives

#if canImport(Glibc)
import Glibc
#endif

/// What strangers, zombies and frozen members can do: nothing.
@Suite(.timeLimit(.minutes(5)))
struct DoorTests {
    private let lanes = [LaneSet([0]), LaneSet()]

    private func context(
        _ rank: Int,
        generation: UInt32 = 1,
        secret: Redacted<[UInt8]> = testSecret
    ) throws -> Handshake.Context {
        let plan = GroupPlan(
            run: FrameHeader.runNumber(testRun),
            generation: generation,
            rank: rank,
            lanes: lanes,
            tree: try LaneTree(laneCount: 1, lanes: lanes),
            laneCount: 1,
            owners: lanes.map { _ in true },
            silenceLimit: .seconds(3)
        )
        return Handshake.Context(
            run: testRun,
            generation: generation,
            rank: rank,
            plan: plan.digest,
            secret: secret,
            state: MemberState()
        )
    }

    /// A member 0 with a group, and a raw link that proved to be member 1.
    private func withRawPeer(
        options: Group.Options = Group.Options(),
        _ body: (Group, any Link) throws -> Void
    ) throws {
        let cluster = try TestCluster(2)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let group = Mutex<Group?>(nil)
        let link = Mutex<(any Link)?>(nil)
        let context = try context(1)
        onThreads(2) { rank in
            do {
                if rank == 0 {
                    let opened = try cluster.open(0, members, laneCount: 1, options: options)
                    group.withLock { $0 = opened }
                } else {
                    let met = try Meeting.meet(
                        endpoint: cluster.endpoints[1],
                        context: context,
                        addresses: members.map(\.address),
                        dials: [0],
                        deadline: .now + .seconds(20)
                    )
                    link.withLock { $0 = met[0]?.link }
                }
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
        let opened = try #require(group.withLock { $0 })
        let raw = try #require(link.withLock { $0 })
        defer {
            opened.close()
            raw.close()
        }
        try body(opened, raw)
    }

    /// Any side of a pair may be the one that dials, as long as one does.
    @Test(arguments: [
        [[], [0], [0, 1]], [[1, 2], [2], []], [[1], [2], [0]],
    ])
    func whoDialsIsForThePlanToSay(dials: [[Int]]) throws {
        let cluster = try TestCluster(3)
        defer { cluster.close() }
        let members = cluster.members([LaneSet([0]), LaneSet([1]), LaneSet([2, 3])])
        let sums = Mutex<[[Float]]>([])
        onThreads(3) { rank in
            do {
                let group = try cluster.open(rank, members, laneCount: 4, dials: Set(dials[rank]))
                defer { group.close() }
                var computed = Computed(0, members[rank].lanes, laneCount: 4, count: 100, width: 1)
                var sum = [Float](repeating: 0, count: 100)
                try computed.reduce(group, 0, into: &sum)
                sums.withLock { $0.append(sum) }
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
        let expected = serialTree(wholeTree(4), 0, 100)
        #expect(sums.withLock { $0 } == [expected, expected, expected])
    }

    private func send(
        _ link: any Link,
        _ kind: FrameHeader.Kind,
        generation: UInt32 = 1,
        operation: UInt64 = 0,
        _ payload: [UInt8] = []
    ) {
        var header = FrameHeader(
            kind: kind,
            run: FrameHeader.runNumber(testRun),
            generation: generation,
            sender: 1
        )
        header.operation = operation
        var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        bytes.withUnsafeMutableBytes { target in
            payload.withUnsafeBytes { header.seal(into: target, payload: $0) }
        }
        send(link, raw: bytes + payload)
    }

    private func send(_ link: any Link, raw bytes: [UInt8]) {
        let progress = bytes.withUnsafeBytes {
            link.send($0, and: UnsafeRawBufferPointer(start: nil, count: 0))
        }
        #expect(progress == .moved(bytes.count))
    }

    /// Reads until a frame of that kind came.
    private func receive(_ link: any Link, _ kind: FrameHeader.Kind) throws -> [UInt8] {
        var bytes: [UInt8] = []
        let deadline = ContinuousClock.now + .seconds(10)
        while ContinuousClock.now < deadline {
            var buffer = [UInt8](repeating: 0, count: 4096)
            let progress = buffer.withUnsafeMutableBytes {
                link.receive(into: $0, and: UnsafeMutableRawBufferPointer(start: nil, count: 0))
            }
            if case .moved(let count) = progress {
                bytes += buffer.prefix(count)
            } else {
                pause(.milliseconds(1))
            }
            while bytes.count >= FrameHeader.byteCount {
                let header = try bytes.withUnsafeBytes { try FrameHeader(parsing: $0) }
                let end = FrameHeader.byteCount + Int(header.length)
                if bytes.count < end { break }
                let payload = Array(bytes[FrameHeader.byteCount..<end])
                if header.kind == kind { return payload }
                bytes.removeFirst(end)
            }
        }
        throw CollectivesError(.deadlineExceeded, "no \(kind) frame came")
    }

    /// Runs an empty operation in `group` on a thread of its own beside `body`.
    private func reduce(
        _ group: Group,
        beside body: @escaping @Sendable () throws -> Void
    ) -> CollectivesError? {
        let result = Mutex<CollectivesError?>(nil)
        onThreads(2) { role in
            do {
                if role == 1 { return try body() }
                var sum: [Float] = []
                var mine = Computed(0, LaneSet([0]), laneCount: 1, count: 0, width: 0)
                try mine.reduce(group, 0, into: &sum)
            } catch let error as CollectivesError where role == 0 {
                result.withLock { $0 = error }
            } catch {
                Issue.record("\(error)")
            }
        }
        return result.withLock { $0 }
    }

    @Test
    func framesOfAnotherGenerationAreDroppedAndCounted() throws {
        try withRawPeer { group, link in
            let error = reduce(group) {
                // A zombie's word on the very operation: it must not count.
                self.send(link, .ready, generation: 0, [UInt8](repeating: 9, count: 32))
                let digest = try self.receive(link, .ready)
                self.send(link, .ready, digest)
            }
            #expect(error == nil)
            #expect(group.memberState.committed == 1)
            #expect(group.counters.framesDropped == 1)
        }
    }

    @Test
    func anotherDigestIsDivergenceWithNames() throws {
        try withRawPeer { group, link in
            let error = reduce(group) { self.send(link, .ready, [UInt8](repeating: 9, count: 32)) }
            #expect(error?.code == .diverged)
            #expect(error?.ranks == [0, 1])
        }
    }

    @Test
    func aFrozenMemberIsNamedInTime() throws {
        var options = Group.Options()
        options.silenceLimit = .milliseconds(800)
        try withRawPeer(options: options) { group, link in
            let start = ContinuousClock.now
            let error = reduce(group) {}
            #expect(error?.code == .peerSilent)
            #expect(error?.ranks == [1])
            #expect(start.duration(to: .now) < .seconds(5))
            // The result stood here already: the next generation may need it.
            #expect(group.memberState.retained?.operation == 0)
            _ = link
        }
    }

    @Test
    func silenceWithoutAnOperationIsNoFailure() throws {
        var options = Group.Options()
        options.silenceLimit = .milliseconds(300)
        try withRawPeer(options: options) { group, link in
            pause(.milliseconds(700))
            #expect(group.failure == nil)
            _ = link
        }
    }

    @Test(arguments: [
        [UInt8](repeating: 0x41, count: 200),  // no magic
        Array("GET / HTTP/1.1\r\nHost: here\r\n\r\n".utf8) + [UInt8](repeating: 0xFF, count: 4096),
    ])
    func garbageOnALinkEndsIt(bytes: [UInt8]) throws {
        try withRawPeer { group, link in
            let error = reduce(group) { self.send(link, raw: bytes) }
            #expect(error?.code == .badFrame)
            #expect(error?.ranks == [1])
        }
    }

    @Test
    func aHugeLengthEndsTheLinkWithoutAnAllocation() throws {
        try withRawPeer { group, link in
            let error = reduce(group) {
                var header = FrameHeader(
                    kind: .contribution,
                    run: FrameHeader.runNumber(testRun),
                    generation: 1,
                    sender: 1
                )
                var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
                bytes.withUnsafeMutableBytes {
                    header.seal(into: $0, payload: UnsafeRawBufferPointer(start: nil, count: 0))
                    $0.storeBytes(of: UInt32.max, toByteOffset: 56, as: UInt32.self)
                }
                self.send(link, raw: bytes)
            }
            #expect(error?.code == .badFrame)
        }
    }

    @Test
    func aWrongSecretIsRefused() throws {
        let cluster = try TestCluster(2)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(2) { rank in
            let secret = rank == 0 ? testSecret : Redacted([UInt8](repeating: 8, count: 32))
            let error = #expect(throws: CollectivesError.self) {
                try cluster.open(rank, members, laneCount: 1, within: .milliseconds(600), secret: secret)
            }
            #expect(error?.code == (rank == 0 ? .deadlineExceeded : .handshakeRefused))
            #expect(error?.ranks == [1 - rank])
        }
        #expect(cluster.endpoints[1].counters.refused == 1)
    }

    @Test
    func aDiallerThatCannotProveTheSecretIsRefusedAndCounted() throws {
        let cluster = try TestCluster(1)
        defer { cluster.close() }
        let members = [
            Member(rank: 0, address: cluster.endpoints[0].address, lanes: LaneSet([0])),
            Member(rank: 1, address: "127.0.0.1:1", lanes: LaneSet()),
        ]
        let context = try context(1, secret: Redacted([1, 2, 3]))
        onThreads(2) { role in
            if role == 0 {
                let error = #expect(throws: CollectivesError.self) {
                    try cluster.open(0, members, laneCount: 1, within: .milliseconds(700))
                }
                #expect(error?.code == .deadlineExceeded)
            } else {
                do {
                    let client = try RawClient(cluster.endpoints[0].address)
                    defer { client.close() }
                    let hello = Handshake.hello(context, to: 0, challenge: Sealing.randomBytes(32))
                    client.send(hello.bytes)
                    let reply = client.receive(Handshake.replyBytes)
                    client.send(Handshake.final(context, hello: hello, reply: reply))
                    #expect(client.receive(1).isEmpty)  // closed
                } catch {
                    Issue.record("\(error)")
                }
            }
        }
        #expect(cluster.endpoints[0].counters.refused == 1)
    }

    @Test
    func anEarlyConnectionWaitsAndALateOneIsClosed() throws {
        let cluster = try TestCluster(2)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        onThreads(2) { rank in
            do {
                if rank == 0 { pause(.milliseconds(150)) }
                try cluster.open(rank, members, laneCount: 1, generation: 5).close()
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
        #expect(cluster.endpoints[0].counters.stale == 0)
        let client = try RawClient(cluster.endpoints[0].address)
        defer { client.close() }
        let context = try context(1, generation: 4)
        client.send(Handshake.hello(context, to: 0, challenge: Sealing.randomBytes(32)).bytes)
        #expect(client.receive(1).isEmpty)
        #expect(cluster.endpoints[0].counters.stale == 1)
        #expect(throws: CollectivesError.self) {
            try cluster.open(0, members, laneCount: 1, generation: 5)
        }
    }

    @Test
    func strangersAreBoundedInNumberAndTime() throws {
        var limits = Endpoint.Limits()
        limits.pending = 4
        limits.patience = .milliseconds(300)
        let endpoint = try Endpoint(transport: TCPTransport(), limits: limits)
        defer { endpoint.close() }
        // One talks nonsense, one drips, eight say nothing.
        let noise = try RawClient(endpoint.address)
        noise.send([UInt8](repeating: 0x2A, count: 5000))
        #expect(noise.receive(1).isEmpty)
        #expect(endpoint.counters.garbage == 1)
        let slow = try RawClient(endpoint.address)
        slow.send([0x43])
        let silent = try (0..<8).map { _ in try RawClient(endpoint.address) }
        for client in silent + [slow] { #expect(client.receive(1).isEmpty) }
        let counters = endpoint.counters
        #expect(counters.accepted == 10)
        #expect(counters.evicted + counters.expired + counters.ended == 9)
        #expect(counters.evicted >= 1)
        (silent + [slow, noise]).forEach { $0.close() }
    }

    @Test
    func anotherPlanIsRefusedByName() throws {
        let cluster = try TestCluster(2)
        defer { cluster.close() }
        onThreads(2) { rank in
            let mine = rank == 0 ? [LaneSet([0]), LaneSet([1])] : [LaneSet([1]), LaneSet([0])]
            let error = #expect(throws: CollectivesError.self) {
                try cluster.open(rank, cluster.members(mine), laneCount: 2, within: .milliseconds(700))
            }
            #expect(error?.code == .mismatch || (rank == 0 && error?.code == .deadlineExceeded))
            #expect(error?.ranks == [1 - rank])
        }
    }

    @Test
    func missingMembersAreNamed() throws {
        let cluster = try TestCluster(1)
        defer { cluster.close() }
        let members = [
            Member(rank: 0, address: "127.0.0.1:1", lanes: LaneSet([0])),
            Member(rank: 1, address: cluster.endpoints[0].address, lanes: LaneSet()),
        ]
        let error = #expect(throws: CollectivesError.self) {
            try Group.open(
                endpoint: cluster.endpoints[0],
                run: testRun,
                generation: 1,
                rank: 1,
                members: members,
                laneCount: 1,
                secret: testSecret,
                deadline: .now + .milliseconds(200)
            )
        }
        #expect(error?.code == .deadlineExceeded)
        #expect(error?.ranks == [0])
        #expect(error?.message.contains("connection refused") == true)
    }
}

/// A TCP client that blocks, with a deadline.
struct RawClient {
    private let link: any Link
    init(_ address: String) throws {
        link = try TCPTransport().connect(to: address)
        var polls = PollSet()
        polls.add(link.descriptor, read: false, write: true)
        polls.wait(until: .now + .seconds(5))
    }
    func send(_ bytes: [UInt8]) {
        _ = bytes.withUnsafeBytes { link.send($0, and: UnsafeRawBufferPointer(start: nil, count: 0)) }
    }
    /// Reads that many bytes, fewer when the other side closes.
    func receive(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            var polls = PollSet()
            polls.add(link.descriptor, read: true, write: false)
            polls.wait(until: .now + .seconds(10))
            var buffer = [UInt8](repeating: 0, count: count - bytes.count)
            let progress = buffer.withUnsafeMutableBytes {
                link.receive(into: $0, and: UnsafeMutableRawBufferPointer(start: nil, count: 0))
            }
            guard case .moved(let came) = progress else { break }
            bytes += buffer.prefix(came)
        }
        return bytes
    }
    func close() { link.close() }
}
