internal import Basics
internal import CShims
internal import Dispatch
internal import Synchronization

// What goes out: the frames that are due, as far as the links take them.
extension CommLoop {
    func flushAll(_ now: ContinuousClock.Instant) throws(CollectivesError) {
        for link in links where !link.hasEnded { try flush(link, now) }
        try commitIfDecided()
    }

    func flush(_ link: MemberLink, _ now: ContinuousClock.Instant) throws(CollectivesError) {
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

    func drain(_ link: MemberLink, _ now: ContinuousClock.Instant) throws(CollectivesError) {
        while !link.hasEnded, !link.isStalled {
            switch link.read() {
            case .moved: try digest(link)
            case .wouldBlock, .ended, .failed: return try ended(link, "it can't be written to any more")
            }
        }
        if !link.hasEnded { try ended(link, "it can't be written to any more") }
    }

    func frame(_ kind: FrameHeader.Kind) -> FrameHeader {
        var header = FrameHeader(
            kind: kind,
            run: plan.run,
            generation: plan.generation,
            sender: UInt32(plan.rank)
        )
        if active != nil {
            header.operation = current
            header.elements = UInt32(slot.shape.elements)
            header.width = UInt32(slot.shape.width)
            header.codec = slot.shape.codec.wire
            header.form = slot.shape.form.wire
        }
        return header
    }

    /// Queues what is due to a member: rows, results (others wait for them), contributions, READY.
    func fill(_ link: MemberLink) {
        guard let active else { return }
        while link.hasRoom(for: MemberLink.smallPayload), queueNext(link, active) {}
    }

    func queueNext(_ link: MemberLink, _ active: PostedOperation) -> Bool {
        let segmentation = slot.ledger.segmentation
        let mine = plan.tree.subtrees[plan.rank]
        let size = slot.shape.form.type.byteCount
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
        } else if link.resultsSent < slot.ledger.resultsDue {
            var header = frame(.result)
            let range = segmentation.piece(link.resultsSent, of: plan.rank)
            header.segment = UInt32(plan.rank)
            header.offset = UInt32(range.lowerBound)
            if let feedback = active.feedback {
                link.queue(header, feedback.encoded(link.resultsSent, of: plan.rank))
            } else {
                let values = Self.bytes(UnsafeRawPointer(active.result), range, size)
                link.queue(header, values, known: slot.pieces[link.resultsSent])
            }
            link.resultsSent += 1
        } else if link.contributionsSent < slot.ledger.contributionsDue(to: link.rank) {
            let (piece, position) = link.contributionsSent.quotientAndRemainder(dividingBy: mine.count)
            let range = segmentation.piece(piece, of: link.rank)
            var header = frame(.contribution)
            header.segment = UInt32(link.rank)
            header.subtreeStart = UInt16(mine[position].start)
            header.subtreeLevel = UInt16(mine[position].level)
            header.offset = UInt32(range.lowerBound)
            let contribution = active.feedback?.encoded(piece, of: link.rank)
            link.queue(header, contribution ?? Self.bytes(active.contributions[position], range, size))
            link.contributionsSent += 1
        } else if !link.readyQueued, let digest = slot.ledger.readyDigests[plan.rank] {
            withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { bytes in
                digest.store(to: bytes)
                link.queue(frame(.ready), UnsafeRawBufferPointer(bytes))
            }
            link.readyQueued = true
        } else {
            return false
        }
        return true
    }

    static func bytes(_ values: UnsafeRawPointer?, _ range: Range<Int>, _ size: Int) -> UnsafeRawBufferPointer
    {
        UnsafeRawBufferPointer(
            start: values?.advanced(by: range.lowerBound * size),
            count: range.count * size
        )
    }
}
