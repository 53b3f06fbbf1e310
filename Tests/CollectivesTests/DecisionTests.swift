import Basics
import CShims
import Testing

@testable import Collectives

/// The pure parts: nothing here touches a socket, a thread or a clock.
@Suite
struct DecisionTests {
    private func digest(_ n: UInt8) -> Digest { Digest(of: [n]) }
    private func state(_ committed: UInt64, ready: UInt64? = nil, _ n: UInt8 = 1) -> MemberState {
        MemberState(committed: committed, ready: ready.map { .init(operation: $0, digest: digest(n)) })
    }

    // MARK: Resolution

    @Test
    func aResultThatSomebodyCommittedIsCommittedByTheRest() throws {
        let states = [state(4, ready: 3), state(3, ready: 3), state(3, ready: 3)]
        let newest = try Resolution.decide(rank: 0, states: states)
        #expect(newest.resolution == .recompute)
        #expect(newest.state.committed == 4)
        for rank in 1...2 {
            let decided = try Resolution.decide(rank: rank, states: states)
            #expect(decided.resolution == .commitReady)
            #expect(decided.state.committed == 4)
        }
    }

    @Test
    func aResultThatAllRetainIsCommitted() throws {
        let states = [state(3, ready: 3), state(3, ready: 3)]
        for rank in 0...1 {
            #expect(try Resolution.decide(rank: rank, states: states).resolution == .commitReady)
        }
    }

    @Test
    func aResultThatOneLacksIsComputedAgainByAll() throws {
        let states = [state(3, ready: 3), state(3, ready: 2), state(3)]
        for rank in 0...2 {
            let decided = try Resolution.decide(rank: rank, states: states)
            #expect(decided.resolution == .recompute)
            #expect(decided.state == states[rank])
        }
    }

