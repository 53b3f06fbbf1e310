import Basics
import CShims
import Synchronization
import Testing

@testable import Collectives

#if canImport(Glibc)
import Glibc
#endif

/// Whatever a member or a stranger sends is understood or refused with a name: no crash, no byte read or written beside a
/// buffer, no memory taken on its word.
///
/// The group's thread is played here without a socket: frames as a real member would send them, most of them changed,
/// go into its own loop in pieces of any size. Some thousands by chance here; ten millions under the address sanitizer in
/// `scripts/soak --inputs` (`COORD_SOAK_INPUTS`, `COORD_SOAK_SEED`; the same numbers are the same inputs).
@Suite(.timeLimit(.minutes(120)))
struct FuzzTests {
    private static func number(_ name: String) -> Int? { getenv(name).flatMap { Int(String(cString: $0)) } }
    private static let inputs = number("COORD_SOAK_INPUTS") ?? 20_000
    private static let seed = number("COORD_SOAK_SEED") ?? 1

    @Test
    func framesOfAnyKindAreUnderstoodOrRefused() throws {
        var inputs = 0, session = 0, completed = 0, refused = 0
        var before = 0
        while inputs < Self.inputs * 8 / 10 {
            var generator = SplitMix(UInt64(Self.seed &* 1_000_003 &+ session))
            let play = try FrameSession(&generator)
            switch play.run(&generator) {
            case .completed: completed += 1
            case .refused: refused += 1
            case .open: break
            case .wrong(let what): Issue.record("seed \(Self.seed), session \(session): \(what)")
            }
            inputs += play.frames
            session += 1
            if session == 200 { before = Self.mostResident() }
        }
        // Both must happen, or the inputs are not what they should be.
        #expect(completed > session / 20 && refused > session / 5, "\(completed), \(refused) of \(session)")
        if session > 200 { #expect(Self.mostResident() - before < 512 << 20) }
    }

    @Test
    func whoDoesNotKnowTheSecretProvesNothing() {
        let context = Handshake.Context(
            run: testRun,
            generation: 3,
            rank: 1,
            plan: Digest(of: "plan"),
            secret: testSecret,
            state: MemberState(committed: 4)
        )
        let hello = Handshake.hello(context, to: 0, challenge: Array(repeating: 1, count: 32))
        let reply = Handshake.reply(context, to: hello, challenge: Array(repeating: 2, count: 32))
        let final = Handshake.final(context, hello: hello, reply: reply)
        #expect(Handshake.check(reply: reply, context, hello: hello) != nil)
        #expect(Handshake.check(final: final, context, hello: hello, reply: reply) != nil)
        var generator = SplitMix(UInt64(Self.seed))
        for _ in 0..<(Self.inputs / 10) {
            let changed = [hello.bytes, reply, final].map { mutated($0, &generator) }
            if let other = Handshake.Hello(changed[0]), other.bytes != changed[0] {
                Issue.record("\(changed[0]) is read as \(other)")
            }
            if changed[1] != reply, Handshake.check(reply: changed[1], context, hello: hello) != nil {
                Issue.record("\(changed[1]) is taken for a proof")
            }
            if changed[2] != final,
                Handshake.check(final: changed[2], context, hello: hello, reply: reply) != nil
            {
                Issue.record("\(changed[2]) is taken for a proof")
            }
            let offer = mutated(MemoryOffer.message(nil).bytes, &generator)
            if case .mapped = MemoryOffer.read(offer, []) { Issue.record("\(offer) brings memory") }
        }
    }

    @Test
    func encodedValuesOfAnyKindStayInTheirPlace() {
        let codecs: [PayloadCodec] = [.exact, .bf16, .int8, .topK(fraction: 0.1), .topK(fraction: 1)]
        var generator = SplitMix(UInt64(Self.seed) + 7)
        for round in 0..<(Self.inputs / 10) {
            let codec = codecs[round % codecs.count], count = Int.random(in: 0...300, using: &generator)
            let source = (0..<count).map { laneValue(UInt64(round), 0, $0) }
            var bytes = [UInt8](repeating: 0, count: codec.maximumByteCount(of: count))
            let used = source.withUnsafeBufferPointer { values in
                bytes.withUnsafeMutableBytes { target in
                    values.baseAddress.flatMap { values in
                        target.baseAddress.map { codec.encode(values, count: count, into: $0, left: nil) }
                    } ?? 0
                }
            }
            let changed = mutated(Array(bytes.prefix(used)), &generator)
            // Memory of exactly the size: the sanitizer sees each byte beside it.
            let place = UnsafeMutablePointer<Float>.allocate(capacity: count)
            defer { place.deallocate() }
            place.initialize(repeating: 0, count: count)
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: changed.count, alignment: 1)
            defer { copy.deallocate() }
            copy.copyBytes(from: changed)
            _ = codec.decode(UnsafeRawBufferPointer(copy), into: place, count: count)
        }
    }

