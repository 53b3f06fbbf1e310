internal import Basics
internal import CShims
internal import Dispatch
internal import Synchronization
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A place on this host that others try, and measure against: says its token, echoes bytes, sends many.
final class ProbeListener: Sendable {
    /// Where it listens.
    let address: String
    /// What it says first.
    let token: [UInt8]

    private static let limit = 64
    /// How long one visitor may stay: it waits until those before it have been measured.
    private static let patience = Duration.seconds(60)

    private let socket: Int32
    private let isOpen = Mutex(true)
    private let visitors = DispatchSemaphore(value: limit)

    /// Listens until ``close()``.
    ///
    /// - Throws: ``AgentError`` when `bind` is no address of this machine.
    init(bind: String) throws {
        var port: UInt16 = 0
        socket = coord_tcp_listen(bind, 0, &port)
        guard socket >= 0 else {
            throw AgentError("can't listen on \(bind): \(SystemError.text(-socket))", exitCode: .unreachable)
        }
        address = bind.contains(":") ? "[\(bind)]:\(port)" : "\(bind):\(port)"
        token = Sealing.randomBytes(16)
        OSThread.start(name: "probe") { self.serve() }
    }

    /// Ends it; visitors that are there finish.
    func close() {
        isOpen.withLock { isOpen in
            if isOpen { shutdown(socket, Int32(SHUT_RDWR)) }
            isOpen = false
        }
    }

    private func serve() {
        while true {
            var watched = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
            guard poll(&watched, 1, -1) > 0 || errno == EINTR else { break }
            guard isOpen.withLock({ $0 }) else { break }
            let visitor = coord_tcp_accept(socket)
            guard visitor >= 0 else {
                // Out of descriptors: others must end first.
                if visitor != -EAGAIN { usleep(50_000) }
                continue
            }
            guard visitors.wait(timeout: .now()) == .success else {
                systemClose(visitor)
                continue
            }
            OSThread.start(name: "probed") { [token, visitors] in
                Self.answer(TimedSocket(visitor, deadline: .now + Self.patience), token)
                systemClose(visitor)
                visitors.signal()
            }
        }
        systemClose(socket)
    }

    private static func answer(_ socket: TimedSocket, _ token: [UInt8]) {
        guard socket.write(token) else { return }
        let block = [UInt8](repeating: 0, count: 64 << 10)
        while let asked = socket.read(1)?.first {
            if asked == Prober.echo {
                guard socket.write([asked]) else { return }
            } else {
                // The other side closes when it has seen enough.
                for _ in 0..<Prober.most / block.count where !socket.write(block) { return }
            }
        }
    }
}

/// Tries places: can they be reached, how far, how fast.
enum Prober {
    fileprivate static let echo = UInt8(ascii: "e")
    private static let flood = UInt8(ascii: "f")
    /// How much one measurement may bring; unit: bytes.
    fileprivate static let most = 64 << 20
    /// How long reaching a place may take.
    private static let patience = Duration.seconds(2)
    /// Round trips before bytes are counted: a connection begins with ten packets a round trip and doubles them until
    /// the link is full (RFC 6928, RFC 9438); 80 ms away that takes longer than the count itself.
    private static let settling = 8
    /// Bytes are counted in so many spans of a round trip, but neither shorter nor longer than this.
    private static let spans = 12
    private static let shortest = Duration.milliseconds(20)
    private static let longest = Duration.milliseconds(100)

    /// Reaches all places at once, then measures one after another.
    static func run(_ targets: [(target: ProbeTarget, address: String?)]) -> [ProbeResult] {
        let found = Findings()
        for (index, entry) in targets.enumerated() {
            OSThread.start(name: "prober") {
                let result = reach(entry.target, entry.address, found)
                found.results.withLock { $0[index] = result }
                found.done.signal()
            }
        }
        for _ in targets { found.done.wait() }
        return found.results.withLock { results in targets.indices.compactMap { results[$0] } }
    }

    private final class Findings: Sendable {
        let results = Mutex<[Int: ProbeResult]>([:])
        /// Held while one place is measured: two at once would halve each other.
        let turn = Mutex(())
        let done = DispatchSemaphore(value: 0)
    }

