internal import Basics
internal import CSSH
internal import Glibc

/// One stream: a channel on one side, our end of a socket pair on the other.
///
/// Belongs to the thread of its ``StreamPump``.
final class PumpedStream {
    private let session: SSHSession
    /// Nil when the stream is over: the channel closes when it goes.
    private var channel: SSHChannel?
    private let local: Int32
    /// Told before the socket is closed.
    var beforeClose: (@Sendable (StreamEnd) -> Void)?
    /// Told when all is over.
    var onEnd: (@Sendable (StreamEnd) -> Void)?
    /// How the stream ended; nil while it is open.
    private(set) var end: StreamEnd?

    private let fromRemote = UnsafeMutableRawBufferPointer.allocate(
        byteCount: SSHChannel.window + PumpedStream.gathered,
        alignment: 16
    )
    private let fromLocal = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
    private var inbound = 0..<0
    private var outbound = 0..<0
    private var remoteEnded = false
    private var localEnded = false
    private var listenerGone = false
    /// When a stream that nobody has on the other side any more is given up.
    private var giveUp: Deadline?
    private var didShutDown = false
    private var errors: [UInt8] = []

    /// How long a command may go on once nobody listens and its input is over.
    private static let grace = Duration.seconds(2)

    /// How long a command may go on once its output and its input are both over.
    ///
    /// Whether anybody still listens can't be told then: a socket shut down on both sides looks closed.
    private static let linger = Duration.seconds(30)

    /// How much is collected before it is handed on; unit: bytes.
    private static let gathered = 256 << 10

    /// Takes the channel and our end of the socket pair.
    init(_ session: SSHSession, _ channel: SSHChannel, local: Int32) {
        self.session = session
        self.channel = channel
        self.local = local
    }

    deinit {
        fromRemote.deallocate()
        fromLocal.deallocate()
    }

    /// Moves what can be moved without waiting; true when something moved.
    ///
    /// - Throws: ``RemoteError`` when the connection is lost.
    func move() throws -> Bool {
        guard let channel else { return false }
        var moved = receive(channel)
        moved = send(channel) || moved
        if remoteEnded, inbound.isEmpty {
            // A broken connection closes its channels too: whoever it carried must hear why before the end.
            if channel.isForward, session.isBroken { throw session.lost(.stream) }
            if !didShutDown {
                didShutDown = true
                shutdown(local, Int32(SHUT_WR))
            }
            channel.takeEnd()
            let isOver =
                channel.isForward
                ? channel.isClosed || localEnded && outbound.isEmpty : channel.exit != nil
            if isOver {
                finish(nil)
                return true
            }
            if session.isBroken { throw session.lost(.stream) }
            if channel.isClosed {
                finish(session.lost(.stream, "it closed the channel without a word"))
                return true
            }
        }
        if session.isBroken, !moved { throw session.lost(.stream) }
        if giveUp?.hasPassed == true || channel.isForward && listenerGone { finish(nil) }
        return moved
    }

    /// Ends the stream: closes the channel and tells the listener.
    func finish(_ error: RemoteError?) {
        guard end == nil else { return }
        let end = StreamEnd(exit: channel?.exit, errors: errors, error: error)
        self.end = end
        channel = nil
        beforeClose?(end)
        // Unread bytes in a closed socket would turn the other side's end of file into an error.
        shutdown(local, Int32(SHUT_RDWR))
        while recv(local, fromLocal.baseAddress, fromLocal.count, Int32(MSG_DONTWAIT)) > 0 {}
        close(local)
    }

