internal import Basics

/// One side of a connection that carries many byte streams: what comes in, what goes out, what is allowed.
///
/// A value without descriptors or clocks. Each stream has credit of its own in each direction: a side sends no more than the
/// other has room for, so a slow reader holds up its own stream alone. Everything that comes is checked; after an error the
/// machine is unusable and the connection is to be closed.
/// - Cost: each data byte is copied once on its way in and once on its way out.
public struct MuxMachine: Sendable {
    /// Who numbers its streams how.
    public enum Role: Sendable {
        /// Odd numbers: the side that asked for the connection.
        case first
        /// Even numbers.
        case second
    }

    /// What the other side wants or did.
    public enum Event: Sendable, Equatable {
        /// A new stream: answer with ``MuxMachine/accept(_:window:)`` or ``MuxMachine/refuse(_:_:)``.
        case opened(UInt32, target: [UInt8], window: Int)
        /// A stream of ours stands; so many bytes may be sent at once.
        case accepted(UInt32, window: Int)
        /// A stream of ours was not wanted; it is forgotten.
        case refused(UInt32, reason: String)
        /// Bytes came; ``MuxMachine/grant(_:_:)`` makes room for as many again once they are used.
        case data(UInt32, [UInt8])
        /// So many more bytes may be sent.
        case credit(UInt32, Int)
        /// The other side sends nothing more; the stream is forgotten once both sides said so.
        case ended(UInt32)
        /// The stream is broken and forgotten.
        case reset(UInt32, reason: String)
    }

    private enum Phase: Sendable { case asked, offered, open }

    private struct Stream: Sendable {
        var phase: Phase
        /// What we may still send.
        var credit = 0
        /// What the other side may still send.
        var room: Int
        var sentEnd = false
        var receivedEnd = false
    }

    /// The most that one stream may have on its way; unit: bytes.
    ///
    /// 4 MiB fill 40 MB/s at a round trip of 100 ms.
    public static let maximumWindow = 4 << 20
    /// The most streams at once, of both sides together.
    public static let maximumStreams = 256
    /// The largest piece that ``send(_:_:)`` takes; unit: bytes.
    public static let maximumPiece = MuxFrame.maximumData

    private let role: Role
    private var streams: [UInt32: Stream] = [:]
    private var lastOurs: UInt32
    private var lastTheirs: UInt32 = 0
    private var incoming: [UInt8] = []
    private var hasPreface = false
    /// Frames that may pass data: they make room or end waiting.
    private var urgent: [UInt8]
    /// Frames in order.
    private var frames: [[UInt8]] = []
    private var firstFrame = 0
    /// Bytes of `frames` from `firstFrame` on.
    private var queuedInOrder = 0

    /// Starts with our preface to send.
    public init(role: Role) {
        self.role = role
        // The first `open` adds two.
        lastOurs = role == .first ? UInt32.max : 0
        urgent = MuxFrame.preface
    }

    // MARK: What we want

    /// Streams that stand or are being opened.
    public var streamCount: Int { streams.count }

    /// True until a stream is over.
    public func holds(_ id: UInt32) -> Bool { streams[id] != nil }

    /// Bytes that wait to be written.
    public var queued: Int { urgent.count + queuedInOrder }

    /// Asks for a stream.
    ///
    /// - Parameters:
    ///   - target: what it leads to, at most 512 bytes.
    ///   - window: how much the other side may send before we make room.
    /// - Returns: its number; nil when there are too many.
    public mutating func open(target: [UInt8], window: Int) -> UInt32? {
        precondition(target.count <= MuxFrame.maximumText, "a target of \(target.count) bytes")
        precondition((0...Self.maximumWindow).contains(window), "a window of \(window) bytes")
        guard streams.count < Self.maximumStreams, lastOurs == .max || lastOurs < UInt32.max - 3 else {
            return nil
        }
        lastOurs &+= 2
        streams[lastOurs] = Stream(phase: .asked, room: window)
        put(.open, lastOurs, Self.number(window) + target)
        return lastOurs
    }

    /// Lets a stream of the other side begin.
    public mutating func accept(_ id: UInt32, window: Int) {
        precondition((0...Self.maximumWindow).contains(window), "a window of \(window) bytes")
        guard streams[id]?.phase == .offered else { return }
        streams[id]?.phase = .open
        streams[id]?.room = window
        put(.accept, id, Self.number(window))
    }

    /// Turns a stream of the other side away.
    public mutating func refuse(_ id: UInt32, _ reason: String) {
        guard streams[id]?.phase == .offered else { return }
        streams[id] = nil
        put(.refuse, id, Self.text(reason))
    }

