internal import Basics
internal import CShims
internal import Dispatch
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// One piece of a conversation: a kind and its bytes.
public struct Frame: Sendable, Equatable {
    /// What the payload is; the numbers are part of the protocol.
    public enum Kind: UInt8, Sendable {
        /// A versioned `Codable` message as JSON.
        case message = 1
        /// Raw bytes that a message before announced (a chunk, a tensor).
        case bytes = 2
        /// In a stream of chunks: the SHA-256 of others, 32 bytes each; the answer has a bit for each that is missing.
        case question = 3
    }

    /// What the payload is.
    public var kind: Kind
    /// The bytes; at most ``FrameChannel/maximumPayload``.
    public var payload: [UInt8]

    /// A kind and its bytes.
    public init(_ kind: Kind, _ payload: [UInt8]) {
        self.kind = kind
        self.payload = payload
    }
}

/// Why a conversation broke off.
public enum FrameError: Error, Sendable, Equatable {
    /// The descriptor failed.
    case io(errno: Int32)
    /// The other side closed in the middle of a frame.
    case truncated
    /// The bytes are no frame (length or kind); the conversation can't go on.
    case malformed(String)
    /// Nothing came, or nothing could be sent, in time.
    case timeout
}

extension FrameError: CustomStringConvertible {
    /// What happened, in words.
    public var description: String {
        switch self {
        case .io(let errno): SystemError.text(errno)
        case .truncated: "it ended in the middle of a message"
        case .malformed(let what): "what came is no message: \(ForeignText.line(what))"
        case .timeout: "no answer in time"
        }
    }
}

/// Length-prefixed frames over a pair of descriptors (a socket, the two ends of a bridge).
///
/// Layout: `length u32 LE` (of kind and payload), `kind u8`, payload. Blocking: a reader has a thread of its own;
/// any thread may send. Owns the descriptors.
public final class FrameChannel: Sendable {
    /// The largest payload; unit: bytes.
    ///
    /// Longer frames end the conversation, whatever they claim to be.
    public static let maximumPayload = 32 << 20

    private let reading: Int32
    private let writing: Int32
    /// The conversation ends with this socket; -1 for none.
    private let life: Int32
    private let sending = Mutex(())
    private let isOpen = Atomic<Bool>(true)

    /// Takes a connected socket.
    public convenience init(socket: Int32) { self.init(reading: socket, writing: socket) }

    /// Takes two descriptors, which may be the same.
    public init(reading: Int32, writing: Int32) {
        self.reading = reading
        self.writing = writing
        life = -1
    }

    /// Takes the two ends of a bridge, which may be pipes, and the socket of the process that they came from.
    ///
    /// The conversation ends when that process does, and that process is told of its end.
    public init(reading: Int32, writing: Int32, life: Int32) {
        self.reading = reading
        self.writing = writing
        self.life = life
        for descriptor in [reading, writing] {
            // As much as a batch of chunks: the two processes take turns less often.
            coord_set_pipe_size(descriptor, 1 << 20)
            // A pipe cannot be shut down, so no thread may ever block in a read or a write of one.
            _ = coord_set_nonblocking(descriptor)
        }
    }

    deinit {
        systemClose(reading)
        if writing != reading { systemClose(writing) }
        if life >= 0 { systemClose(life) }
    }

    /// Sends one frame; frames of several threads do not mix.
    ///
    /// - Throws: ``FrameError``.
    public func send(_ frame: Frame) throws {
        guard frame.payload.count <= Self.maximumPayload else {
            throw FrameError.malformed("\(frame.payload.count) bytes are too many for one frame")
        }
        var head = ByteWriter(capacity: 5)
        head.write(UInt32(frame.payload.count + 1))
        head.write(frame.kind.rawValue)
        try sending.withLock { _ in
            try write(head.bytes)
            try write(frame.payload)
        }
    }

    /// Waits for the next frame; nil when the other side closed between frames.
    ///
    /// - Parameters:
    ///   - timeoutMilliseconds: how long to wait for the frame; a long one gets more, at 64 KiB a second. -1 = for ever.
    ///   - limit: the longest payload that the caller takes; unit: bytes.
    /// - Throws: ``FrameError``.
    public func receive(
        timeoutMilliseconds: Int32 = -1,
        limit: Int = FrameChannel.maximumPayload
    ) throws -> Frame? {
        var deadline =
            timeoutMilliseconds < 0 ? nil : ContinuousClock.now + .milliseconds(Int(timeoutMilliseconds))
        guard let head = try read(4, mayEnd: true, deadline: deadline) else { return nil }
        var reader = ByteReader(head)
        let length = Int(try reader.read(UInt32.self))
        guard length >= 1, length <= min(limit, Self.maximumPayload) + 1 else {
            throw FrameError.malformed("length \(length)")
        }
        // Who announces much and sends little would else hold the reader for ever.
        if let before = deadline { deadline = before + .seconds(length >> 16) }
        guard let kindByte = try read(1, mayEnd: false, deadline: deadline)?.first,
            let kind = Frame.Kind(rawValue: kindByte)
        else {
            throw FrameError.malformed("unknown kind")
        }
        return Frame(kind, try read(length - 1, mayEnd: false, deadline: deadline) ?? [])
    }

    /// Ends the conversation: a blocked ``receive(timeoutMilliseconds:)`` returns, the other side sees the end.
    public func close() {
        guard isOpen.exchange(false, ordering: .acquiringAndReleasing) else { return }
        if life >= 0 { shutdown(life, Int32(SHUT_RDWR)) }
        shutdown(reading, Int32(SHUT_RDWR))
        if writing != reading { shutdown(writing, Int32(SHUT_RDWR)) }
    }

