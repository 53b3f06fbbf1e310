internal import Basics
internal import CShims
internal import Dispatch
internal import Synchronization

/// The thread of a group: moves all bytes, adds, decides with the pure parts, tells the caller.
///
/// Safety: made by the thread's function and used by that thread alone.
final class CommLoop {
    private let plan: GroupPlan
    private let shared: GroupShared
    private let onFailure: (@Sendable (CollectivesError) -> Void)?
    private let links: [MemberLink]
    private let slots: [OperationSlot]
    private var polls = PollSet()
    private var watch: SilenceWatch
    private var counters = Group.Counters()
    /// The operation that all of this is about, or the next one.
    private var current: UInt64
    /// The caller's part of it, while the caller waits.
    private var active: PostedOperation?
    /// A member ended after its last word on the running operation: that one still completes.
    private var nextFailure: CollectivesError?
    private var leaves: [UnsafePointer<Float>?]
    /// The most values that are received before the caller begins an operation.
    private var largest: UInt32 = 1 << 20

    init(
        _ plan: GroupPlan,
        _ shared: GroupShared,
        _ links: [Int: any Link],
        _ onFailure: (@Sendable (CollectivesError) -> Void)?
    ) {
        let now = ContinuousClock.now
        self.plan = plan
        self.shared = shared
        self.onFailure = onFailure
        self.links = links.sorted { $0.key < $1.key }.map {
            MemberLink(rank: $0.key, link: $0.value, now: now)
        }
        slots = [OperationSlot(plan: plan), OperationSlot(plan: plan)]
        watch = SilenceWatch(members: plan.memberCount, limit: plan.silenceLimit, now: now)
        current = shared.state.withLock { $0.member.committed }
        leaves = Array(repeating: nil, count: plan.tree.leaves.count)
    }

    private var slot: OperationSlot { slots[Int(current & 1)] }

    /// Runs until the group is closed or fails; closes the links.
    func run() {
        var failure: CollectivesError?
        do throws(CollectivesError) {
            while try turn() {}
            failure = nextFailure
        } catch {
            failure = error
        }
        finish(failure)
    }

    /// One round; false when the group is closed.
    private func turn() throws(CollectivesError) -> Bool {
        polls.clear()
        polls.add(shared.wake.descriptor, read: true, write: false)
        var next = ContinuousClock.now + SilenceWatch.beatInterval
        for link in links {
            // A negative descriptor is skipped by poll(2).
            polls.add(
                link.hasEnded ? -1 : link.link.descriptor,
                read: !link.isStalled,
                write: !link.isFlushed
            )
            next = min(next, link.lastSent + SilenceWatch.beatInterval)
        }
        polls.wait(until: next)
        let now = ContinuousClock.now
        if polls.isReadable(0), try !takeOrders(now) { return false }
        for (index, link) in links.enumerated() where !link.hasEnded {
            if link.isStalled {
                if polls.hasEnded(index + 1) { try ended(link, "the connection ended") }
            } else if polls.isReadable(index + 1) {
                try read(link, now)
            }
        }
        try flushAll(now)
        let silent = watch.look(awaited: active == nil ? [] : awaited, at: now)
        if !silent.isEmpty {
            let list = silent.map(String.init).joined(separator: ", ")
            throw CollectivesError(
                .peerSilent,
                "nothing came from rank \(list) for \(plan.silenceLimit) while operation \(current) waits",
                ranks: silent
            )
        }
        return true
    }

    private var awaited: [Int] {
        slot.ledger.awaited.filter { rank in links.contains { $0.rank == rank && !$0.hasEnded } }
    }

    // MARK: Orders

    private func takeOrders(_ now: ContinuousClock.Instant) throws(CollectivesError) -> Bool {
        shared.wake.clear()
        let (posted, reason, closes) = shared.state.withLock { state in
            defer { state.posted = nil }
            return (state.posted, state.abortReason, state.isClosing)
        }
        if let posted { try begin(posted, now) }
        if let reason { throw CollectivesError(.aborted, reason) }
        if closes {
            if active != nil {
                throw CollectivesError(.aborted, "the group was closed during operation \(current)")
            }
            return false
        }
        return true
    }