    /// How many bytes may be sent on a stream now; 0 for one that is not open.
    public func sendable(_ id: UInt32) -> Int {
        guard let stream = streams[id], stream.phase == .open, !stream.sentEnd else { return 0 }
        return stream.credit
    }

    /// Queues bytes, at most ``maximumPiece`` and ``sendable(_:)``.
    public mutating func send(_ id: UInt32, _ bytes: some Collection<UInt8>) {
        guard !bytes.isEmpty, streams[id] != nil else { return }
        precondition(
            bytes.count <= min(sendable(id), Self.maximumPiece),
            "\(bytes.count) bytes on stream \(id), which may send \(sendable(id))"
        )
        streams[id]?.credit -= bytes.count
        var frame = MuxFrame.head(.data, id, length: bytes.count)
        frame.reserveCapacity(frame.count + bytes.count)
        frame.append(contentsOf: bytes)
        putInOrder(frame)
    }

    /// Makes room for so many bytes more.
    public mutating func grant(_ id: UInt32, _ count: Int) {
        guard count > 0, let stream = streams[id], stream.phase == .open, !stream.receivedEnd else { return }
        precondition(stream.room + count <= Self.maximumWindow, "room for \(stream.room) + \(count) bytes")
        streams[id]?.room += count
        put(.credit, id, Self.number(count))
    }

    /// Says, behind the data, that nothing more comes.
    public mutating func end(_ id: UInt32) {
        guard let stream = streams[id], stream.phase == .open, !stream.sentEnd else { return }
        streams[id]?.sentEnd = true
        putInOrder(MuxFrame.head(.end, id, length: 0))
        forgetIfOver(id)
    }

    /// Breaks a stream off; what is on its way may be lost.
    public mutating func reset(_ id: UInt32, _ reason: String) {
        guard let stream = streams.removeValue(forKey: id) else { return }
        if stream.phase == .offered {
            put(.refuse, id, Self.text(reason))
        } else {
            // In order: behind the OPEN and the data that it ends.
            let text = Self.text(reason)
            putInOrder(MuxFrame.head(.reset, id, length: text.count) + text)
        }
    }

    /// Takes what is to be written next; empty when nothing waits.
    public mutating func takeOutput(atMost limit: Int = 256 << 10) -> [UInt8] {
        if !urgent.isEmpty {
            defer { urgent = [] }
            return urgent
        }
        var bytes: [UInt8] = []
        while firstFrame < frames.count, bytes.isEmpty || bytes.count + frames[firstFrame].count <= limit {
            if bytes.isEmpty { swap(&bytes, &frames[firstFrame]) } else { bytes += frames[firstFrame] }
            frames[firstFrame] = []
            firstFrame += 1
        }
        queuedInOrder -= bytes.count
        if firstFrame == frames.count || firstFrame > 1024 {
            frames.removeFirst(firstFrame)
            firstFrame = 0
        }
        return bytes
    }

    // MARK: What the other side says

    /// Takes bytes in pieces of any size.
    ///
    /// - Returns: what they mean, in order.
    /// - Throws: ``MuxError``; what came before the error in the same piece is lost with the connection.
    public mutating func receive(_ bytes: UnsafeRawBufferPointer) throws(MuxError) -> [Event] {
        incoming.append(contentsOf: bytes)
        var events: [Event] = []
        var at = 0
        if !hasPreface {
            let count = min(incoming.count, MuxFrame.preface.count)
            guard incoming[..<count].elementsEqual(MuxFrame.preface[..<count]) else {
                throw MuxError(.preface, "the other side does not speak mux version 1")
            }
            guard count == MuxFrame.preface.count else { return [] }
            hasPreface = true
            at = count
        }
        while incoming.count - at >= MuxFrame.headBytes {
            let head = incoming[at..<at + MuxFrame.headBytes]
            guard let kind = MuxFrame.Kind(rawValue: head[at]),
                head[at + 1] | head[at + 2] | head[at + 3] == 0
            else { throw MuxError(.frame, "kind \(head[at]) is unknown") }
            let id = Self.number(head[(at + 4)..<(at + 8)])
            let length = Int(Self.number(head[(at + 8)..<(at + 12)]))
            guard MuxFrame.allows(kind, length: length) else {
                throw MuxError(.frame, "\(length) bytes in a frame '\(kind)'")
            }
            guard incoming.count - at >= MuxFrame.headBytes + length else { break }
            let begin = at + MuxFrame.headBytes
            at = begin + length
            if let event = try take(kind, id, incoming[begin..<at]) { events.append(event) }
        }
        incoming.removeFirst(at)
        return events
    }

