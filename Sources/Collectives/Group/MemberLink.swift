internal import Basics

/// One link of a group with its buffers and cursors; used by the group's thread alone.
final class MemberLink {
    /// Bytes gathered per read or write beside the payload.
    static let stagingBytes = 65_536
    /// Payloads up to this size are copied beside their header, so that small frames share one system call.
    static let smallPayload = 4096

    let rank: Int
    let link: any Link
    /// Frames need no checksum.
    let isSealed: Bool

    // MARK: Inbound
    let inbox = UnsafeMutableRawBufferPointer.allocate(byteCount: stagingBytes, alignment: 64)
    var inboxHead = 0
    var inboxTail = 0
    /// The bytes of the header being received, as they came.
    let headerBytes = UnsafeMutableRawBufferPointer.allocate(byteCount: FrameHeader.byteCount, alignment: 64)
    /// The header whose payload is being received, or which waits (stalled).
    var header: FrameHeader?
    var payload = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    var payloadCame = 0
    var isDropped = false
    /// Payloads that are no values end here.
    let scrap = UnsafeMutableRawBufferPointer.allocate(byteCount: FrameHeader.maxPayload, alignment: 64)
    /// The next frame belongs to an operation that the caller has not begun: reading waits.
    var isStalled = false
    var hasEnded = false
    /// When it last gave a part of what it computed.
    var lastContribution: ContinuousClock.Instant?

    // MARK: Outbound
    let outbox = UnsafeMutableRawBufferPointer.allocate(byteCount: stagingBytes, alignment: 64)
    var outboxHead = 0
    var outboxTail = 0
    /// What follows the outbox: the caller's memory.
    var outgoing = UnsafeRawBufferPointer(start: nil, count: 0)
    var lastSent: ContinuousClock.Instant
    var laneFramesSent = 0
    var contributionsSent = 0
    /// By owner.
    var resultsSent: [Int]
    var readyQueued = false
    /// Whether the member is told where values stand, in this operation.
    var readsMemory = false
    /// A drill: the next frame goes out with a bit flipped.
    var damagesNext = false
    /// Goes out when the payload before it is written.
    var pendingGoodbye: (FrameHeader, [UInt8])?

    init(rank: Int, link: any Link, members: Int, now: ContinuousClock.Instant) {
        resultsSent = Array(repeating: 0, count: members)
        self.rank = rank
        self.link = link
        isSealed = link.isSealed
        lastSent = now
    }
    deinit {
        inbox.deallocate()
        headerBytes.deallocate()
        scrap.deallocate()
        outbox.deallocate()
    }

    /// Nothing waits to be written.
    var isFlushed: Bool { outboxHead == outboxTail && outgoing.isEmpty && !link.hasUnsent }

    /// Starts the cursors of a new operation.
    func beginOperation() {
        (laneFramesSent, contributionsSent, readyQueued) = (0, 0, false)
        for owner in resultsSent.indices { resultsSent[owner] = 0 }
    }

    /// Room for one more frame with a payload of that size.
    func hasRoom(for payload: Int) -> Bool {
        guard outgoing.isEmpty else { return false }
        let copied = payload <= Self.smallPayload ? payload : 0
        return Self.stagingBytes - outboxTail >= FrameHeader.byteCount + copied
    }

    /// Appends a frame; a large payload stays where it is until it is written.
    ///
    /// - Parameter known: the payload's fingerprint, where it is known.
    func queue(_ header: FrameHeader, _ payload: UnsafeRawBufferPointer, known: ResultFingerprint? = nil) {
        var header = header
        let place = UnsafeMutableRawBufferPointer(rebasing: outbox[outboxTail..<outbox.count])
        header.seal(into: place, payload: payload, checked: !isSealed, known: known)
        outboxTail += FrameHeader.byteCount
        if payload.count <= Self.smallPayload {
            if let source = payload.baseAddress {
                place.baseAddress?.advanced(by: FrameHeader.byteCount)
                    .copyMemory(from: source, byteCount: payload.count)
            }
            outboxTail += payload.count
        } else {
            outgoing = payload
        }
        if damagesNext {
            damagesNext = false
            // The last byte that lies here: of the payload, or of the checksum before one that lies elsewhere.
            if isSealed { link.damageNext() } else { outbox[outboxTail - 1] ^= 0x10 }
        }
    }

    /// Writes what is queued: `.moved(0)` when nothing is left to write.
    func write() -> LinkProgress {
        var total = 0
        while !isFlushed {
            let staged = UnsafeRawBufferPointer(rebasing: outbox[outboxHead..<outboxTail])
            if staged.isEmpty, outgoing.isEmpty {
                // Only what the link itself holds back.
                switch link.flush() {
                case .moved: continue
                case .wouldBlock: return total > 0 ? .moved(total) : .wouldBlock
                case .ended: return .ended
                case .failed(let number): return .failed(number)
                }
            }
            switch link.send(staged, and: outgoing) {
            case .moved(let count):
                total += count
                let fromStaging = min(count, staged.count)
                outboxHead += fromStaging
                if outboxHead == outboxTail { (outboxHead, outboxTail) = (0, 0) }
                outgoing = UnsafeRawBufferPointer(rebasing: outgoing[(count - fromStaging)...])
            case .wouldBlock: return total > 0 ? .moved(total) : .wouldBlock
            case .ended: return .ended
            case .failed(let number): return .failed(number)
            }
        }
        return .moved(total)
    }

    /// Reads once: first what the payload lacks, the rest into the inbox.
    func read() -> LinkProgress {
        if inboxHead == inboxTail { (inboxHead, inboxTail) = (0, 0) }
        let lacking = header == nil || isStalled ? 0 : payload.count - payloadCame
        let first = UnsafeMutableRawBufferPointer(rebasing: payload[payloadCame..<(payloadCame + lacking)])
        if inboxHead > 0, lacking == 0 {
            // A header cut in two: to the front with its beginning.
            inbox.copyMemory(from: UnsafeRawBufferPointer(rebasing: inbox[inboxHead..<inboxTail]))
            (inboxHead, inboxTail) = (0, inboxTail - inboxHead)
        }
        // Behind a payload little more than the next header is wanted: the rest can go straight to its place.
        let room = lacking > 0 ? min(inbox.count - inboxTail, 4096) : inbox.count - inboxTail
        let second = UnsafeMutableRawBufferPointer(rebasing: inbox[inboxTail..<(inboxTail + room)])
        let progress = link.receive(into: first, and: second)
        if case .moved(let count) = progress {
            let toPayload = min(count, lacking)
            payloadCame += toPayload
            inboxTail += count - toPayload
        }
        return progress
    }
}