    /// Moves bytes from the command to the socket; true when something moved.
    private func receive(_ channel: SSHChannel) -> Bool {
        var moved = false
        if inbound.isEmpty, !remoteEnded {
            // Packets bring 32 KB at most: gathered, they wake the reader less often.
            var n = 0
            let arrived = session.arrived
            while n < Self.gathered {
                let rest = UnsafeMutableRawBufferPointer(rebasing: fromRemote[n..<n + SSHChannel.window])
                let more = channel.read(into: rest, hasPacket: arrived - n >= SSHChannel.packet)
                guard more > 0 else { break }
                n += more
            }
            if n > 0 {
                inbound = 0..<n
                moved = true
            } else {
                let n = channel.read(into: fromRemote, errors: true)
                if n > 0 {
                    // A full standard error would hold the command up; its end tells most.
                    errors += fromRemote[..<n]
                    if errors.count > StreamEnd.limit { errors.removeFirst(errors.count - StreamEnd.limit) }
                    moved = true
                } else if channel.isAtEnd {
                    remoteEnded = true
                    moved = true
                }
            }
        }
        guard !inbound.isEmpty else { return moved }
        if listenerGone {
            inbound = 0..<0
            return true
        }
        let rest = UnsafeRawBufferPointer(rebasing: fromRemote[inbound])
        let n = systemSend(local, rest.baseAddress, rest.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
        if n > 0 {
            inbound = (inbound.lowerBound + n)..<inbound.upperBound
            return true
        }
        if n < 0, errno != EAGAIN, errno != EINTR { listenerGone = true }
        return moved
    }

    /// Moves bytes from the socket to the command; true when something moved.
    private func send(_ channel: SSHChannel) -> Bool {
        var moved = false
        if outbound.isEmpty, !localEnded {
            let n = recv(local, fromLocal.baseAddress, fromLocal.count, Int32(MSG_DONTWAIT))
            if n > 0 {
                outbound = 0..<n
                moved = true
            } else if n == 0 || (errno != EAGAIN && errno != EINTR) {
                localEnded = true
                moved = true
            }
        }
        if !outbound.isEmpty {
            switch channel.write(UnsafeRawBufferPointer(rebasing: fromLocal[outbound])) {
            case nil:
                // The command reads no more; what its socket still brings goes nowhere.
                outbound = 0..<0
            case 0?: break
            case let n?:
                outbound = (outbound.lowerBound + n)..<outbound.upperBound
                moved = true
            }
        }
        if localEnded, outbound.isEmpty {
            channel.endInput()
            if listenerGone, giveUp == nil {
                giveUp = Deadline(after: didShutDown ? Self.linger : Self.grace)
            }
        }
        return moved
    }

    /// What the socket is waited for.
    var watched: pollfd {
        var events = Int16(0)
        if !inbound.isEmpty { events |= Int16(POLLOUT) }
        if outbound.isEmpty, !localEnded { events |= Int16(POLLIN) }
        // With no events asked for, the socket still tells when its other end was closed for good.
        return pollfd(fd: listenerGone ? -1 : local, events: events, revents: 0)
    }

    /// True when something of the other side could be taken now.
    var listens: Bool { inbound.isEmpty || !outbound.isEmpty }

    /// Takes what the wait has seen of the socket.
    func saw(_ events: Int16) {
        if events & Int16(POLLHUP | POLLERR) != 0 { listenerGone = true }
    }
}

/// Carries the streams of one connection, on a thread of its own, until all are over.
///
/// Each channel has a window of its own, so a stream whose reader waits holds up no other; what has arrived for it is
/// kept up to that window.
struct StreamPump {
    let session: SSHSession
    let streams: [PumpedStream]

    /// Blocks until all streams are over, then closes the connection.
    ///
    /// - Parameter release: closes the connection; a stream that ends last is told of its end after that.
    func run(release: () -> Void) {
        var open = streams
        while true {
            var moved = false
            do {
                for stream in open { moved = try stream.move() || moved }
            } catch {
                fail(open, error)
            }
            let ended = open.filter { $0.end != nil }
            open.removeAll { $0.end != nil }
            if open.isEmpty { release() }
            for stream in ended { if let end = stream.end { stream.onEnd?(end) } }
            if open.isEmpty { return }
            guard !moved, ended.isEmpty else { continue }
            var watched = open.map(\.watched)
            do {
                try session.wait(.stream, listens: open.contains(where: \.listens), others: &watched)
            } catch {
                fail(open, error)
                continue
            }
            for (stream, seen) in zip(open, watched) { stream.saw(seen.revents) }
        }
    }

    /// A stream that is over for itself stays so; the others share the connection's end.
    private func fail(_ streams: [PumpedStream], _ error: any Error) {
        let error = error as? RemoteError ?? session.lost(.stream)
        for stream in streams { stream.finish(error) }
    }
}

// Inside the class the name `send` is ours.
private func systemSend(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int, _ flags: Int32) -> Int
{
    send(descriptor, bytes, count, flags)
}