    /// A socket for what follows frames here; the caller owns it, and lets this channel go.
    ///
    /// Nothing was read ahead: the first byte there is the one behind the last frame received. Don't ``close()`` this
    /// channel then, which would end the socket. The ends of a bridge are no socket: two threads, which keep the
    /// channel, carry their bytes to and from one.
    /// - Throws: ``FrameError`` `.io`; also for two descriptors that are no bridge's.
    public func duplicateSocket() throws -> Int32 {
        guard life >= 0 else {
            guard reading == writing else { throw FrameError.io(errno: EINVAL) }
            let copy = systemDuplicate(reading)
            guard copy >= 0 else { throw FrameError.io(errno: errno) }
            return copy
        }
        let (ours, theirs) = try UnixSocket.pair()
        let inEnded = DispatchSemaphore(value: 0)
        OSThread.start(name: "bridge-in") { [self] in
            while let bytes = try? readSome(), !bytes.isEmpty, Self.send(bytes, to: ours) {}
            shutdown(ours, Int32(SHUT_RDWR))
            inEnded.signal()
        }
        OSThread.start(name: "bridge-out") { [self] in
            var buffer = [UInt8](repeating: 0, count: Self.carried)
            while true {
                let count = buffer.withUnsafeMutableBytes { systemRead(ours, $0.baseAddress, $0.count) }
                if count < 0, errno == EINTR { continue }
                guard count > 0, (try? write(Array(buffer[..<count]))) != nil else { break }
            }
            shutdown(ours, Int32(SHUT_RDWR))
            close()
            inEnded.wait()
            systemClose(ours)
        }
        return theirs
    }

    /// Bytes that are carried at a time.
    private static let carried = 256 << 10

    /// What is there, at least a byte; empty at the end.
    private func readSome() throws -> [UInt8] {
        try [UInt8](unsafeUninitializedCapacity: Self.carried) { target, filled in
            while true {
                let n = systemRead(reading, target.baseAddress, Self.carried)
                if n >= 0 { return filled = n }
                if errno == EINTR { continue }
                guard errno == EAGAIN else { throw FrameError.io(errno: errno) }
                guard try wait(for: reading, Int16(POLLIN), until: nil) else { return }
            }
        }
    }

    private static func send(_ bytes: [UInt8], to socket: Int32) -> Bool {
        bytes.withUnsafeBytes { (try? Files.writeAll($0, to: socket, path: "a stream")) != nil }
    }

    private func write(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let n = bytes.withUnsafeBytes { buffer in
                systemWrite(writing, buffer.baseAddress.map { $0 + sent }, buffer.count - sent)
            }
            if n < 0 {
                if errno == EINTR { continue }
                guard errno == EAGAIN else { throw FrameError.io(errno: errno) }
                guard life >= 0 else { throw FrameError.timeout }
                guard try wait(for: writing, Int16(POLLOUT), until: nil) else {
                    throw FrameError.io(errno: EPIPE)
                }
                continue
            }
            sent += n
        }
    }

    /// Waits until a descriptor is ready; false when the conversation was ended meanwhile.
    private func wait(
        for descriptor: Int32,
        _ events: Int16,
        until deadline: ContinuousClock.Instant?
    ) throws -> Bool {
        while true {
            var patience: Int32 = -1
            if let deadline {
                // Rounded up: a wait that ends early would only go round again.
                let left = (deadline - ContinuousClock.now) / .milliseconds(1) + 1
                patience = Int32(min(max(left, 0), 1e9))
            }
            // Nothing comes on the life, so what can be read there is its end.
            var watched = [
                pollfd(fd: descriptor, events: events, revents: 0),
                pollfd(fd: life, events: Int16(POLLIN), revents: 0),
            ]
            let seen = poll(&watched, 2, patience)
            if seen < 0, errno != EINTR { throw FrameError.io(errno: errno) }
            if seen > 0, watched[0].revents != 0 { return true }
            if seen > 0 { return false }
            if let deadline, ContinuousClock.now >= deadline { throw FrameError.timeout }
        }
    }

    private func read(
        _ count: Int,
        mayEnd: Bool,
        deadline: ContinuousClock.Instant?
    ) throws -> [UInt8]? {
        var got = 0
        let bytes = try [UInt8](unsafeUninitializedCapacity: count) { target, filled in
            while got < count {
                if let deadline, life < 0 { _ = try wait(for: reading, Int16(POLLIN), until: deadline) }
                let n = systemRead(reading, target.baseAddress.map { $0 + got }, count - got)
                if n < 0 {
                    if errno == EINTR { continue }
                    guard errno == EAGAIN else { throw FrameError.io(errno: errno) }
                    guard life >= 0 else { throw FrameError.timeout }
                    guard try wait(for: reading, Int16(POLLIN), until: deadline) else { break }
                    continue
                }
                if n == 0 { break }
                got += n
            }
            filled = got
        }
        if got == count { return bytes }
        guard got == 0, mayEnd else { throw FrameError.truncated }
        return nil
    }
}

// Inside the class the names `close`, `write` and `read` are ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
private func systemDuplicate(_ descriptor: Int32) -> Int32 { fcntl(descriptor, F_DUPFD_CLOEXEC, 0) }
private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    write(descriptor, bytes, count)
}
private func systemRead(_ descriptor: Int32, _ bytes: UnsafeMutableRawPointer?, _ count: Int) -> Int {
    read(descriptor, bytes, count)
}
