internal import Basics
internal import Collectives
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Measures the way between two hosts: one listens for a single caller who knows a token, the other dials.
///
/// The caller leads: after the token `e` asks for one byte back, `o` announces bytes that come, `i` asks for bytes;
/// `o` and `i` are followed by a count, u32 LE, of at most ``largest``.
enum LinkProbe {
    /// The most bytes of one measurement.
    private static let largest = 64 << 20
    /// A measurement that took so long says enough.
    private static let enough = Duration.milliseconds(200)
    /// How long a listener waits for its caller, and how long a caller takes at most.
    private static let patience = Duration.seconds(20)
    /// How long a connection may take to stand.
    private static let connecting = Duration.seconds(3)

    /// Listens for one caller, on a thread of its own.
    ///
    /// - Parameters:
    ///   - bind: a numeric address of this host.
    ///   - token: what the caller must say first; anybody else is hung up on.
    /// - Returns: where it listens.
    static func listen(bind: String, token: [UInt8]) throws -> String {
        let host = bind.contains(":") ? "[\(bind)]" : bind
        let listener = try TCPTransport().listen(at: "\(host):0")
        OSThread.start(name: "probe") {
            defer { listener.close() }
            let deadline = ContinuousClock.now + patience
            while ContinuousClock.now < deadline {
                guard ProbeStream.wait(listener.descriptor, POLLIN, until: deadline) else { return }
                guard let link = listener.accept() else { continue }
                let stream = ProbeStream(link: link, deadline: deadline)
                defer { link.close() }
                // A caller that breaks off has what it wanted, or told its own side why not.
                if (try? stream.receive(token.count)) == token { return (try? answer(stream)) ?? () }
            }
        }
        return listener.address
    }

    private static func answer(_ stream: ProbeStream) throws {
        while let word = try stream.receive(1).first {
            if word == UInt8(ascii: "e") {
                try stream.send([word])
                continue
            }
            var reader = ByteReader(try stream.receive(4))
            let count = min(largest, Int(try reader.read(UInt32.self)))
            if word == UInt8(ascii: "o") {
                try stream.skip(count)
                try stream.send([word])
            } else {
                try stream.sendZeros(count)
            }
        }
    }

    /// Dials a listener and measures.
    static func dial(_ address: String, token: [UInt8]) -> LinkMeasure {
        do {
            let link = try TCPTransport().connect(to: address)
            defer { link.close() }
            let begin = ContinuousClock.now
            guard ProbeStream.wait(link.descriptor, POLLOUT, until: begin + connecting) else {
                return LinkMeasure(problem: "no answer at \(address) within 3 s")
            }
            let stream = ProbeStream(link: link, deadline: begin + patience)
            try stream.send(token)
            var trips: [Duration] = []
            for _ in 0..<8 {
                let sent = ContinuousClock.now
                try stream.send([UInt8(ascii: "e")])
                _ = try stream.receive(1)
                trips.append(ContinuousClock.now - sent)
            }
            return LinkMeasure(
                roundTrip: trips.min().map { $0 / .seconds(1) },
                bytesPerSecondOut: try rate { count in
                    try stream.send(request("o", count))
                    try stream.sendZeros(count)
                    _ = try stream.receive(1)
                },
                bytesPerSecondIn: try rate { count in
                    try stream.send(request("i", count))
                    try stream.skip(count)
                }
            )
        } catch {
            return LinkMeasure(
                problem: "\(address): \((error as? any ExplainedError)?.message ?? "\(error)")"
            )
        }
    }

    private static func request(_ word: Unicode.Scalar, _ count: Int) -> [UInt8] {
        var writer = ByteWriter(capacity: 5)
        writer.write(UInt8(ascii: word))
        writer.write(UInt32(count))
        return writer.bytes
    }

    /// Bytes a second, by ever larger amounts until one takes long enough.
    private static func rate(_ move: (Int) throws -> Void) throws -> Double {
        var count = 256 << 10
        while true {
            let begin = ContinuousClock.now
            try move(count)
            let time = ContinuousClock.now - begin
            if time >= enough || count >= largest { return Double(count) / (time / .seconds(1)) }
            count = min(largest, count * 4)
        }
    }
}

/// A link that blocks, with a deadline for all of it.
private struct ProbeStream {
    let link: any Link
    let deadline: ContinuousClock.Instant

    private static let zeros = [UInt8](repeating: 0, count: 256 << 10)

    static func wait(_ descriptor: Int32, _ events: Int32, until deadline: ContinuousClock.Instant) -> Bool {
        let left = (deadline - ContinuousClock.now) / .milliseconds(1)
        guard left > 0 else { return false }
        var watched = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        return poll(&watched, 1, Int32(min(left.rounded(.up), 60_000))) > 0
    }

    func send(_ bytes: [UInt8]) throws { try bytes.withUnsafeBytes { try send($0) } }

    func sendZeros(_ count: Int) throws {
        var left = count
        while left > 0 {
            let part = min(left, Self.zeros.count)
            try Self.zeros.withUnsafeBytes { try send(UnsafeRawBufferPointer(rebasing: $0[..<part])) }
            left -= part
        }
    }

    func receive(_ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        try bytes.withUnsafeMutableBytes { try receive(into: $0) }
        return bytes
    }

    func skip(_ count: Int) throws {
        var scrap = [UInt8](repeating: 0, count: 256 << 10)
        var left = count
        while left > 0 {
            let part = min(left, scrap.count)
            try scrap.withUnsafeMutableBytes {
                try receive(into: UnsafeMutableRawBufferPointer(rebasing: $0[..<part]))
            }
            left -= part
        }
    }

    private func send(_ bytes: UnsafeRawBufferPointer) throws {
        var sent = 0
        while sent < bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[sent...])
            let none = UnsafeRawBufferPointer(start: nil, count: 0)
            sent += try moved(link.send(rest, and: none), POLLOUT)
        }
    }

    private func receive(into buffer: UnsafeMutableRawBufferPointer) throws {
        var got = 0
        while got < buffer.count {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[got...])
            let none = UnsafeMutableRawBufferPointer(start: nil, count: 0)
            got += try moved(link.receive(into: rest, and: none), POLLIN)
        }
    }

    private func moved(_ progress: LinkProgress, _ events: Int32) throws -> Int {
        switch progress {
        case .moved(let count): return count
        case .wouldBlock:
            guard Self.wait(link.descriptor, events, until: deadline) else {
                throw AgentError("it stood still for too long")
            }
            return 0
        case .ended: throw AgentError("it closed the connection")
        case .failed(let number): throw AgentError(SystemError.text(number))
        }
    }
}