    private func begin(_ posted: PostedOperation, _ now: ContinuousClock.Instant) throws(CollectivesError) {
        active = posted
        largest = max(largest, UInt32(posted.elements))
        if slot.operation == nil {
            slot.begin(posted.operation, elements: posted.elements, width: posted.width)
        } else if slot.elements != posted.elements || slot.width != posted.width {
            throw CollectivesError(
                .mismatch,
                "operation \(current) has \(posted.elements) values and rows of \(posted.width) here, "
                    + "\(slot.elements) and \(slot.width) at another member"
            )
        }
        slot.takeOwnRows(posted.laneValues)
        for link in links {
            link.beginOperation()
            if link.isStalled {
                link.isStalled = false
                watch.heard(link.rank, at: now)
                try digest(link)
            }
        }
        try advance()
    }

    // MARK: Receiving

    private func read(_ link: MemberLink, _ now: ContinuousClock.Instant) throws(CollectivesError) {
        // Bounded, so that one fast member can't keep the others waiting.
        for _ in 0..<8 {
            switch link.read() {
            case .moved(let count):
                counters.bytesReceived += count
                watch.heard(link.rank, at: now)
                try digest(link)
                if link.isStalled || link.hasEnded { return }
            case .wouldBlock: return
            case .ended: return try ended(link, "the connection ended")
            case .failed(let number): return try ended(link, systemText(number))
            }
        }
    }

    /// Works off what was read.
    private func digest(_ link: MemberLink) throws(CollectivesError) {
        while !link.hasEnded {
            if link.header == nil {
                guard link.inboxTail - link.inboxHead >= FrameHeader.byteCount else { return }
                let bytes = UnsafeRawBufferPointer(
                    rebasing: link.inbox[link.inboxHead..<(link.inboxHead + FrameHeader.byteCount)]
                )
                link.headerBytes.copyMemory(from: bytes)
                link.inboxHead += FrameHeader.byteCount
                let header: FrameHeader
                do throws(CollectivesError) {
                    header = try FrameHeader(parsing: bytes)
                } catch {
                    throw bad(link, error.message)
                }
                link.header = header
                try route(header, link)
                if link.isStalled { return }
            } else if link.payloadCame == 0, link.payload.isEmpty, let header = link.header,
                header.length > 0
            {
                try route(header, link)  // it was stalled
                if link.isStalled { return }
            }
            let take = min(link.payload.count - link.payloadCame, link.inboxTail - link.inboxHead)
            if take > 0 {
                UnsafeMutableRawBufferPointer(rebasing: link.payload[link.payloadCame...]).copyMemory(
                    from: UnsafeRawBufferPointer(
                        rebasing: link.inbox[link.inboxHead..<(link.inboxHead + take)]
                    )
                )
                link.inboxHead += take
                link.payloadCame += take
            }
            guard link.payloadCame == link.payload.count, let header = link.header else { return }
            let payload = UnsafeRawBufferPointer(link.payload)
            guard FrameHeader.isIntact(header: UnsafeRawBufferPointer(link.headerBytes), payload: payload)
            else {
                throw bad(link, "a \(header.kind) frame arrived damaged (CRC-32C)")
            }
            counters.framesReceived += 1
            link.header = nil
            link.payload = UnsafeMutableRawBufferPointer(start: nil, count: 0)
            link.payloadCame = 0
            if link.isDropped {
                counters.framesDropped += 1
            } else {
                try apply(header, payload, link)
            }
        }
    }