    @Test
    func changedRecordsAreNeverOpened() {
        var generator = SplitMix(UInt64(Self.seed) + 13)
        let key = { RecordKey(secret: testSecret, salt: [1], purpose: [2]) }
        var rounds = 0
        while rounds < Self.inputs / 10 {
            rounds += 4
            let wire = FuzzLink()
            let sender = SealedLink(wire, sending: key(), receiving: key())
            let texts = (0..<4).map { index in [UInt8](repeating: UInt8(index), count: 1 + index * 40) }
            for text in texts {
                _ = text.withUnsafeBytes {
                    sender.send($0, and: UnsafeRawBufferPointer(start: nil, count: 0))
                }
            }
            let plain = texts.flatMap { $0 }, changed = mutated(wire.sent.withLock { $0 }, &generator)
            let link = SealedLink(FuzzLink(changed, &generator), sending: key(), receiving: key())
            var came: [UInt8] = [], room = [UInt8](repeating: 0, count: 64)
            while true {
                let progress = room.withUnsafeMutableBytes {
                    link.receive(into: $0, and: UnsafeMutableRawBufferPointer(start: nil, count: 0))
                }
                guard case .moved(let count) = progress else { break }
                came += room.prefix(count)
            }
            if !plain.starts(with: came) { Issue.record("\(changed) is opened as \(came)") }
        }
    }

    /// Bytes of this process in memory, at most so far.
    private static func mostResident() -> Int {
        var usage = rusage()
        getrusage(Int32(RUSAGE_SELF.rawValue), &usage)
        return usage.ru_maxrss * 1024
    }
}

