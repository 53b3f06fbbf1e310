import Basics
import Synchronization
import Testing

@testable import Collectives

/// What goes over a wire that others read and write.
@Suite(.timeLimit(.minutes(5)))
struct SealedLinkTests {
    /// A wire in memory: what one end writes lies in the open until the other reads it.
    private final class Wire: Link {
        let bytes = Mutex<[UInt8]>([])
        let descriptor: Int32 = -1

        func send(_ first: UnsafeRawBufferPointer, and second: UnsafeRawBufferPointer) -> LinkProgress {
            bytes.withLock { $0 += Array(first) + Array(second) }
            return .moved(first.count + second.count)
        }
        func receive(
            into first: UnsafeMutableRawBufferPointer,
            and second: UnsafeMutableRawBufferPointer
        ) -> LinkProgress {
            bytes.withLock { bytes in
                let count = min(first.count, bytes.count)
                if count == 0 { return .wouldBlock }
                first.copyBytes(from: bytes.prefix(count))
                bytes.removeFirst(count)
                return .moved(count)
            }
        }
        func finishSending() {}
        func close() {}
    }

    private let wire = Wire()
    private let key = RecordKey(secret: testSecret, salt: [1, 2], purpose: [3])
    private var sender: SealedLink { SealedLink(wire, sending: key, receiving: key) }

    private func send(_ link: SealedLink, _ text: [UInt8]) {
        let progress = text.withUnsafeBytes {
            link.send(
                UnsafeRawBufferPointer(rebasing: $0[..<(text.count / 2)]),
                and: UnsafeRawBufferPointer(rebasing: $0[(text.count / 2)...])
            )
        }
        #expect(progress == .moved(text.count))
    }

    private func receive(_ link: SealedLink, _ count: Int) -> (LinkProgress, [UInt8]) {
        var bytes = [UInt8](repeating: 0, count: count)
        let progress = bytes.withUnsafeMutableBytes {
            link.receive(into: $0, and: UnsafeMutableRawBufferPointer(start: nil, count: 0))
        }
        return (progress, bytes)
    }

    private let text = Array("the gradient of lane 3, and what follows it".utf8)

    @Test
    func bytesArriveAndNobodyOnTheWayReadsThem() {
        let sender = sender, receiver = self.sender
        send(sender, text)
        send(sender, text)
        let seen = wire.bytes.withLock { $0 }
        #expect(seen.count == 2 * (text.count + 24))
        // The same text twice looks different, and no word of it shows.
        #expect(seen.prefix(seen.count / 2).dropFirst(8) != seen.suffix(seen.count / 2).dropFirst(8))
        #expect(!seen.indices.dropLast(8).contains { Array(seen[$0..<($0 + 8)]) == Array("gradient".utf8) })
        let (progress, first) = receive(receiver, 10)
        #expect(progress == .moved(10) && receiver.hasUnread)
        let rest = receive(receiver, 200)
        #expect(rest.0 == .moved(text.count - 10))
        #expect(first + rest.1.prefix(text.count - 10) == text)
        #expect(receive(receiver, 200).0 == .moved(text.count))
        #expect(receive(receiver, 200).0 == .wouldBlock)
    }

    @Test
    func everyFlippedBitIsNoticedAtOnce() {
        let sender = sender
        send(sender, text)
        let record = wire.bytes.withLock { $0 }
        for index in record.indices {
            for bit in 0..<8 {
                wire.bytes.withLock {
                    $0 = record
                    $0[index] ^= 1 << bit
                }
                #expect(
                    receive(self.sender, 100).0 == .failed(SealedLink.brokenSeal),
                    "byte \(index) bit \(bit)"
                )
            }
        }
    }

    @Test
    func aRecordThatIsRepeatedDroppedOrMovedIsNoticed() {
        let sender = sender
        for value in UInt8(1)...3 { send(sender, Array(repeating: value, count: 40)) }
        let all = wire.bytes.withLock { $0 }
        let records = (0..<3).map { Array(all[$0 * 64..<($0 + 1) * 64]) }
        for (order, good) in [([0, 0], 1), ([0, 2], 1), ([1], 0), ([0, 1, 1], 2)] {
            wire.bytes.withLock { $0 = order.flatMap { records[$0] } }
            let receiver = self.sender
            for _ in 0..<good { #expect(receive(receiver, 40).0 == .moved(40)) }
            #expect(receive(receiver, 40).0 == .failed(SealedLink.brokenSeal), "\(order)")
        }
    }

    @Test
    func keysDifferForEachConnectionAndDirection() throws {
        let context = Handshake.Context(
            run: testRun,
            generation: 1,
            rank: 1,
            plan: Digest(of: "plan"),
            secret: testSecret,
            state: MemberState()
        )
        func record(_ key: RecordKey) -> [UInt8] {
            var target = [UInt8](repeating: 0, count: 32)
            target.withUnsafeMutableBytes { target in
                [UInt8](repeating: 7, count: 16).withUnsafeBytes {
                    key.seal(
                        $0,
                        counter: 0,
                        authenticating: UnsafeRawBufferPointer(start: nil, count: 0),
                        into: target
                    )
                }
            }
            return target
        }
        var seen = Set<[UInt8]>()
        for challenge in UInt8(0)..<4 {
            let hello = Handshake.hello(
                context,
                to: 0,
                wantsSealing: challenge & 1 == 0,
                challenge: Array(repeating: challenge, count: 32)
            )
            let reply = Handshake.reply(context, to: hello, challenge: Array(repeating: 9, count: 32))
            #expect(Handshake.isSealed(hello: hello, reply: reply) == (challenge & 1 == 0))
            let keys = Handshake.keys(context, hello: hello, reply: reply)
            seen.insert(record(keys.dialler))
            seen.insert(record(keys.listener))
        }
        #expect(seen.count == 8)
    }

    /// One side is enough, and both know.
    @Test(arguments: [[LinkSealing.never, .always], [.always, .never], [.never, .never]])
    func oneSideThatAsksIsEnough(sealing: [LinkSealing]) throws {
        let cluster = try TestCluster(2)
        defer { cluster.close() }
        let members = cluster.members([LaneSet([0]), LaneSet([1])])
        let isSealed = sealing[0] == .always || sealing[1] == .always
        onThreads(2) { rank in
            do {
                var options = Group.Options()
                options.sealing = sealing[rank]
                let group = try cluster.open(rank, members, laneCount: 2, options: options)
                defer { group.close() }
                var mine = Computed(0, members[rank].lanes, laneCount: 2, count: 50_000, width: 1)
                var sum = [Float](repeating: 0, count: 50_000)
                try mine.reduce(group, 0, into: &sum)
                #expect(sum == serialTree(wholeTree(2), 0, 50_000))
                #expect(group.ways.map(\.isSealed) == [isSealed])
            } catch {
                Issue.record("rank \(rank): \(error)")
            }
        }
    }
}