    /// Decides where the payload of a frame goes; stalls the link when the caller must begin the operation first.
    private func route(_ header: FrameHeader, _ link: MemberLink) throws(CollectivesError) {
        link.payload = UnsafeMutableRawBufferPointer(rebasing: link.scrap[..<Int(header.length)])
        link.isDropped =
            header.run != plan.run || header.generation != plan.generation
            || header.sender != UInt32(link.rank)
        if link.isDropped { return }
        switch header.kind {
        case .beat, .bye: return try check(header.length == 0, header, link)
        case .abort: return try check(header.length <= 64, header, link)
        default: break
        }
        link.isDropped = header.operation < current
        if link.isDropped { return }
        // A member that has this member's word on `current` may be one ahead, never more.
        try check(header.operation <= current + 1, header, link)
        let slot = slots[Int(header.operation & 1)]
        if slot.operation != header.operation {
            // The caller has not told its own numbers yet: memory is taken for no more than it ever asked for.
            if header.elements > largest || header.width > 65_536 {
                link.isStalled = true
                link.payload = UnsafeMutableRawBufferPointer(start: nil, count: 0)
                return
            }
            slot.begin(header.operation, elements: Int(header.elements), width: Int(header.width))
        } else if slot.elements != Int(header.elements) || slot.width != Int(header.width) {
            throw CollectivesError(
                .mismatch,
                "rank \(link.rank) sends operation \(header.operation) with \(header.elements) values and rows of "
                    + "\(header.width); here it has \(slot.elements) and \(slot.width)",
                ranks: [link.rank]
            )
        }
        try locate(header, link, slot)
    }

    private func locate(
        _ header: FrameHeader,
        _ link: MemberLink,
        _ slot: OperationSlot
    ) throws(CollectivesError) {
        let length = Int(header.length)
        let segmentation = slot.ledger.segmentation
        switch header.kind {
        case .laneValues:
            guard let index = slot.ledger.next(.laneValues, from: link.rank) else {
                throw unexpected(header, link)
            }
            let start = index * OperationLedger.doublesPerFrame
            let total = plan.lanes[link.rank].count * slot.width
            let count = min(OperationLedger.doublesPerFrame, total - start)
            try check(header.offset == UInt32(start) && length == count * 8, header, link)
        case .contribution:
            guard let index = slot.ledger.next(.contribution, from: link.rank) else {
                throw unexpected(header, link)
            }
            let (piece, position) = slot.ledger.contribution(index, from: link.rank)
            let range = segmentation.piece(piece, of: plan.rank)
            let subtree = plan.tree.subtrees[link.rank][position]
            try check(
                header.offset == UInt32(range.lowerBound) && length == range.count * 4
                    && header.segment == UInt32(plan.rank) && Int(header.subtreeStart) == subtree.start
                    && Int(header.subtreeLevel) == subtree.level,
                header,
                link
            )
            let place = slot.place(of: link.rank, position: position, start: range.lowerBound)
            link.payload = UnsafeMutableRawBufferPointer(start: place, count: length)
        case .result:
            guard let index = slot.ledger.next(.result, from: link.rank) else {
                throw unexpected(header, link)
            }
            let range = segmentation.piece(index, of: link.rank)
            try check(
                header.offset == UInt32(range.lowerBound) && length == range.count * 4
                    && header.segment == UInt32(link.rank),
                header,
                link
            )
            guard let active, header.operation == current, let sum = active.sum else {
                link.isStalled = true
                link.payload = UnsafeMutableRawBufferPointer(start: nil, count: 0)
                return
            }
            link.payload = UnsafeMutableRawBufferPointer(
                start: sum.advanced(by: range.lowerBound),
                count: length
            )
        case .ready: try check(length == 32, header, link)
        case .beat, .abort, .bye: break
        }
    }

