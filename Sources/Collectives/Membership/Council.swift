public import Basics
internal import Synchronization

/// Short messages between the members of a run, over the addresses that their groups meet at.
///
/// Each goes over a connection of its own: the sender names a generation whose secret both know, the receiver draws a
/// challenge, the sender proves the secret over it and the message. A message that does not arrive within two
/// seconds is lost; nobody is told. Nothing secret may be said: it is authenticated, not encrypted.
public final class Council: Sendable {
    /// A generation whose secret the members of it know.
    public struct Key: Hashable, Sendable {
        /// Its number.
        public var number: Int
        /// Tells it from others with that number.
        public var mark: UInt64
        /// Both fields.
        public init(number: Int, mark: UInt64) {
            self.number = number
            self.mark = mark
        }
    }

    private struct State {
        var secrets: [Key: Redacted<[UInt8]>] = [:]
        var inFlight = 0
    }

    /// No message is longer; unit: bytes.
    static let maxMessage = 1 << 20
    /// Messages that are read at a time; beyond, connections are closed.
    private static let maxInFlight = 16
    private static let patience = Duration.seconds(2)

    private let run: UInt64
    private let transport: any Transport
    private let state = Mutex(State())
    private let heard: @Sendable (_ sender: Int, _ message: [UInt8]) -> Void

    /// Takes messages of a run that reach `endpoint`.
    ///
    /// - Parameter heard: called for each authentic message, on a thread of its own; the sender's number is what
    ///   somebody who knows the secret said.
    public init(
        endpoint: Endpoint,
        run: RunID,
        heard: @escaping @Sendable (_ sender: Int, _ message: [UInt8]) -> Void
    ) {
        self.run = FrameHeader.runNumber(run)
        transport = endpoint.transport
        self.heard = heard
        endpoint.onCouncil { [weak self] link, opening in
            guard let self else { return link.close() }
            take(link, opening)
        }
    }

    /// From now on messages may be proved by this generation's secret.
    public func learn(_ key: Key, secret: Redacted<[UInt8]>) { state.withLock { $0.secrets[key] = secret } }

    /// The secret of a generation, when it is known.
    public func secret(of key: Key) -> Redacted<[UInt8]>? { state.withLock { $0.secrets[key] } }

    /// Sends a message from a thread of its own.
    ///
    /// - Parameter key: a generation that the receiver knows; without its secret nothing is sent.
    public func send(_ message: [UInt8], from sender: Int, to address: String, proving key: Key) {
        guard let secret = secret(of: key) else { return }
        Self.send(message, from: sender, to: address, over: transport, run: run, key, secret)
    }

    /// The same for somebody who has no endpoint: the agent of a member that ended.
    public static func send(
        _ message: [UInt8],
        of run: RunID,
        from sender: Int,
        to address: String,
        proving key: Key,
        secret: Redacted<[UInt8]>
    ) {
        let number = FrameHeader.runNumber(run)
        send(message, from: sender, to: address, over: TCPTransport(), run: number, key, secret)
    }

    private static func send(
        _ message: [UInt8],
        from sender: Int,
        to address: String,
        over transport: any Transport,
        run: UInt64,
        _ key: Key,
        _ secret: Redacted<[UInt8]>
    ) {
        guard message.count <= maxMessage else { return }
        let opening = Opening(run: run, key: key, sender: sender, length: message.count)
        OSThread.start(name: "council-out") {
            guard let link = try? transport.connect(to: address) else { return }
            defer { link.close() }
            let deadline = ContinuousClock.now + patience
            guard LinkBytes.write(opening.bytes, to: link, until: deadline),
                let challenge = LinkBytes.read(32, from: link, until: deadline)
            else { return }
            let code = Sealing.authenticationCode(
                for: proof(opening, challenge, message),
                key: secret
            )
            guard LinkBytes.write(message + code, to: link, until: deadline) else { return }
            link.finishSending()
            // The other side closes when it has read all; closing first could reset what is under way.
            _ = LinkBytes.read(1, from: link, until: deadline)
        }
    }

    /// Whether nothing at all comes from an address for so long: no challenge to a message, no refusal, no end.
    ///
    /// A process that is stopped and a host that is gone say nothing; one that computes has threads that answer, and one
    /// that has ended is refused by its kernel. Blocks that long.
    public func isSilent(at address: String, for limit: Duration, asking key: Key, from sender: Int) -> Bool {
        guard let link = try? transport.connect(to: address) else { return false }
        defer { link.close() }
        let opening = Opening(run: run, key: key, sender: sender, length: 0)
        // Each half has the whole time: a pause of this process before it asked is not held against the other.
        var deadline = ContinuousClock.now + limit
        if LinkBytes.write(opening.bytes, to: link, until: deadline) {
            deadline = .now + limit
            if LinkBytes.read(32, from: link, until: deadline) != nil { return false }
        }
        return ContinuousClock.now >= deadline
    }