    private mutating func take(
        _ kind: MuxFrame.Kind,
        _ id: UInt32,
        _ payload: ArraySlice<UInt8>
    ) throws(MuxError) -> Event? {
        if kind == .open { return try opened(id, payload) }
        guard let stream = streams[id] else {
            // One that is over may still be spoken to by a side that does not know yet.
            guard wasOpen(id) else { throw MuxError(.stream, "stream \(id) was never opened") }
            return nil
        }
        switch kind {
        case .open: return nil
        case .accept, .refuse:
            guard stream.phase == .asked else { throw unexpected(kind, id) }
            if kind == .refuse {
                streams[id] = nil
                return .refused(id, reason: Self.words(payload))
            }
            let window = try window(payload, id)
            streams[id]?.phase = .open
            streams[id]?.credit = window
            return .accepted(id, window: window)
        case .data:
            guard stream.phase == .open, !stream.receivedEnd else { throw unexpected(kind, id) }
            guard payload.count <= stream.room else {
                throw MuxError(
                    .overrun,
                    "\(payload.count) bytes on stream \(id), which has room for \(stream.room)"
                )
            }
            streams[id]?.room -= payload.count
            return .data(id, Array(payload))
        case .credit:
            guard stream.phase == .open else { throw unexpected(kind, id) }
            let count = Int(Self.number(payload))
            guard count > 0, stream.credit + count <= Self.maximumWindow else {
                throw MuxError(.credit, "\(count) bytes more on stream \(id), which has \(stream.credit)")
            }
            streams[id]?.credit += count
            return .credit(id, count)
        case .end:
            guard stream.phase == .open, !stream.receivedEnd else { throw unexpected(kind, id) }
            streams[id]?.receivedEnd = true
            forgetIfOver(id)
            return .ended(id)
        case .reset:
            streams[id] = nil
            return .reset(id, reason: Self.words(payload))
        }
    }

    private mutating func opened(_ id: UInt32, _ payload: ArraySlice<UInt8>) throws(MuxError) -> Event {
        let isTheirs = id % 2 == (role == .first ? 0 : 1)
        guard id > 0, isTheirs, id > lastTheirs else {
            throw MuxError(.stream, "number \(id) can't be opened behind \(lastTheirs)")
        }
        guard streams.count < Self.maximumStreams else {
            throw MuxError(.tooMany, "more than \(Self.maximumStreams) streams")
        }
        let window = try window(payload.prefix(4), id)
        lastTheirs = id
        streams[id] = Stream(phase: .offered, credit: window, room: 0)
        return .opened(id, target: Array(payload.dropFirst(4)), window: window)
    }

    private func window(_ payload: ArraySlice<UInt8>, _ id: UInt32) throws(MuxError) -> Int {
        let window = Int(Self.number(payload))
        guard window <= Self.maximumWindow else {
            throw MuxError(.credit, "a window of \(window) bytes on stream \(id)")
        }
        return window
    }

    private func unexpected(_ kind: MuxFrame.Kind, _ id: UInt32) -> MuxError {
        MuxError(.phase, "'\(kind)' makes no sense on stream \(id) now")
    }

    private func wasOpen(_ id: UInt32) -> Bool {
        let isOurs = id % 2 == (role == .first ? 1 : 0)
        if isOurs { return lastOurs != .max && id <= lastOurs && id > 0 }
        return id <= lastTheirs && id > 0
    }

    private mutating func forgetIfOver(_ id: UInt32) {
        if let stream = streams[id], stream.sentEnd, stream.receivedEnd { streams[id] = nil }
    }

    // MARK: Bytes

    private mutating func put(_ kind: MuxFrame.Kind, _ id: UInt32, _ payload: [UInt8]) {
        urgent += MuxFrame.head(kind, id, length: payload.count) + payload
    }

    private mutating func putInOrder(_ frame: [UInt8]) {
        queuedInOrder += frame.count
        frames.append(frame)
    }

    private static func number(_ value: Int) -> [UInt8] {
        let value = UInt32(value)
        return [0, 8, 16, 24].map { UInt8(truncatingIfNeeded: value >> $0) }
    }

    private static func number(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    private static func text(_ reason: String) -> [UInt8] {
        Array(reason.utf8.prefix(MuxFrame.maximumText))
    }

    /// What somebody else wrote, without control characters.
    private static func words(_ bytes: ArraySlice<UInt8>) -> String {
        String(
            String(decoding: bytes, as: UTF8.self).unicodeScalars.filter {
                $0.value >= 0x20 && $0.value != 0x7F
            }
        )
    }
}