    private static func reach(_ target: ProbeTarget, _ address: String?, _ found: Findings) -> ProbeResult {
        func failed(_ problem: String) -> ProbeResult { ProbeResult(host: target.host, problem: problem) }
        guard let address, let colon = address.lastIndex(of: ":"),
            let port = UInt16(address[address.index(after: colon)...])
        else { return failed("no port to try it from") }
        let ip = address[..<colon].filter { $0 != "[" && $0 != "]" }
        let descriptor = coord_tcp_connect(String(ip), port)
        guard descriptor >= 0 else { return failed(SystemError.text(-descriptor)) }
        defer { systemClose(descriptor) }
        let socket = TimedSocket(descriptor, deadline: .now + patience)
        guard let said = socket.read(target.token.count) else {
            return failed(socket.problem ?? "no answer in \(patience)")
        }
        guard said == target.token else { return failed("another machine answers at \(address)") }
        if target.saysNoMore { return ProbeResult(host: target.host, problem: nil) }
        var best = Duration.seconds(60)
        for _ in 0..<5 {
            let begin = ContinuousClock.now
            guard socket.write([echo]), socket.read(1) != nil else { return failed("it stopped answering") }
            best = min(best, .now - begin)
        }
        let speed = found.turn.withLock { _ in count(descriptor, best) }
        return ProbeResult(
            host: target.host,
            problem: nil,
            roundTrip: best / .seconds(1),
            bytesPerSecond: speed
        )
    }

    /// Bytes a second, once the connection has found out what its link carries.
    ///
    /// The median over the spans: what was held up behind a lost packet comes at once when that is there.
    private static func count(_ descriptor: Int32, _ roundTrip: Duration) -> Double {
        let socket = TimedSocket(descriptor, deadline: .now + patience)
        guard socket.write([flood]), let first = socket.read(1) else { return 0 }
        let begin = ContinuousClock.now
        let span = min(max(roundTrip, shortest), longest)
        let settled = begin + min(roundTrip, longest) * settling
        let measured = TimedSocket(descriptor, deadline: settled + span * spans)
        var all = first.count
        var counts = [Int](repeating: 0, count: spans)
        while all < most, let some = measured.readSome() {
            all += some
            let past = ContinuousClock.now - settled
            if past >= .zero, past < span * spans { counts[Int(past / span)] += some }
        }
        let end = ContinuousClock.now
        let whole = min(spans, Int(max(0, (end - settled) / span)))
        // So fast that all was there before a span was over.
        guard whole > 0 else { return Double(all) / max(1e-9, (end - begin) / .seconds(1)) }
        return Double(counts[..<whole].sorted()[whole / 2]) / (span / .seconds(1))
    }
}

/// Reads and writes on a nonblocking socket until a moment.
private struct TimedSocket {
    let descriptor: Int32
    let deadline: ContinuousClock.Instant

    init(_ descriptor: Int32, deadline: ContinuousClock.Instant) {
        self.descriptor = descriptor
        self.deadline = deadline
    }

    /// The socket's own error.
    var problem: String? {
        var failure: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &failure, &size)
        return failure == 0 ? nil : SystemError.text(failure)
    }

    /// Exactly so many bytes; nil when they don't come in time.
    func read(_ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        var got = 0
        while got < count {
            guard wait(POLLIN) else { return nil }
            let n = bytes.withUnsafeMutableBytes {
                coord_receive(descriptor, $0.baseAddress.map { $0 + got }, count - got, nil, 0)
            }
            if n == -Int(EAGAIN) { continue }
            guard n > 0 else { return nil }
            got += n
        }
        return bytes
    }

    /// Reads what is there and throws it away; the number of bytes, nil at the end or when the time is over.
    func readSome() -> Int? {
        withUnsafeTemporaryAllocation(byteCount: 256 << 10, alignment: 16) { buffer in
            while wait(POLLIN) {
                let n = coord_receive(descriptor, buffer.baseAddress, buffer.count, nil, 0)
                if n != -Int(EAGAIN) { return n > 0 ? n : nil }
            }
            return nil
        }
    }

    /// Writes all; false when that fails or takes too long.
    func write(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            guard wait(POLLOUT) else { return false }
            let n = bytes.withUnsafeBytes {
                coord_send(descriptor, $0.baseAddress.map { $0 + sent }, bytes.count - sent, nil, 0)
            }
            if n == -Int(EAGAIN) { continue }
            guard n > 0 else { return false }
            sent += n
        }
        return true
    }

    private func wait(_ event: Int32) -> Bool {
        var watched = pollfd(fd: descriptor, events: Int16(event), revents: 0)
        let left = (deadline - .now) / .milliseconds(1)
        return left > 0 && poll(&watched, 1, Int32(left) + 1) > 0
    }
}

// Inside the classes the name `close` is ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