    private func apply(
        _ header: FrameHeader,
        _ payload: UnsafeRawBufferPointer,
        _ link: MemberLink
    ) throws(CollectivesError) {
        let slot = slots[Int(header.operation & 1)]
        switch header.kind {
        case .beat: return
        case .bye:
            return try ended(
                link,
                CollectivesError(
                    .peerLeft,
                    "rank \(link.rank) left generation \(plan.generation)",
                    ranks: [link.rank]
                )
            )
        case .abort: return try ended(link, reported(payload, link))
        case .laneValues:
            slot.takeRows(of: link.rank, start: Int(header.offset), payload)
            slot.ledger.received(.laneValues, from: link.rank)
        case .contribution: slot.ledger.received(.contribution, from: link.rank)
        case .result:
            let values = payload.assumingMemoryBound(to: Float.self)
            if let base = values.baseAddress {
                slot.fingerprint.add(base, first: Int(header.offset), count: values.count)
            }
            slot.ledger.received(.result, from: link.rank)
        case .ready:
            guard let digest = Digest(raw: payload), slot.ledger.ready(link.rank, digest) else {
                throw unexpected(header, link)
            }
        }
        if header.operation == current { try advance() }
    }

    private func reported(_ payload: UnsafeRawBufferPointer, _ link: MemberLink) -> CollectivesError {
        let what = CollectivesError.Code.name(wire: payload.first ?? 0)
        let ranks = payload.dropFirst().map { Int($0) }.filter { $0 < plan.memberCount }
        let blamed = ranks.isEmpty ? "" : " of rank \(ranks.map(String.init).joined(separator: ", "))"
        return CollectivesError(
            .peerAborted,
            "rank \(link.rank) gave up generation \(plan.generation): \(what)\(blamed)",
            ranks: ranks,
            reportedBy: link.rank
        )
    }

    // MARK: Going on

    /// Does what the parts at hand allow: sum, say READY, commit.
    private func advance() throws(CollectivesError) {
        guard let active else { return }
        while let piece = slot.ledger.summablePiece {
            add(slot.ledger.segmentation.piece(piece, of: plan.rank), active)
            slot.ledger.summed()
        }
        if slot.ledger.readyDigests[plan.rank] == nil, slot.ledger.isComplete {
            // From here on the result is retained: the caller's memory holds all of it.
            _ = active.laneValues.update(fromContentsOf: slot.rows)
            let digest = slot.fingerprint.digest(active)
            shared.state.withLock { $0.member.becomeReady(digest) }
            _ = slot.ledger.ready(plan.rank, digest)
        }
        if case .diverged(let ranks) = slot.ledger.verdict {
            throw CollectivesError(
                .diverged,
                "members hold different results of operation \(current): ranks "
                    + ranks.map(String.init).joined(separator: ", "),
                ranks: ranks
            )
        }
    }

    private func add(_ range: Range<Int>, _ active: PostedOperation) {
        guard let sum = active.sum else { return }
        for (index, leaf) in plan.tree.leaves.enumerated() {
            if leaf.rank == plan.rank {
                leaves[index] = active.contributions[leaf.position]?.advanced(by: range.lowerBound)
            } else {
                let place = slot.place(of: leaf.rank, position: leaf.position, start: range.lowerBound)
                leaves[index] = UnsafePointer(place)
            }
        }
        let target = sum.advanced(by: range.lowerBound)
        leaves.withUnsafeBufferPointer { leaves in
            if let leaves = leaves.baseAddress {
                plan.tree.sum(leaves, into: target, count: range.count, mode: active.floatMode)
            }
        }
        slot.fingerprint.add(target, first: range.lowerBound, count: range.count)
    }

    // MARK: Sending

    private func flushAll(_ now: ContinuousClock.Instant) throws(CollectivesError) {
        for link in links where !link.hasEnded { try flush(link, now) }
        try commitIfDecided()
    }

    private func flush(_ link: MemberLink, _ now: ContinuousClock.Instant) throws(CollectivesError) {
        if link.isFlushed, now >= link.lastSent + SilenceWatch.beatInterval {
            link.queue(frame(.beat), UnsafeRawBufferPointer(start: nil, count: 0))
            link.lastSent = now
        }
        for _ in 0..<8 {
            fill(link)
            if link.isFlushed { return }
            switch link.write() {
            case .moved(let count):
                counters.bytesSent += count
                link.lastSent = now
                if !link.isFlushed { return }
            case .wouldBlock: return
            // What the member said last (why it gave up) may still be readable: the reading side ends the link.
            case .ended, .failed: return try drain(link, now)
            }
        }
        fill(link)  // so that poll(2) knows that there is more
    }