    private func take(_ link: any Link, _ opening: Opening) {
        let secret: Redacted<[UInt8]>? = state.withLock { state in
            guard opening.run == run, state.inFlight < Self.maxInFlight,
                let secret = state.secrets[opening.key]
            else { return nil }
            state.inFlight += 1
            return secret
        }
        guard let secret else { return link.close() }
        OSThread.start(name: "council-in") { [self] in
            defer {
                link.close()
                state.withLock { $0.inFlight -= 1 }
            }
            let deadline = ContinuousClock.now + Self.patience
            let challenge = Sealing.randomBytes(32)
            guard LinkBytes.write(challenge, to: link, until: deadline),
                let said = LinkBytes.read(opening.length + 32, from: link, until: deadline)
            else { return }
            let message = Array(said[..<opening.length])
            let code = Array(said[opening.length...])
            guard Sealing.isValid(code, for: Self.proof(opening, challenge, message), key: secret) else {
                return
            }
            heard(opening.sender, message)
        }
    }

    private static func proof(_ opening: Opening, _ challenge: [UInt8], _ message: [UInt8]) -> [UInt8] {
        var writer = ByteWriter(capacity: 256 + message.count)
        writer.write("coord council")
        writer.write(raw: opening.bytes)
        writer.write(raw: challenge)
        writer.write(raw: message)
        return writer.bytes
    }

    /// The first bytes of a message, as many as those of a ``Handshake/Hello``.
    struct Opening: Hashable, Sendable {
        private static let magic: UInt32 = 0x434C_4343  // "CCLC"
        private static let version: UInt32 = 1

        var run: UInt64
        var key: Key
        var sender: Int
        var length: Int

        init(run: UInt64, key: Key, sender: Int, length: Int) {
            self.run = run
            self.key = key
            self.sender = sender
            self.length = length
        }

        var bytes: [UInt8] {
            var writer = ByteWriter(capacity: Handshake.helloBytes)
            writer.write(Self.magic)
            writer.write(Self.version)
            writer.write(run)
            writer.write(UInt32(key.number))
            writer.write(UInt32(sender))
            writer.write(key.mark)
            writer.write(UInt32(length))
            let padding = Handshake.helloBytes - writer.bytes.count
            writer.write(raw: Array(repeating: UInt8(0), count: padding))
            return writer.bytes
        }

        /// Reads what a stranger sent; nil when it is no message.
        init?(_ bytes: [UInt8]) {
            var reader = ByteReader(bytes)
            guard bytes.count == Handshake.helloBytes, (try? reader.read(UInt32.self)) == Self.magic,
                (try? reader.read(UInt32.self)) == Self.version, let run = try? reader.read(UInt64.self),
                let number = try? reader.read(UInt32.self), let sender = try? reader.read(UInt32.self),
                let mark = try? reader.read(UInt64.self), let length = try? reader.read(UInt32.self),
                length <= maxMessage
            else { return nil }
            self.init(
                run: run,
                key: Key(number: Int(number), mark: mark),
                sender: Int(sender),
                length: Int(length)
            )
        }
    }
}

/// Whole byte strings over a link, with a deadline.
enum LinkBytes {
    private static var nothing: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// Writes all; false when the link ended or the time has come.
    static func write(_ bytes: [UInt8], to link: any Link, until deadline: ContinuousClock.Instant) -> Bool {
        var sent = 0
        var polls = PollSet()
        while sent < bytes.count {
            let progress = bytes.withUnsafeBytes {
                link.send(UnsafeRawBufferPointer(rebasing: $0[sent...]), and: nothing)
            }
            switch progress {
            case .moved(let count): sent += count
            case .wouldBlock:
                guard ContinuousClock.now < deadline else { return false }
                polls.clear()
                polls.add(link.descriptor, read: false, write: true)
                polls.wait(until: deadline)
            case .ended, .failed: return false
            }
        }
        return true
    }

    /// Reads so many; nil when the link ended before or the time has come.
    static func read(_ count: Int, from link: any Link, until deadline: ContinuousClock.Instant) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        var came = 0
        var polls = PollSet()
        while came < count {
            let progress = bytes.withUnsafeMutableBytes {
                link.receive(
                    into: UnsafeMutableRawBufferPointer(rebasing: $0[came...]),
                    and: UnsafeMutableRawBufferPointer(start: nil, count: 0)
                )
            }
            switch progress {
            case .moved(let moved): came += moved
            case .wouldBlock:
                guard ContinuousClock.now < deadline else { return nil }
                polls.clear()
                polls.add(link.descriptor, read: true, write: false)
                polls.wait(until: deadline)
            case .ended, .failed: return nil
            }
        }
        return bytes
    }
}
