import Basics
import Glibc
import Testing

@testable import Wire

@Suite(.timeLimit(.minutes(5))) struct FrameChannelTests {
    private func pair() throws -> (FrameChannel, FrameChannel, Int32) {
        let (a, b) = try UnixSocket.pair()
        return (FrameChannel(socket: a), FrameChannel(socket: b), a)
    }

    @Test func framesArriveInOrderAndWhole() throws {
        let (a, b, _) = try pair()
        let big = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0) }
        OSThread.start(name: "sender") {
            try? a.send(TrainerCommand.stop)
            try? a.send(Frame(.bytes, big))
            a.close()
        }
        let first = try #require(try b.receive())
        #expect(try MessageCoding.decode(TrainerCommand.self, from: first.payload) == .stop)
        #expect(try b.receive() == Frame(.bytes, big))
        #expect(try b.receive() == nil)
    }

    /// A channel over two pipes, as a bridge hands them over: ours, the far side's, and the bridge's end of its life.
    private func bridged() throws -> (FrameChannel, FrameChannel, life: Int32) {
        var (up, down): ([Int32], [Int32]) = ([-1, -1], [-1, -1])
        try #require(pipe(&up) == 0 && pipe(&down) == 0)
        let (ours, theirs) = try UnixSocket.pair()
        return (
            FrameChannel(reading: up[0], writing: down[1], life: ours),
            FrameChannel(reading: down[0], writing: up[1]), theirs
        )
    }

    @Test func framesPassThroughPipesThatWereHandedOver() throws {
        let (channel, far, life) = try bridged()
        defer { UnixSocket.close(life) }
        // More than a pipe holds, both ways.
        let big = (0..<5_000_000).map { UInt8(truncatingIfNeeded: $0) }
        OSThread.start(name: "echo") {
            while let frame = try? channel.receive() { try? channel.send(frame) }
        }
        for count in [big.count, 1, 0] {
            let sent = Mailbox<Void>()
            OSThread.start(name: "sender") {
                try? far.send(Frame(.bytes, Array(big[..<count])))
                sent.put(())
            }
            #expect(try far.receive() == Frame(.bytes, Array(big[..<count])))
            sent.take()
        }
        // No event ends a receive with a deadline early, nor keeps it.
        let (silent, quiet, other) = try bridged()
        #expect(throws: FrameError.timeout) { try silent.receive(timeoutMilliseconds: 20) }
        withExtendedLifetime(quiet) {}
        UnixSocket.close(other)
    }

    @Test(arguments: [true, false])
    func aSocketForWhatFollowsCarriesPipesThatWereHandedOver(endsHere: Bool) throws {
        let (first, far, life) = try bridged()
        var channel: FrameChannel? = consume first
        try far.send(Frame(.message, [1]))
        #expect(try channel?.receive() == Frame(.message, [1]))
        let near = FrameChannel(socket: try #require(try channel?.duplicateSocket()))
        channel = nil
        let big = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 >> 3) }
        OSThread.start(name: "echo") {
            while let frame = try? near.receive() { try? near.send(frame) }
            near.close()
        }
        OSThread.start(name: "sender") { try? far.send(Frame(.bytes, big)) }
        #expect(try far.receive() == Frame(.bytes, big))
        // The end of one side is the end of the other.
        if endsHere {
            near.close()
            var byte: UInt8 = 0
            #expect(recv(life, &byte, 1, 0) == 0)
            UnixSocket.close(life)
        } else {
            UnixSocket.close(life)
        }
        #expect(throws: Never.self) { while try near.receive() != nil {} }
    }

    @Test(arguments: [true, false])
    func whoWaitsForPipesHearsTheEnd(isOurs: Bool) throws {
        let (channel, far, life) = try bridged()
        let heard = Mailbox<Result<Frame?, any Error>>()
        let failed = Mailbox<Bool>()
        OSThread.start(name: "reader") { heard.put(Result { try channel.receive() }) }
        OSThread.start(name: "writer") {
            // Nobody reads: this fills the pipe and waits.
            do {
                try channel.send(Frame(.bytes, [UInt8](repeating: 0, count: 8 << 20)))
                failed.put(false)
            } catch {
                failed.put(true)
            }
        }
        if isOurs {
            channel.close()
            var byte: UInt8 = 0
            #expect(read(life, &byte, 1) == 0)
        }
        UnixSocket.close(life)
        #expect(try heard.take().get() == nil)
        #expect(failed.take())
        withExtendedLifetime(far) {}
    }

    @Test(arguments: [
        [UInt8](arrayLiteral: 255, 255, 255, 255, 1), [0, 0, 0, 0], [2, 0, 0, 0, 77, 1], [0, 0, 0, 3, 1],
    ])
    func lyingHeadsEndTheConversation(bytes: [UInt8]) throws {
        let (a, b, raw) = try pair()
        try bytes.withUnsafeBytes { try Files.writeAll($0, to: raw, path: "socket") }
        a.close()
        #expect(throws: FrameError.self) { while try b.receive() != nil {} }
    }

    @Test func aFrameThatIsCutOffIsAnError() throws {
        let (a, b, raw) = try pair()
        try [UInt8](arrayLiteral: 10, 0, 0, 0, 1, 65).withUnsafeBytes {
            try Files.writeAll($0, to: raw, path: "socket")
        }
        a.close()
        #expect(throws: FrameError.truncated) { try b.receive() }
    }

    @Test func aFrameThatBeginsAndThenStallsIsATimeout() throws {
        let (a, b, raw) = try pair()
        for bytes: [UInt8] in [[232, 3], [0, 0, 1], [65]] {
            try bytes.withUnsafeBytes { try Files.writeAll($0, to: raw, path: "socket") }
        }
        #expect(throws: FrameError.timeout) { try b.receive(timeoutMilliseconds: 50) }
        a.close()
    }

    @Test func aFrameLongerThanTheReaderTakesIsRefusedBeforeItIsRead() throws {
        let (a, b, _) = try pair()
        try a.send(Frame(.bytes, [UInt8](repeating: 1, count: 1001)))
        #expect(throws: FrameError.malformed("length 1002")) { try b.receive(limit: 1000) }
        a.close()
    }

    @Test func nothingInTimeIsATimeout() throws {
        let (a, b, _) = try pair()
        #expect(throws: FrameError.timeout) { try b.receive(timeoutMilliseconds: 20) }
        a.close()
    }

    @Test func aLoginShellsChatterBeforeTheSentinelIsSkipped() throws {
        let (a, b) = try UnixSocket.pair()
        let chatter = "Welcome!\nCOORD-BRIDGE- no\n" + bridgeSentinel
        try Array(chatter.utf8).withUnsafeBytes { try Files.writeAll($0, to: a, path: "socket") }
        let far = FrameChannel(socket: a)
        try far.send(TrainerCommand.stop)
        let near = try FrameChannel.afterSentinel(socket: b, timeoutMilliseconds: 5000)
        #expect(try near.receive() != nil)
        far.close()
    }

    @Test func aStreamWithoutASentinelIsReportedWithWhatCame() throws {
        let (a, b) = try UnixSocket.pair()
        try Array("bash: no such file\n".utf8).withUnsafeBytes {
            try Files.writeAll($0, to: a, path: "socket")
        }
        UnixSocket.close(a)
        let error = #expect(throws: FrameError.self) {
            _ = try FrameChannel.afterSentinel(socket: b, timeoutMilliseconds: 5000)
        }
        #expect(error == .malformed("bash: no such file\n"))
    }

    @Test func aSecretShowsItselfToNobody() {
        #expect("\(WireSecret([1, 2, 3]))" == "[redacted]")
    }
}
