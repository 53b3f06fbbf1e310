internal import Basics
internal import CSSH
internal import Glibc

/// Carries bytes between one channel and one socket, on a thread of its own, until both are done.
struct StreamPump {
    let session: SSHSession
    let channel: SSHChannel
    /// Our end of the socket pair.
    let local: Int32

    /// How long a command may go on once nobody listens and its input is over.
    private static let grace = Duration.seconds(2)

    /// How long a command may go on once its output and its input are both over.
    ///
    /// Whether anybody still listens can't be told then: a socket shut down on both sides looks closed.
    private static let linger = Duration.seconds(30)

    /// How much is collected before it is handed on; unit: bytes.
    private static let gathered = 256 << 10

    private struct Progress {
        var inbound = 0..<0
        var outbound = 0..<0
        var remoteEnded = false
        var localEnded = false
        var listenerGone = false
        /// When a stream that nobody has on the other side any more is given up.
        var giveUp: Deadline?
        var didShutDown = false
        var errors: [UInt8] = []
    }

    /// Blocks until the stream is over; closes neither the socket nor the session.
    func run() -> StreamEnd {
        let fromRemote = UnsafeMutableRawBufferPointer.allocate(
            byteCount: SSHChannel.window + Self.gathered,
            alignment: 16
        )
        let fromLocal = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
        defer {
            fromRemote.deallocate()
            fromLocal.deallocate()
        }
        var state = Progress()
        do {
            while true {
                var moved = receive(&state, fromRemote)
                moved = try send(&state, fromLocal) || moved
                if state.remoteEnded, state.inbound.isEmpty {
                    if !state.didShutDown {
                        state.didShutDown = true
                        shutdown(local, Int32(SHUT_WR))
                    }
                    channel.takeEnd()
                    if channel.exit != nil { break }
                    if session.isBroken { throw session.lost(.stream) }
                    if channel.isClosed {
                        throw session.lost(.stream, "it closed the channel without a word")
                    }
                }
                if session.isBroken, !moved { throw session.lost(.stream) }
                if state.giveUp?.hasPassed == true { break }
                if !moved { try wait(&state) }
            }
            return StreamEnd(exit: channel.exit, errors: state.errors, error: nil)
        } catch {
            return StreamEnd(exit: channel.exit, errors: state.errors, error: error as? RemoteError)
        }
    }

    /// Moves bytes from the command to the socket; true when something moved.
    private func receive(_ state: inout Progress, _ buffer: UnsafeMutableRawBufferPointer) -> Bool {
        var moved = false
        if state.inbound.isEmpty, !state.remoteEnded {
            // Packets bring 32 KB at most: gathered, they wake the reader less often.
            var n = 0
            while n < Self.gathered {
                let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[n..<n + SSHChannel.window])
                let more = channel.read(into: rest)
                guard more > 0 else { break }
                n += more
            }
            if n > 0 {
                state.inbound = 0..<n
                moved = true
            } else {
                let n = channel.read(into: buffer, errors: true)
                if n > 0 {
                    // A full standard error would hold the command up; its end tells most.
                    state.errors += buffer[..<n]
                    if state.errors.count > StreamEnd.limit {
                        state.errors.removeFirst(state.errors.count - StreamEnd.limit)
                    }
                    moved = true
                } else if channel.isAtEnd {
                    state.remoteEnded = true
                    moved = true
                }
            }
        }
        guard !state.inbound.isEmpty else { return moved }
        if state.listenerGone {
            state.inbound = 0..<0
            return true
        }
        let rest = UnsafeRawBufferPointer(rebasing: buffer[state.inbound])
        let n = systemSend(local, rest.baseAddress, rest.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
        if n > 0 {
            state.inbound = (state.inbound.lowerBound + n)..<state.inbound.upperBound
            return true
        }
        if n < 0, errno != EAGAIN, errno != EINTR { state.listenerGone = true }
        return moved
    }

    /// Moves bytes from the socket to the command; true when something moved.
    private func send(_ state: inout Progress, _ buffer: UnsafeMutableRawBufferPointer) throws -> Bool {
        var moved = false
        if state.outbound.isEmpty, !state.localEnded {
            let n = recv(local, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
            if n > 0 {
                state.outbound = 0..<n
                moved = true
            } else if n == 0 || (errno != EAGAIN && errno != EINTR) {
                state.localEnded = true
                moved = true
            }
        }
        if !state.outbound.isEmpty {
            switch channel.write(UnsafeRawBufferPointer(rebasing: buffer[state.outbound])) {
            case nil:
                // The command reads no more; what its socket still brings goes nowhere.
                state.outbound = 0..<0
            case 0?: break
            case let n?:
                state.outbound = (state.outbound.lowerBound + n)..<state.outbound.upperBound
                moved = true
            }
        }
        if state.localEnded, state.outbound.isEmpty {
            channel.endInput()
            if state.listenerGone, state.giveUp == nil {
                state.giveUp = Deadline(after: state.didShutDown ? Self.linger : Self.grace)
            }
        }
        return moved
    }

    private func wait(_ state: inout Progress) throws {
        var events = Int16(0)
        if !state.inbound.isEmpty { events |= Int16(POLLOUT) }
        if state.outbound.isEmpty, !state.localEnded { events |= Int16(POLLIN) }
        // With no events asked for, the socket still tells when its other end was closed for good.
        let watched = pollfd(fd: state.listenerGone ? -1 : local, events: events, revents: 0)
        let listens = state.inbound.isEmpty || !state.outbound.isEmpty
        let seen = try session.wait(.stream, listens: listens, other: watched)
        if seen.revents & Int16(POLLHUP | POLLERR) != 0 { state.listenerGone = true }
    }
}

// Inside `StreamPump` the name `send` is ours.
private func systemSend(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int, _ flags: Int32) -> Int
{
    send(descriptor, bytes, count, flags)
}
