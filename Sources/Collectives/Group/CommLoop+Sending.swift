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
        } else if let owner = plan.lanes.indices.first(where: {
            link.resultsSent[$0] < slot.ledger.resultsDue(of: $0, to: link.rank)
        }) {
            queueResult(of: owner, link, active)
        } else if link.contributionsSent < slot.ledger.contributionsDue(to: link.rank) {
            queueContribution(link, active)
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

    func queueResult(of owner: Int, _ link: MemberLink, _ active: PostedOperation) {
        let piece = link.resultsSent[owner]
        let range = slot.ledger.segmentation.piece(piece, of: owner)
        var header = frame(.result)
        header.segment = UInt32(owner)
        header.offset = UInt32(range.lowerBound)
        if let feedback = active.feedback {
            link.queue(header, feedback.encoded(piece, of: owner))
        } else {
            let values = Self.bytes(UnsafeRawPointer(active.result), range, slot.shape.form.type.byteCount)
            queue(values, header, link, known: owner == plan.rank ? slot.pieces[piece] : nil)
        }
        link.resultsSent[owner] += 1
    }

    func queueContribution(_ link: MemberLink, _ active: PostedOperation) {
        let index = link.contributionsSent
        let (owner, piece, position) = slot.ledger.contribution(index, from: plan.rank, to: link.rank)
        let range = slot.ledger.segmentation.piece(piece, of: owner)
        let isCarried = slot.routes.leaders[plan.rank] == plan.rank
        let subtree = (isCarried ? slot.routes.tree : plan.tree).subtrees[plan.rank][position]
        var header = frame(.contribution)
        header.segment = UInt32(owner)
        header.subtreeStart = UInt16(subtree.start)
        header.subtreeLevel = UInt16(subtree.level)
        header.offset = UInt32(range.lowerBound)
        if isCarried, position == 0 { addUpSite(range, active) }
        if let contribution = active.feedback?.encoded(piece, of: owner) {
            link.queue(header, contribution)
        } else {
            let base = isCarried ? carriedBase(position, active) : active.contributions[position]
            queue(Self.bytes(base, range, slot.shape.form.type.byteCount), header, link)
        }
        link.contributionsSent += 1
    }

    /// Queues values, or where they stand, when the member reads them there.
    func queue(
        _ values: UnsafeRawBufferPointer,
        _ header: FrameHeader,
        _ link: MemberLink,
        known: ResultFingerprint? = nil
    ) {
        guard link.readsMemory, let place = site?.place(of: values.baseAddress, byteCount: values.count)
        else { return link.queue(header, values, known: known) }
        var header = header
        header.kind = header.kind == .result ? .resultPlace : .contributionPlace
        withUnsafeBytes(of: place.littleEndian) { link.queue(header, $0) }
    }

    static func bytes(_ values: UnsafeRawPointer?, _ range: Range<Int>, _ size: Int) -> UnsafeRawBufferPointer
    {
        UnsafeRawBufferPointer(
            start: values?.advanced(by: range.lowerBound * size),
            count: range.count * size
        )
    }
}
