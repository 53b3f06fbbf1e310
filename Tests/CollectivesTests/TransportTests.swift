import Collectives
import Testing

/// What every transport must do; runs on each of them.
@Suite(.timeLimit(.minutes(5)))
struct TransportTests {
    private func pair(_ way: Way) throws -> (any Listener, any Link, any Link) {
        let transport = way.make()
        let listener = try transport.listen(at: way.address)
        let dialled = try transport.connect(to: listener.address)
        var accepted: (any Link)?
        let deadline = ContinuousClock.now + .seconds(10)
        while accepted == nil, ContinuousClock.now < deadline { accepted = listener.accept() }
        return (listener, dialled, try #require(accepted))
    }

    private func send(_ link: any Link, _ first: [UInt8], _ second: [UInt8] = []) -> LinkProgress {
        first.withUnsafeBytes { first in second.withUnsafeBytes { link.send(first, and: $0) } }
    }

    private func receive(_ link: any Link, _ first: Int, _ second: Int = 0) -> (LinkProgress, [UInt8]) {
        var bytes = [UInt8](repeating: 0, count: first + second)
        let deadline = ContinuousClock.now + .seconds(10)
        while true {
            let progress = bytes.withUnsafeMutableBytes {
                link.receive(
                    into: UnsafeMutableRawBufferPointer(rebasing: $0[..<first]),
                    and: UnsafeMutableRawBufferPointer(rebasing: $0[first...])
                )
            }
            if progress != .wouldBlock || ContinuousClock.now > deadline { return (progress, bytes) }
        }
    }

    @Test(arguments: Way.allCases)
    func bytesArriveInOrderInBothDirections(way: Way) throws {
        let (listener, a, b) = try pair(way)
        defer { listener.close(); a.close(); b.close() }
        #expect(send(a, [1, 2, 3], [4, 5]) == .moved(5))
        #expect(receive(b, 2, 10) == (.moved(5), [1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0]))
        #expect(send(b, [], [9]) == .moved(1))
        #expect(receive(a, 0, 4) == (.moved(1), [9, 0, 0, 0]))
    }

    @Test(arguments: Way.allCases)
    func aFullStreamDoesNotBlockAndLosesNothing(way: Way) throws {
        let (listener, a, b) = try pair(way)
        defer { listener.close(); a.close(); b.close() }
        let block = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        var sent = 0
        while case .moved(let count) = send(a, block) {
            sent += count
            if count < block.count { break }
            #expect(sent < 1 << 30)
        }
        #expect(sent > 0)
        var came = 0
        while came < sent {
            guard case .moved(let count) = receive(b, min(sent - came, 65_536)).0 else { break }
            came += count
        }
        #expect(came == sent)
    }

    @Test(arguments: Way.allCases)
    func theEndIsSeenAfterTheLastByte(way: Way) throws {
        let (listener, a, b) = try pair(way)
        defer { listener.close(); b.close() }
        #expect(send(a, [7]) == .moved(1))
        a.finishSending()
        #expect(receive(b, 4).0 == .moved(1))
        #expect(receive(b, 4).0 == .ended)
        #expect(send(b, [8]) == .moved(1))  // the other direction still stands
        #expect(receive(a, 4).0 == .moved(1))
        a.close()
    }

    @Test(arguments: Way.allCases)
    func aClosedListenerRefuses(way: Way) throws {
        let transport = way.make()
        let listener = try transport.listen(at: way.address)
        let address = listener.address
        listener.close()
        // Either at once or at the first use.
        guard let link = try? transport.connect(to: address) else { return }
        defer { link.close() }
        guard case .failed = receive(link, 1).0 else {
            Issue.record("a link to a closed listener stands")
            return
        }
    }
}
