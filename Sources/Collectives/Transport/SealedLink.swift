internal import Basics
internal import CShims

/// A link whose bytes nobody on the way can read or change: records of AES-256-GCM over another link.
///
/// A record is the length of its text and a CRC-32C over it (u32 each, little endian, authenticated: a damaged length is
/// noticed before it is waited for), the ciphertext, and 16 bytes of tag; the nonce counts the records of a direction. A record that is not as it was sealed ends the link
/// (`LinkProgress.failed` with ``brokenSeal``), as does one that was dropped, repeated or moved.
///
/// Safety: a link is used by one thread at a time.
final class SealedLink: Link, @unchecked Sendable {
    /// The text of a record: a piece and its header fit.
    static let mostText = 131_072
    /// The system's number for a bad message.
    static let brokenSeal: Int32 = 74
    private static let headerBytes = 8

    private let base: any Link
    private let sending: RecordKey
    private let receiving: RecordKey
    private var sent: UInt64 = 0
    private var received: UInt64 = 0

    private static let room = headerBytes + mostText + RecordKey.tagBytes
    private let text = UnsafeMutableRawBufferPointer.allocate(byteCount: mostText, alignment: 64)
    private let outgoing = UnsafeMutableRawBufferPointer.allocate(byteCount: room, alignment: 64)
    private var outgoingRange = 0..<0
    private var damagesNext = false
    private let incoming = UnsafeMutableRawBufferPointer.allocate(byteCount: room, alignment: 64)
    private var incomingCount = 0
    private let opened = UnsafeMutableRawBufferPointer.allocate(byteCount: mostText, alignment: 64)
    private var openedRange = 0..<0

    init(_ base: any Link, sending: RecordKey, receiving: RecordKey) {
        self.base = base
        self.sending = sending
        self.receiving = receiving
    }
    deinit {
        text.deallocate()
        outgoing.deallocate()
        incoming.deallocate()
        opened.deallocate()
    }

    var descriptor: Int32 { base.descriptor }
    var isSealed: Bool { true }
    var hasUnsent: Bool { !outgoingRange.isEmpty }
    var hasUnread: Bool { !openedRange.isEmpty }
    func damageNext() { damagesNext = true }
    func finishSending() { base.finishSending() }
    func close() { base.close() }

    func send(_ first: UnsafeRawBufferPointer, and second: UnsafeRawBufferPointer) -> LinkProgress {
        if hasUnsent {
            let progress = flush()
            guard case .moved = progress, !hasUnsent else {
                if case .moved = progress { return .wouldBlock }
                return progress
            }
        }
        let fromFirst = min(first.count, Self.mostText),
            fromSecond = min(second.count, Self.mostText - fromFirst)
        let count = fromFirst + fromSecond
        text.copyMemory(from: UnsafeRawBufferPointer(rebasing: first[..<fromFirst]))
        UnsafeMutableRawBufferPointer(rebasing: text[fromFirst...])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: second[..<fromSecond]))
        outgoing.storeBytes(of: UInt32(count).littleEndian, as: UInt32.self)
        let check = coord_crc32c(0, outgoing.baseAddress, 4)
        outgoing.storeBytes(of: check.littleEndian, toByteOffset: 4, as: UInt32.self)
        sending.seal(
            UnsafeRawBufferPointer(rebasing: text[..<count]),
            counter: sent,
            authenticating: UnsafeRawBufferPointer(rebasing: outgoing[..<Self.headerBytes]),
            into: UnsafeMutableRawBufferPointer(rebasing: outgoing[Self.headerBytes...])
        )
        sent += 1
        if damagesNext {
            damagesNext = false
            outgoing[Self.headerBytes] ^= 0x10
        }
        outgoingRange = 0..<(Self.headerBytes + count + RecordKey.tagBytes)
        switch flush() {
        case .moved, .wouldBlock: return .moved(count)  // what is left goes out by ``flush()``
        case .ended: return .ended
        case .failed(let number): return .failed(number)
        }
    }

    func flush() -> LinkProgress {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        var moved = 0
        while hasUnsent {
            switch base.send(UnsafeRawBufferPointer(rebasing: outgoing[outgoingRange]), and: nothing) {
            case .moved(let count):
                moved += count
                outgoingRange = (outgoingRange.lowerBound + count)..<outgoingRange.upperBound
            case .wouldBlock: return moved > 0 ? .moved(moved) : .wouldBlock
            case .ended: return .ended
            case .failed(let number): return .failed(number)
            }
        }
        return .moved(moved)
    }

    func receive(
        into first: UnsafeMutableRawBufferPointer,
        and second: UnsafeMutableRawBufferPointer
    ) -> LinkProgress {
        while !hasUnread {
            if let progress = openRecord() { return progress }
        }
        var moved = 0
        for target in [first, second] {
            let count = min(target.count, openedRange.count)
            guard count > 0 else { continue }
            let start = openedRange.lowerBound
            target.copyMemory(from: UnsafeRawBufferPointer(rebasing: opened[start..<(start + count)]))
            openedRange = (start + count)..<openedRange.upperBound
            moved += count
        }
        return .moved(moved)
    }

    /// Reads on until a record is open; nil when one is, else why not.
    private func openRecord() -> LinkProgress? {
        while true {
            if incomingCount >= Self.headerBytes {
                let count = Int(UInt32(littleEndian: incoming.load(as: UInt32.self)))
                let check = UInt32(littleEndian: incoming.load(fromByteOffset: 4, as: UInt32.self))
                guard count > 0, count <= Self.mostText, coord_crc32c(0, incoming.baseAddress, 4) == check
                else { return .failed(Self.brokenSeal) }
                let end = Self.headerBytes + count + RecordKey.tagBytes
                if incomingCount >= end {
                    guard
                        receiving.open(
                            UnsafeRawBufferPointer(rebasing: incoming[Self.headerBytes..<end]),
                            counter: received,
                            authenticating: UnsafeRawBufferPointer(rebasing: incoming[..<Self.headerBytes]),
                            into: opened
                        )
                    else { return .failed(Self.brokenSeal) }
                    received += 1
                    openedRange = 0..<count
                    incoming.copyMemory(from: UnsafeRawBufferPointer(rebasing: incoming[end..<incomingCount]))
                    incomingCount -= end
                    return nil
                }
            }
            let progress = base.receive(
                into: UnsafeMutableRawBufferPointer(rebasing: incoming[incomingCount...]),
                and: UnsafeMutableRawBufferPointer(start: nil, count: 0)
            )
            guard case .moved(let count) = progress else { return progress }
            incomingCount += count
        }
    }
}