    @Test
    func whoJoinsStandsWhereTheOthersStandAndHasNoWordInIt() throws {
        let cases: [(states: [MemberState], committed: UInt64)] = [
            ([state(3), state(3), .joining], 3),  // computed again
            ([state(3, ready: 3), state(3, ready: 3), .joining], 4),  // all retain: committed
            ([state(4, ready: 3), state(3, ready: 3), .joining], 4),  // one has committed
            ([state(3, ready: 3), state(3), .joining], 3),  // one retains in vain
        ]
        for (states, committed) in cases {
            let joined = try Resolution.decide(rank: 2, states: states)
            #expect(joined.resolution == .recompute)
            #expect(joined.state == MemberState(committed: committed))
            for rank in 0...1 {
                #expect(try Resolution.decide(rank: rank, states: states).state.committed == committed)
            }
        }
        let alone = #expect(throws: CollectivesError.self) {
            try Resolution.decide(rank: 0, states: [.joining, .joining])
        }
        #expect(alone?.code == .diverged)
    }

    @Test
    func historiesThatDontFitAreNamed() {
        let cases: [([MemberState], [Int])] = [
            ([state(5), state(3, ready: 3)], [1]),  // two behind
            ([state(4), state(3), state(4)], [1]),  // one behind with nothing in hand
            ([state(3, ready: 3, 1), state(3, ready: 3, 2), state(3, ready: 3, 1)], [1]),
            ([state(3, ready: 3, 1), state(3, ready: 3, 2)], [0, 1]),  // no majority
            ([state(4, ready: 3, 1), state(3, ready: 3, 2), state(4, ready: 3, 1)], [1]),
        ]
        for (states, ranks) in cases {
            let error = #expect(throws: CollectivesError.self) {
                try Resolution.decide(rank: 0, states: states)
            }
            #expect(error?.code == .diverged)
            #expect(error?.ranks == ranks)
        }
    }

    @Test
    func beginningAnOperationForgetsWhatWasRetained() {
        var member = state(3, ready: 3)
        #expect(member.retained != nil)
        member.begin()
        #expect(member.ready == nil)
        member.becomeReady(digest(5))
        #expect(member.retained == .init(operation: 3, digest: digest(5)))
        member.commit()
        #expect(member.retained == nil)
        #expect(member.ready?.operation == 3)
        member.begin()
        #expect(member.ready?.operation == 3)  // the committed one stays, to be compared
    }

    // MARK: Ledger

    @Test
    func aPieceIsSummedWhenAllContributionsForItCame() {
        // Two pieces for rank 1; rank 0 sends two subtrees, rank 2 one.
        let size = 3 * 2 * Segmentation.pieceBytes / 4
        var ledger = OperationLedger(
            rank: 1,
            shape: OperationShape(elements: size, width: 1),
            subtreeCounts: [2, 1, 1],
            laneCounts: [2, 1, 1],
            owners: [true, true, true]
        )
        #expect(ledger.segmentation.pieceCount(of: 1) == 2)
        #expect(ledger.summablePiece == nil)
        ledger.received(.contribution, from: 0)
        ledger.received(.contribution, from: 2)
        #expect(ledger.summablePiece == nil)
        ledger.received(.contribution, from: 0)
        #expect(ledger.summablePiece == 0)
        ledger.summed()
        #expect(ledger.summablePiece == nil)
        #expect(ledger.contribution(3, from: 0, to: 1) == (1, 1, 1))
        for rank in [0, 0, 2] { ledger.received(.contribution, from: rank) }
        #expect(ledger.next(.contribution, from: 0) == nil)
        #expect(ledger.summablePiece == 1)
        ledger.summed()
        #expect(!ledger.isComplete)
        for rank in [0, 2] {
            ledger.received(.laneValues, from: rank)
            ledger.received(.result, from: rank)
            #expect(!ledger.isComplete)
            ledger.received(.result, from: rank)
        }
        #expect(ledger.isComplete)
    }

    @Test
    func anOperationIsCommittedByReadyFromAllWithOneDigest() {
        var ledger = OperationLedger(
            rank: 0,
            shape: OperationShape(elements: 0, width: 0),
            subtreeCounts: [1, 0, 0],
            laneCounts: [1, 0, 0],
            owners: [true, true, true]
        )
        #expect(ledger.isComplete)
        func say(_ rank: Int, _ n: UInt8, _ ledger: inout OperationLedger) -> Bool {
            ledger.ready(rank, digest(n))
        }
        var isNew = say(0, 1, &ledger)
        #expect(isNew && ledger.verdict == .open)
        #expect(ledger.awaited == [1, 2])
        isNew = say(2, 1, &ledger)
        #expect(isNew && ledger.verdict == .open)
        var other = ledger
        isNew = say(1, 1, &ledger)
        #expect(isNew && ledger.verdict == .commit)
        isNew = say(1, 1, &ledger)
        #expect(!isNew)
        isNew = say(1, 2, &other)
        #expect(isNew)
        #expect(other.verdict == .diverged([1]))
    }

    @Test(arguments: [0, 1, 15, 16, 17, 1000, 65_536 * 3 + 5], 1...8)
    func segmentsCoverAllValuesOnce(elements: Int, members: Int) {
        let segmentation = Segmentation(elements: elements, owners: Array(repeating: true, count: members))
        var next = 0
        for owner in 0..<members {
            #expect(segmentation.segment(of: owner).lowerBound == next)
            for piece in 0..<segmentation.pieceCount(of: owner) {
                let range = segmentation.piece(piece, of: owner)
                #expect(range.lowerBound == next)
                #expect(range.lowerBound % 16 == 0)
                #expect(!range.isEmpty && range.count * 4 <= FrameHeader.maxPayload)
                next = range.upperBound
            }
            #expect(segmentation.segment(of: owner).upperBound == next)
        }
        #expect(next == elements)
    }

    @Test(arguments: 1...5)
    func bucketsAreCutEachForItself(members: Int) {
        let buckets = [40_000..<100_003, 16..<40_000, 0..<16]
        let segmentation = Segmentation(
            elements: 100_003,
            owners: Array(repeating: true, count: members),
            buckets: buckets
        )
        var covered = [Int](repeating: 0, count: 100_003)
        for owner in 0..<members {
            var values = 0
            for (index, bucket) in buckets.enumerated() {
                let first = segmentation.pieceCount(of: owner, in: index)
                for piece in first..<segmentation.pieceCount(of: owner, in: index + 1) {
                    let range = segmentation.piece(piece, of: owner)
                    #expect(bucket.contains(range.lowerBound) && range.upperBound <= bucket.upperBound)
                    #expect(range.lowerBound % 16 == 0 && !range.isEmpty && range.count <= 16_384)
                    #expect(segmentation.valuesBefore(piece, of: owner) == values)
                    values += range.count
                    for place in range { covered[place] += 1 }
                }
            }
            #expect(segmentation.pieceCount(of: owner, in: 3) == segmentation.pieceCount(of: owner))
            #expect(segmentation.valueCount(of: owner) == values)
        }
        #expect(covered.allSatisfy { $0 == 1 })
    }

    @Test
    func whatIsNotGivenIsNeitherDueNorSummed() {
        var ledger = OperationLedger(
            rank: 0,
            shape: OperationShape(elements: 6400, width: 0),
            subtreeCounts: [2, 0],
            laneCounts: [2, 0],
            owners: [true, true],
            buckets: [3200..<6400, 0..<3200]
        )
        ledger.give(0)
        #expect(ledger.contributionsDue(to: 1) == 0 && ledger.summablePiece == nil)
        ledger.give(1)
        #expect(ledger.contributionsDue(to: 1) == 2 && ledger.summablePiece == 0)
        ledger.summed()
        #expect(ledger.summablePiece == nil)
        ledger.give(.max)
        #expect(ledger.contributionsDue(to: 1) == 4 && ledger.summablePiece == 1)
        ledger.give(0)
        for _ in 0..<2 { ledger.received(.result, from: 1) }
        ledger.summed()
        #expect(!ledger.isComplete)
        ledger.give(2)
        #expect(ledger.isComplete)
        ledger.reset()
        #expect(ledger.contributionsDue(to: 1) == 4)
    }

    @Test
    func onlyOwnersHaveSegments() {
        let segmentation = Segmentation(elements: 1000, owners: [false, true, false, true])
        #expect((0..<4).map(segmentation.segment) == [0..<0, 0..<512, 0..<0, 512..<1000])
        #expect((0..<4).map(segmentation.pieceCount) == [0, 1, 0, 1])
    }

    @Test
    func lanesThatOverlapOrLackAreRefused() {
        #expect(throws: CollectivesError.self) { try LaneTree(laneCount: 2, lanes: [LaneSet([0])]) }
        #expect(throws: CollectivesError.self) {
            try LaneTree(laneCount: 2, lanes: [LaneSet([0, 1]), LaneSet([1])])
        }
        #expect(throws: CollectivesError.self) { try LaneTree(laneCount: 3, lanes: [LaneSet([0, 1, 2])]) }
        #expect(throws: CollectivesError.self) { try LaneTree(laneCount: 2, lanes: [LaneSet([0, 1, 5])]) }
    }

    // MARK: Silence

    @Test
    func onlySilenceThatBlocksIsAFailure() {
        let start = ContinuousClock.now
        var watch = SilenceWatch(members: 3, limit: .seconds(3), now: start)
        var now = start
        for _ in 0..<20 {
            now += .milliseconds(200)
            watch.heard(0, at: now)
            #expect(watch.look(awaited: [0], at: now).isEmpty)
        }
        #expect(watch.look(awaited: [], at: now).isEmpty)
        #expect(watch.look(awaited: [0, 1], at: now) == [1])
    }

    @Test
    func halfASecondOfPauseIsNoLossAndNineTenthsAre() {
        let start = ContinuousClock.now
        var watch = SilenceWatch(members: 2, limit: .milliseconds(900), now: start)
        watch.heard(1, at: start)
        // Stopped just before its next sign of life, for 0.5 s, and heard a little later.
        for milliseconds in stride(from: 20, through: 880, by: 20) {
            #expect(watch.look(awaited: [1], at: start + .milliseconds(milliseconds)).isEmpty)
        }
        #expect(watch.look(awaited: [1], at: start + .milliseconds(900)) == [1])
    }

    @Test
    func theOwnPauseIsNotHeldAgainstTheOthers() {
        let start = ContinuousClock.now
        var watch = SilenceWatch(members: 2, limit: .seconds(3), now: start)
        #expect(watch.look(awaited: [1], at: start + .seconds(60)).isEmpty)
        var now = start + .seconds(60)
        for _ in 0..<14 {
            now += .milliseconds(200)
            #expect(watch.look(awaited: [1], at: now).isEmpty)
        }
        #expect(watch.look(awaited: [1], at: now + .milliseconds(200)) == [1])
    }

    // MARK: Frames

    @Test
    func everyFlippedBitOfAFrameIsNoticed() throws {
        var generator = SplitMix(11)
        let payload = (0..<300).map { _ in UInt8.random(in: 0...255, using: &generator) }
        var header = FrameHeader(kind: .contribution, run: 0x1234_5678_9ABC, generation: 7, sender: 3)
        (header.operation, header.offset, header.elements, header.segment) = (99, 64, 1000, 2)
        var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        bytes.withUnsafeMutableBytes { target in
            payload.withUnsafeBytes { header.seal(into: target, payload: $0) }
        }
        let frame = bytes + payload
        #expect(try isWhole(frame))
        #expect(try frame.withUnsafeBytes { try FrameHeader(parsing: $0) } == header)
        for bit in 0..<(frame.count * 8) {
            var damaged = frame
            damaged[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect((try? isWhole(damaged)) != true, "bit \(bit)")
        }
        for _ in 0..<10_000 {
            var damaged = frame
            for _ in 0..<Int.random(in: 1...20, using: &generator) {
                damaged[Int.random(in: 0..<damaged.count, using: &generator)] ^=
                    UInt8.random(in: 1...255, using: &generator)
            }
            if damaged == frame { continue }
            #expect((try? isWhole(damaged)) != true)
        }
    }

    private func isWhole(_ frame: [UInt8]) throws -> Bool {
        try frame.withUnsafeBytes { bytes in
            let header = try FrameHeader(parsing: bytes)
            let payload = UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.byteCount...])
            let start = UnsafeRawBufferPointer(rebasing: bytes[..<FrameHeader.byteCount])
            return Int(header.length) == payload.count
                && FrameHeader.isIntact(start, header.fingerprint(of: payload))
        }
    }

    @Test
    func checksumsInHardwareAndByTableAgree() {
        #expect(coord_crc32c(0, "123456789", 9) == 0xE306_9283)
        #expect(coord_crc32c_portable(0, "123456789", 9) == 0xE306_9283)
        var generator = SplitMix(3)
        let bytes = (0..<40_000).map { _ in UInt8.random(in: 0...255, using: &generator) }
        bytes.withUnsafeBytes { bytes in
            for _ in 0..<300 {
                let start = Int.random(in: 0..<64, using: &generator)
                let count = Int.random(in: 0...(bytes.count - 64), using: &generator)
                let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<(start + count)])
                let seed = UInt32.random(in: 0...UInt32.max, using: &generator)
                #expect(
                    coord_crc32c(seed, piece.baseAddress, count)
                        == coord_crc32c_portable(seed, piece.baseAddress, count)
                )
            }
        }
    }

    @Test
    func fingerprintsDependOnValuesAndPlacesNotOnPieces() {
        let values = (0..<1003).map { laneValue(1, 2, $0) }
        func print(_ values: [Float], cuts: [Int]) -> [UInt64] {
            var words = [UInt64](repeating: 0, count: 8)
            let edges = [0] + cuts + [values.count]
            for (start, end) in zip(edges, edges.dropFirst()).reversed() {
                values.withUnsafeBufferPointer {
                    let base = $0.baseAddress?.advanced(by: start)
                    coord_fingerprint(&words, base, UInt64(4 * start), 4 * (end - start))
                }
            }
            return words
        }
        let whole = print(values, cuts: [])
        var copy = [Float](repeating: 0, count: values.count), words = [UInt64](repeating: 0, count: 8)
        coord_copy_fingerprint(&words, &copy, values, 0, 4 * values.count)
        #expect(words == whole && copy == values)
        #expect(print(values, cuts: [16, 512, 528]) == whole)
        for index in values.indices {
            var other = values
            other[index] = Float(bitPattern: other[index].bitPattern ^ 1)
            #expect(print(other, cuts: []) != whole)
        }
        for index in 0..<(values.count - 16) {
            var other = values
            other.swapAt(index, index + 16)
            #expect(print(other, cuts: []) != whole)
        }
    }

    #if arch(x86_64)
    @Test
    func sumsAreMadeUnderTheCallersFloatingPointMode() {
        let tiny = [Float](repeating: .leastNonzeroMagnitude * 100, count: 4)
        func sum(_ mode: UInt64) -> [Float] {
            var target = [Float](repeating: -1, count: 4)
            let program: [Int16] = [0, 1, -1]
            tiny.withUnsafeBufferPointer { leaf in
                let leaves = [UnsafeRawPointer(leaf.baseAddress), UnsafeRawPointer(leaf.baseAddress)]
                var words = [UInt64](repeating: 0, count: 8)
                #expect(coord_combine_tree(0, 0, leaves, program, 3, &target, 4, mode, &words, 0) == 0)
            }
            return target
        }
        let before = coord_float_mode()
        let usual: UInt64 = 0x1F80
        #expect(sum(usual) == tiny.map { $0 + $0 })
        #expect(sum(usual | 0x8040) == [0, 0, 0, 0])  // FTZ and DAZ
        #expect(coord_float_mode() == before)
    }
    #endif

    // MARK: Handshake

    @Test
    func anyChangedByteOfTheHandshakeIsRefused() {
        func context(_ rank: Int, _ committed: UInt64) -> Handshake.Context {
            Handshake.Context(
                run: testRun,
                generation: 3,
                rank: rank,
                plan: digest(1),
                secret: testSecret,
                state: state(committed, ready: committed)
            )
        }
        let (listener, dialler) = (context(0, 8), context(1, 9))
        let hello = Handshake.hello(dialler, to: 0, challenge: Array(0..<32))
        let reply = Handshake.reply(listener, to: hello, challenge: Array(32..<64))
        #expect(Handshake.check(reply: reply, dialler, hello: hello)?.state == listener.state)
        let final = Handshake.final(dialler, hello: hello, reply: reply)
        #expect(Handshake.check(final: final, listener, hello: hello, reply: reply) == dialler.state)

        for index in hello.bytes.indices {
            var bytes = hello.bytes
            bytes[index] ^= 4
            guard let other = Handshake.Hello(bytes) else { continue }
            let answer = Handshake.reply(listener, to: other, challenge: Array(32..<64))
            #expect(Handshake.check(reply: answer, dialler, hello: hello) == nil, "hello byte \(index)")
        }
        for index in reply.indices {
            var bytes = reply
            bytes[index] ^= 4
            #expect(Handshake.check(reply: bytes, dialler, hello: hello) == nil, "reply byte \(index)")
        }
        for index in final.indices {
            var bytes = final
            bytes[index] ^= 4
            let said = Handshake.check(final: bytes, listener, hello: hello, reply: reply)
            #expect(said == nil, "final byte \(index)")
        }
        // A listener's proof reflected back is not a dialler's.
        let reflected = Array(final.prefix(64)) + reply.suffix(32)
        #expect(Handshake.check(final: reflected, listener, hello: hello, reply: reply) == nil)
    }

    @Test
    func addressesAreNumericWithAPort() throws {
        #expect(try TCPTransport.parse("127.0.0.1:80") == ("127.0.0.1", 80))
        #expect(try TCPTransport.parse("127.0.0.1") == ("127.0.0.1", 0))
        #expect(try TCPTransport.parse("[::1]:4711") == ("::1", 4711))
        for bad in ["", ":80", "::1", "127.0.0.1:x", "127.0.0.1:70000", "[::1", "[::1]x"] {
            #expect(throws: CollectivesError.self, "\(bad)") { try TCPTransport.parse(bad) }
        }
        #expect(throws: CollectivesError.self) { try TCPTransport().listen(at: "localhost:0") }
    }
}
