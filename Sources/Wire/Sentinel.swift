internal import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

extension FrameChannel {
    /// Takes a stream that begins with ``bridgeSentinel``, perhaps behind a login shell's chatter.
    ///
    /// - Parameters:
    ///   - descriptor: a socket; closed when this throws.
    ///   - timeoutMilliseconds: how long the whole search may take.
    /// - Throws: ``FrameError``: `.malformed` with what came instead.
    public static func afterSentinel(
        socket descriptor: Int32,
        timeoutMilliseconds: Int32
    ) throws -> FrameChannel {
        let wanted = Array(bridgeSentinel.utf8)
        var seen: [UInt8] = []
        let deadline = ContinuousClock.now + .milliseconds(timeoutMilliseconds)
        do {
            while seen.count < 64 << 10 {
                let left = (deadline - ContinuousClock.now) / .milliseconds(1)
                var watched = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
                guard left > 0, poll(&watched, 1, Int32(left) + 1) != 0 else { throw FrameError.timeout }
                var byte: UInt8 = 0
                guard read(descriptor, &byte, 1) == 1 else { break }
                seen.append(byte)
                if seen.suffix(wanted.count).elementsEqual(wanted) { return FrameChannel(socket: descriptor) }
            }
            if seen.isEmpty { throw FrameError.truncated }
            throw FrameError.malformed(String(decoding: seen.prefix(400), as: UTF8.self))
        } catch {
            UnixSocket.close(descriptor)
            throw error
        }
    }
}
