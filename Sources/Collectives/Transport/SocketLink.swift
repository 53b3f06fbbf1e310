internal import CShims

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A stream over a connected, nonblocking socket.
struct SocketLink: Link {
    let descriptor: Int32
    /// True for a unix socket to another process.
    var passesDescriptors = false

    var staysOnMachine: Bool { coord_is_loopback(descriptor) != 0 }

    func receive(
        into first: UnsafeMutableRawBufferPointer,
        and second: UnsafeMutableRawBufferPointer
    ) -> LinkProgress {
        let count = coord_receive(
            descriptor,
            first.baseAddress,
            first.count,
            second.baseAddress,
            second.count
        )
        return count == 0 ? .ended : Self.progress(count)
    }

    func send(_ first: UnsafeRawBufferPointer, and second: UnsafeRawBufferPointer) -> LinkProgress {
        Self.progress(
            coord_send(descriptor, first.baseAddress, first.count, second.baseAddress, second.count)
        )
    }

    func pass(_ descriptors: [Int32], with bytes: UnsafeRawBufferPointer) -> LinkProgress {
        let count = Int32(descriptors.count)
        return Self.progress(
            coord_send_descriptors(descriptor, bytes.baseAddress, bytes.count, descriptors, count)
        )
    }

    func take(
        _ bytes: UnsafeMutableRawBufferPointer
    ) -> (progress: LinkProgress, descriptors: [Int32]) {
        var descriptors: [Int32] = [-1, -1, -1, -1]
        var came = Int32(descriptors.count)
        let count = coord_receive_descriptors(descriptor, bytes.baseAddress, bytes.count, &descriptors, &came)
        return (count == 0 ? .ended : Self.progress(count), Array(descriptors.prefix(Int(came))))
    }

    func finishSending() { _ = shutdown(descriptor, Int32(SHUT_WR)) }

    func close() { closeDescriptor(descriptor) }

    private static func progress(_ count: Int) -> LinkProgress {
        if count >= 0 { return .moved(count) }
        return count == -Int(EAGAIN) ? .wouldBlock : .failed(Int32(-count))
    }
}

/// close(2), under a name that methods called `close` don't hide.
func closeDescriptor(_ descriptor: Int32) { _ = close(descriptor) }

/// An event that one thread polls for and others signal; closed with its owner.
final class WakeEvent: Sendable {
    let descriptor: Int32

    init() throws(CollectivesError) {
        descriptor = coord_event_make()
        guard descriptor >= 0 else {
            throw CollectivesError(.system, "no descriptor left for an event (\(systemText(-descriptor)))")
        }
    }
    deinit { closeDescriptor(descriptor) }

    func signal() { coord_event_signal(descriptor) }
    func clear() { coord_event_clear(descriptor) }
}