/// Bytes, changed by chance: bits, numbers at their edges, cut, longer, or something else altogether.
func mutated(_ bytes: [UInt8], _ generator: inout SplitMix) -> [UInt8] {
    var bytes = bytes
    for _ in 0..<Int.random(in: 1...3, using: &generator) {
        let at = bytes.isEmpty ? 0 : Int.random(in: 0..<bytes.count, using: &generator)
        switch Int.random(in: 0...6, using: &generator) {
        case 0, 1: if !bytes.isEmpty { bytes[at] ^= 1 << UInt8.random(in: 0...7, using: &generator) }
        case 2: if !bytes.isEmpty { bytes[at] = [0, 1, 127, 128, 255].randomElement(using: &generator) ?? 0 }
        case 3:
            let edge =
                [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF].randomElement(using: &generator) ?? 0
            for index in 0..<4 where at + index < bytes.count {
                bytes[at + index] = UInt8(truncatingIfNeeded: edge >> (8 * index))
            }
        case 4: bytes.removeLast(min(bytes.count, Int.random(in: 0...40, using: &generator)))
        case 5:
            for _ in 0..<Int.random(in: 0...40, using: &generator) {
                bytes.append(UInt8.random(in: 0...255, using: &generator))
            }
        default:
            bytes = (0..<Int.random(in: 0...200, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
        }
    }
    return bytes
}

/// A link to nobody: what was written beforehand is read in pieces of any size; what is sent is kept.
final class FuzzLink: Link {
    private let incoming = Mutex<(bytes: [UInt8], at: Int, pieces: SplitMix)>(([], 0, SplitMix(0)))
    let sent = Mutex<[UInt8]>([])

    init() {}
    init(_ bytes: [UInt8], _ generator: inout SplitMix) {
        let pieces = SplitMix(generator.next())
        incoming.withLock { $0 = (bytes, 0, pieces) }
    }

    var descriptor: Int32 { -1 }
    func add(_ bytes: [UInt8]) { incoming.withLock { $0.bytes += bytes } }
    var isEmpty: Bool { incoming.withLock { $0.at == $0.bytes.count } }

    func receive(
        into first: UnsafeMutableRawBufferPointer,
        and second: UnsafeMutableRawBufferPointer
    ) -> LinkProgress {
        incoming.withLock { state in
            let rest = state.bytes.count - state.at
            guard rest > 0 else { return .wouldBlock }
            let most = min(rest, first.count + second.count)
            let count =
                state.pieces.next() % 2 == 0
                ? most : Int.random(in: 1...most, using: &state.pieces)
            let piece = state.bytes[state.at..<(state.at + count)]
            let split = min(count, first.count)
            first.copyBytes(from: piece.prefix(split))
            second.copyBytes(from: piece.dropFirst(split))
            state.at += count
            return .moved(count)
        }
    }
    func send(_ first: UnsafeRawBufferPointer, and second: UnsafeRawBufferPointer) -> LinkProgress {
        sent.withLock { $0 += Array(first) + Array(second) }
        return .moved(first.count + second.count)
    }
    func finishSending() {}
    func close() {}
}

/// One member's loop, and what a member beside it sends for one or two operations.
private final class FrameSession {
    enum Outcome {
        /// The operation went through.
        case completed
        /// A named failure.
        case refused
        /// More is waited for.
        case open
        case wrong(String)
    }
    private static let lanes = [LaneSet([0, 2]), LaneSet([1, 3])]

    private let shape: OperationShape
    private let loop: CommLoop
    private let link = FuzzLink()
    private let theirs: OperationLedger
    private let contributions: [RawArray]
    private let result: RawArray
    private let rows: UnsafeMutableBufferPointer<Double>
    private var given = UnsafeMutableBufferPointer<UnsafeRawPointer?>(start: nil, count: 0)
    private var feedback: ErrorFeedback?
    private(set) var frames = 0
    private var isChanged = false

    init(_ generator: inout SplitMix) throws {
        let kinds: [OperationForm.Kind] = [
            .allReduce, .allReduce, .reduceScatter, .allGather, .broadcast(root: 0), .broadcast(root: 1),
        ]
        let codec: PayloadCodec =
            [.exact, .exact, .int8, .topK(fraction: 0.2)].randomElement(using: &generator) ?? .exact
        shape = OperationShape(
            elements: Int(exp2(Double.random(in: -1...10, using: &generator)))
                + (generator.next() % 50 == 0 ? 40_000 : 0),
            width: Int.random(in: 0...3, using: &generator),
            codec: codec,
            form: codec == .exact
                ? OperationForm(
                    kinds.randomElement(using: &generator) ?? .allReduce,
                    ElementType.allCases.randomElement(using: &generator) ?? .f32,
                    by: Reduction.allCases.randomElement(using: &generator) ?? .sum
                ) : OperationForm()
        )
        let plan = GroupPlan(
            run: FrameHeader.runNumber(testRun),
            generation: 1,
            rank: 0,
            lanes: Self.lanes,
            tree: try LaneTree(laneCount: 4, lanes: Self.lanes, combines: codec != .exact),
            laneCount: 4,
            owners: [true, generator.next() % 4 > 0],
            silenceLimit: .seconds(3),
            combines: codec != .exact,
            codec: codec
        )
        let shared = GroupShared(state: MemberState(), wake: try WakeEvent())
        loop = CommLoop(plan, shared, [1: link], nil, nil, nil)
        theirs = OperationLedger(
            rank: 1,
            shape: shape,
            subtreeCounts: plan.tree.subtrees.map(\.count),
            laneCounts: Self.lanes.map(\.count),
            owners: plan.owners
        )
        let byteCount = shape.byteCount
        let zeros = [UInt8](repeating: 0, count: byteCount)
        contributions = plan.tree.subtrees[0].map { _ in RawArray(zeros) }
        result = RawArray(zeros)
        rows = .allocate(capacity: 4 * shape.width)
        rows.initialize(repeating: 1)
    }
    deinit {
        rows.deallocate()
        given.deallocate()
    }

    func run(_ generator: inout SplitMix) -> Outcome {
        do throws(CollectivesError) {
            // The caller comes before, between or after what the other member sends.
            let stream = makeStream(&generator)
            let begin = Int.random(in: 0...stream.count, using: &generator)
            for (index, bytes) in stream.enumerated() {
                if index == begin { try post() }
                link.add(bytes)
                frames += 1
                try turn()
            }
            if begin == stream.count { try post() }
            try turn()
        } catch {
            let known: [CollectivesError.Code] = [
                .badFrame, .mismatch, .peerLost, .peerLeft, .peerAborted, .diverged,
            ]
            if !known.contains(error.code) { return .wrong("\(error)") }
            return isChanged || error.code == .diverged || error.code == .peerLeft
                ? .refused
                : .wrong("what a member says is refused: \(error)")
        }
        if let slot = loop.slots.first(where: { $0.shape.byteCount > loop.largest }) {
            return .wrong("memory is taken for \(slot.shape)")
        }
        if loop.current == 1 { return .completed }
        return isChanged ? .open : .wrong("all was said, and nothing committed")
    }

    private func turn() throws(CollectivesError) {
        let member = loop.links[0], now = ContinuousClock.now
        while !member.hasEnded, !member.isStalled, !link.isEmpty { try loop.read(member, now) }
        try loop.flushAll(now)
    }

    private func post() throws(CollectivesError) {
        feedback = shape.codec == .exact ? nil : ErrorFeedback(codec: shape.codec)
        var addresses = contributions.map { UnsafeRawPointer($0.bytes.baseAddress) }
        if let feedback {
            let plan = loop.plan
            let zeros = contributions.map { UnsafePointer($0.bytes.bindMemory(to: Float.self).baseAddress) }
            let segmentation = shape.form.segmentation(elements: shape.elements, owners: plan.owners)
            addresses = [
                UnsafeRawPointer(feedback.prepare(zeros, segmentation: segmentation, rank: 0, settles: false))
            ]
        }
        given = .allocate(capacity: addresses.count)
        _ = given.initialize(from: addresses)
        try loop.begin(
            PostedOperation(
                operation: 0,
                shape: shape,
                contributions: UnsafeBufferPointer(given),
                laneValues: rows,
                result: result.bytes.baseAddress,
                feedback: feedback,
                floatMode: coord_float_mode()
            ),
            .now
        )
        try loop.flushAll(.now)
    }

    /// What member 1 sends: now and then as it should, else changed somewhere.
    private func makeStream(_ generator: inout SplitMix) -> [[UInt8]] {
        var stream = [[UInt8]]()
        func add(_ kind: FrameHeader.Kind, _ payload: [UInt8], _ set: (inout FrameHeader) -> Void = { _ in })
        {
            var header = FrameHeader(kind: kind, run: loop.plan.run, generation: 1, sender: 1)
            (header.elements, header.width) = (UInt32(shape.elements), UInt32(shape.width))
            (header.codec, header.form) = (shape.codec.wire, shape.form.wire)
            set(&header)
            stream.append(Self.sealed(header, payload))
        }
        let size = shape.form.type.byteCount
        func values(_ count: Int) -> [UInt8] {
            guard shape.codec != .exact, count > 0 else { return [UInt8](repeating: 0, count: count * size) }
            let zeros = [Float](repeating: 0, count: count)
            var bytes = [UInt8](repeating: 0, count: shape.codec.maximumByteCount(of: count))
            let used = zeros.withUnsafeBufferPointer { zeros in
                bytes.withUnsafeMutableBytes { target in
                    zeros.baseAddress.flatMap { zeros in
                        target.baseAddress.map {
                            shape.codec.encode(zeros, count: count, into: $0, left: nil)
                        }
                    } ?? 0
                }
            }
            return Array(bytes.prefix(used))
        }
        if shape.width > 0 { add(.laneValues, Array(repeating: 0, count: 2 * shape.width * 8)) }
        let segmentation = theirs.segmentation, mine = loop.plan.tree.subtrees[1]
        for index in 0..<theirs.contributionCount(of: 1, to: 0) {
            let (_, piece, position) = theirs.contribution(index, from: 1, to: 0)
            let range = segmentation.piece(piece, of: 0)
            add(.contribution, values(range.count)) { header in
                (header.segment, header.offset) = (0, UInt32(range.lowerBound))
                (header.subtreeStart, header.subtreeLevel) = (
                    UInt16(mine[position].start), UInt16(mine[position].level)
                )
            }
        }
        if shape.form.returns {
            for piece in 0..<segmentation.pieceCount(of: 1) {
                let range = segmentation.piece(piece, of: 1)
                add(.result, values(range.count)) { header in
                    (header.segment, header.offset) = (1, UInt32(range.lowerBound))
                }
            }
        }
        if generator.next() % 2 == 0 { add(.beat, []) { $0.elements = 0 } }
        // Nobody knows the digest of sums it did not make: mostly the end of it, as with a member that diverged.
        let digest = generator.next() % 2 == 0 ? expectedDigest : Digest(of: "another")
        add(.ready, digest.raw)
        if generator.next() % 8 == 0 { add(.bye, []) { $0.elements = 0 } }
        if generator.next() % 4 > 0 { change(&stream, &generator) }
        return stream
    }

    /// The digest of a result of the zeros and the rows that both give.
    private var expectedDigest: Digest {
        let zeros = RawArray([UInt8](repeating: 0, count: shape.byteCount))
        var fingerprint = ResultFingerprint()
        if let base = zeros.bytes.baseAddress, shape.elements > 0 {
            fingerprint.add(base, 0..<shape.elements, size: shape.form.type.byteCount)
        }
        var all = (0..<4).flatMap {
            Array(repeating: Self.lanes[0].lanes.contains($0) ? 1.0 : 0, count: shape.width)
        }
        return all.withUnsafeMutableBufferPointer { all in
            fingerprint.digest(
                PostedOperation(
                    operation: 0,
                    shape: shape,
                    contributions: UnsafeBufferPointer(start: nil, count: 0),
                    laneValues: all,
                    floatMode: 0
                )
            )
        }
    }

    private func change(_ stream: inout [[UInt8]], _ generator: inout SplitMix) {
        isChanged = true
        for _ in 0..<Int.random(in: 1...2, using: &generator) {
            guard let at = stream.indices.randomElement(using: &generator) else { return }
            switch Int.random(in: 0...7, using: &generator) {
            case 0: stream[at] = mutated(stream[at], &generator)  // the checksum finds it
            case 1: stream.remove(at: at)
            case 2: stream.insert(stream[at], at: at)
            case 3: stream.swapAt(at, stream.startIndex)
            case 4:  // another payload, rightly sealed
                guard let (header, payload) = Self.parts(stream[at]) else { return }
                stream[at] = Self.sealed(
                    header,
                    Array(mutated(payload, &generator).prefix(FrameHeader.maxPayload))
                )
            default:  // another header, rightly sealed
                guard let (_, payload) = Self.parts(stream[at]) else { return }
                let bytes = mutated(Array(stream[at].prefix(56)), &generator) + Array(stream[at][56..<64])
                let header = bytes.count < 64 ? nil : bytes.withUnsafeBytes { try? FrameHeader(parsing: $0) }
                if let header { stream[at] = Self.sealed(header, payload) }
            }
        }
    }

    private static func parts(_ frame: [UInt8]) -> (FrameHeader, [UInt8])? {
        guard frame.count >= FrameHeader.byteCount,
            let header = frame.withUnsafeBytes({ try? FrameHeader(parsing: $0) })
        else { return nil }
        return (header, Array(frame.dropFirst(FrameHeader.byteCount)))
    }

    private static func sealed(_ header: FrameHeader, _ payload: [UInt8]) -> [UInt8] {
        var header = header
        var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        bytes.withUnsafeMutableBytes { target in
            payload.withUnsafeBytes { header.seal(into: target, payload: $0) }
        }
        return bytes + payload
    }
}