    private func drain(_ link: MemberLink, _ now: ContinuousClock.Instant) throws(CollectivesError) {
        while !link.hasEnded, !link.isStalled {
            switch link.read() {
            case .moved: try digest(link)
            case .wouldBlock, .ended, .failed: return try ended(link, "it can't be written to any more")
            }
        }
        if !link.hasEnded { try ended(link, "it can't be written to any more") }
    }

    private func frame(_ kind: FrameHeader.Kind) -> FrameHeader {
        var header = FrameHeader(
            kind: kind,
            run: plan.run,
            generation: plan.generation,
            sender: UInt32(plan.rank)
        )
        if active != nil {
            header.operation = current
            header.elements = UInt32(slot.elements)
            header.width = UInt32(slot.width)
        }
        return header
    }

    /// Queues what is due to a member: rows, results (others wait for them), contributions, READY.
    private func fill(_ link: MemberLink) {
        guard let active else { return }
        while link.hasRoom(for: MemberLink.smallPayload), queueNext(link, active) {}
    }

    private func queueNext(_ link: MemberLink, _ active: PostedOperation) -> Bool {
        let segmentation = slot.ledger.segmentation
        let mine = plan.tree.subtrees[plan.rank]
        let laneStart = link.laneFramesSent * OperationLedger.doublesPerFrame
        if laneStart < slot.ownRows.count {
            var header = frame(.laneValues)
            header.offset = UInt32(laneStart)
            let end = min(slot.ownRows.count, laneStart + OperationLedger.doublesPerFrame)
            link.queue(
                header,
                UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: slot.ownRows[laneStart..<end]))
            )
            link.laneFramesSent += 1
        } else if link.resultsSent < slot.ledger.summedPieces {
            var header = frame(.result)
            let range = segmentation.piece(link.resultsSent, of: plan.rank)
            header.segment = UInt32(plan.rank)
            header.offset = UInt32(range.lowerBound)
            link.queue(header, Self.bytes(active.sum, range))
            link.resultsSent += 1
        } else if link.contributionsSent < segmentation.pieceCount(of: link.rank) * mine.count {
            let (piece, position) = link.contributionsSent.quotientAndRemainder(dividingBy: mine.count)
            let range = segmentation.piece(piece, of: link.rank)
            var header = frame(.contribution)
            header.segment = UInt32(link.rank)
            header.subtreeStart = UInt16(mine[position].start)
            header.subtreeLevel = UInt16(mine[position].level)
            header.offset = UInt32(range.lowerBound)
            link.queue(header, Self.bytes(active.contributions[position], range))
            link.contributionsSent += 1
        } else if !link.readyQueued, let digest = slot.ledger.readyDigests[plan.rank] {
            digest.raw.withUnsafeBytes { link.queue(frame(.ready), $0) }
            link.readyQueued = true
        } else {
            return false
        }
        return true
    }

    private static func bytes(_ values: UnsafePointer<Float>?, _ range: Range<Int>) -> UnsafeRawBufferPointer
    {
        UnsafeRawBufferPointer(start: values?.advanced(by: range.lowerBound), count: range.count * 4)
    }
    private static func bytes(
        _ values: UnsafeMutablePointer<Float>?,
        _ range: Range<Int>
    ) -> UnsafeRawBufferPointer {
        bytes(UnsafePointer(values), range)
    }

    // MARK: The end of an operation

    private func commitIfDecided() throws(CollectivesError) {
        guard active != nil, slot.ledger.verdict == .commit else { return }
        // The caller may end the process next: its own word must be on its way first.
        guard links.allSatisfy({ $0.hasEnded || ($0.readyQueued && $0.isFlushed) }) else { return }
        active = nil
        slot.end()
        current += 1
        shared.state.withLock { state in
            state.member.commit()
            state.outcome = nil
            state.isInFlight = false
            state.counters = counters
        }
        // What it was told about the end of a member must stand before the caller goes on to the next operation.
        if let nextFailure { shared.state.withLock { $0.failure = nextFailure } }
        shared.finished.signal()
        if let nextFailure { throw nextFailure }
    }

    // MARK: Failing

    private func check(_ claim: Bool, _ header: FrameHeader, _ link: MemberLink) throws(CollectivesError) {
        if !claim { throw unexpected(header, link) }
    }
    private func unexpected(_ header: FrameHeader, _ link: MemberLink) -> CollectivesError {
        bad(link, "a \(header.kind) frame of operation \(header.operation) makes no sense now")
    }
    private func bad(_ link: MemberLink, _ what: String) -> CollectivesError {
        CollectivesError(.badFrame, "rank \(link.rank): \(what)", ranks: [link.rank])
    }

    private func ended(_ link: MemberLink, _ reason: String) throws(CollectivesError) {
        try ended(
            link,
            CollectivesError(.peerLost, "rank \(link.rank) is lost: \(reason)", ranks: [link.rank])
        )
    }

    /// A link ended: at once the end of the group, unless the running operation needs nothing more from it.
    private func ended(_ link: MemberLink, _ error: CollectivesError) throws(CollectivesError) {
        guard !link.hasEnded else { return }
        link.hasEnded = true
        guard active != nil, slot.ledger.readyDigests[link.rank] != nil else { throw nextFailure ?? error }
        if nextFailure == nil {
            nextFailure = error
            onFailure?(error)
        }
    }

    /// Tells the others and the caller, closes the links; nobody touches the caller's memory after that.
    private func finish(_ failure: CollectivesError?) {
        let goodbye = failure.map { ($0, frame(.abort)) }
        for link in links where !link.hasEnded {
            // A payload that is half written can only be finished by its own bytes, so the goodbye waits for them.
            if let (error, header) = goodbye {
                let payload = [error.code.wire] + error.ranks.prefix(60).map { UInt8(truncatingIfNeeded: $0) }
                if link.outgoing.isEmpty, link.hasRoom(for: 64) {
                    payload.withUnsafeBytes { link.queue(header, $0) }
                } else {
                    link.pendingGoodbye = (header, payload)
                }
            } else if link.hasRoom(for: 0) {
                link.queue(frame(.bye), UnsafeRawBufferPointer(start: nil, count: 0))
            }
        }
        sayGoodbye(until: .now + (failure == nil ? .milliseconds(500) : .milliseconds(50)))
        for link in links {
            link.link.finishSending()
            link.link.close()
        }
        active = nil
        let isWaiting = shared.state.withLock { state in
            state.counters = counters
            let end =
                failure ?? CollectivesError(.closed, "the group of generation \(plan.generation) is closed")
            state.failure = end
            defer { state.isInFlight = false }
            if state.isInFlight { state.outcome = end }
            return state.isInFlight
        }
        if let failure, failure.code != .aborted, nextFailure == nil { onFailure?(failure) }
        if isWaiting { shared.finished.signal() }
    }

    private func sayGoodbye(until deadline: ContinuousClock.Instant) {
        while ContinuousClock.now < deadline {
            polls.clear()
            for link in links where !link.hasEnded {
                if case .failed = link.write() { link.hasEnded = true }
                if link.isFlushed, let (header, payload) = link.pendingGoodbye {
                    link.pendingGoodbye = nil
                    payload.withUnsafeBytes { link.queue(header, $0) }
                    if case .failed = link.write() { link.hasEnded = true }
                }
                if !link.hasEnded, !link.isFlushed {
                    polls.add(link.link.descriptor, read: false, write: true)
                }
            }
            if polls.entries.isEmpty { return }
            polls.wait(until: deadline)
        }
    }
}
