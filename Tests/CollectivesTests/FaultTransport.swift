import Basics
import Collectives
import Synchronization

#if canImport(Glibc)
import Glibc
#endif

/// A transport whose links break on command: after so many bytes sent, or with one byte changed.
final class FaultTransport: Transport {
    private let base: any Transport
    fileprivate let faults: Faults

    init(
        _ base: any Transport,
        cutAfter: Int = .max,
        flipAt: Int = .max,
        onCut: @escaping @Sendable () -> Void = {}
    ) {
        self.base = base
        faults = Faults(cutAfter: cutAfter, flipAt: flipAt, onCut: onCut)
    }

    func listen(at address: String) throws(CollectivesError) -> any Listener {
        FaultListener(base: try base.listen(at: address), faults: faults)
    }
    func connect(to address: String) throws(CollectivesError) -> any Link {
        FaultLink(base: try base.connect(to: address), faults: faults)
    }
    /// Cuts all links now.
    func cut() { faults.cut() }
    var sharesMemory: Bool { base.sharesMemory }
    var isCut: Bool { faults.state.withLock { $0.isCut } }
    var sent: Int { faults.state.withLock { $0.sent } }
}

final class Faults: Sendable {
    struct State {
        var sent = 0
        var isCut = false
        var links: [Int32] = []
    }
    let state = Mutex(State())
    let cutAfter: Int
    let flipAt: Int
    let onCut: @Sendable () -> Void

    init(cutAfter: Int, flipAt: Int, onCut: @escaping @Sendable () -> Void) {
        self.cutAfter = cutAfter
        self.flipAt = flipAt
        self.onCut = onCut
    }

    func cut() {
        let isFirst = state.withLock { state in
            defer { state.isCut = true }
            if !state.isCut { for link in state.links { _ = shutdown(link, Int32(SHUT_RDWR)) } }
            return !state.isCut
        }
        if isFirst { onCut() }
    }
}

private struct FaultListener: Listener {
    let base: any Listener
    let faults: Faults
    var address: String { base.address }
    var descriptor: Int32 { base.descriptor }
    func accept() -> (any Link)? { base.accept().map { FaultLink(base: $0, faults: faults) } }
    func close() { base.close() }
}

private struct FaultLink: Link {
    let base: any Link
    let faults: Faults

    init(base: any Link, faults: Faults) {
        self.base = base
        self.faults = faults
        faults.state.withLock { state in
            state.links.append(base.descriptor)
            if state.isCut { _ = shutdown(base.descriptor, Int32(SHUT_RDWR)) }
        }
    }

    var descriptor: Int32 { base.descriptor }
    func receive(
        into first: UnsafeMutableRawBufferPointer,
        and second: UnsafeMutableRawBufferPointer
    ) -> LinkProgress { base.receive(into: first, and: second) }

    func send(_ first: UnsafeRawBufferPointer, and second: UnsafeRawBufferPointer) -> LinkProgress {
        let both = Array(first) + Array(second)
        let (sent, isCut) = faults.state.withLock { ($0.sent, $0.isCut) }
        if isCut { return .failed(EPIPE) }
        var bytes = Array(both.prefix(max(0, faults.cutAfter - sent)))
        if bytes.isEmpty { return cut() }
        if faults.flipAt >= sent, faults.flipAt < sent + bytes.count { bytes[faults.flipAt - sent] ^= 0x10 }
        let progress = bytes.withUnsafeBytes {
            base.send($0, and: UnsafeRawBufferPointer(start: nil, count: 0))
        }
        if case .moved(let count) = progress { faults.state.withLock { $0.sent += count } }
        return progress
    }

    private func cut() -> LinkProgress {
        faults.cut()
        return .failed(EPIPE)
    }

    var passesDescriptors: Bool { base.passesDescriptors }
    func pass(_ descriptors: [Int32], with bytes: UnsafeRawBufferPointer) -> LinkProgress {
        base.pass(descriptors, with: bytes)
    }
    func take(
        _ bytes: UnsafeMutableRawBufferPointer
    ) -> (progress: LinkProgress, descriptors: [Int32]) { base.take(bytes) }

    func finishSending() { base.finishSending() }
    func close() {
        // Under the lock: the number may belong to another file right after.
        faults.state.withLock { state in
            state.links.removeAll { $0 == base.descriptor }
            base.close()
        }
    }
}
