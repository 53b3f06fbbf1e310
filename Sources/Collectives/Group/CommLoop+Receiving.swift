internal import Basics
internal import CShims
internal import Dispatch
internal import Synchronization

// What arrives: whole frames, judged by the ledger before a byte of them is believed.
extension CommLoop {
    func read(_ link: MemberLink, _ now: ContinuousClock.Instant) throws(CollectivesError) {
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
            case .failed(SealedLink.brokenSeal): throw bad(link, "a record is not as it was sealed (AES-GCM)")
            case .failed(let number): return try ended(link, systemText(number))
            }
        }
    }

    /// Works off what was read.
    func digest(_ link: MemberLink) throws(CollectivesError) {
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
            // What is checked with a result's bytes serves the digest of the operation too.
            let isWanted = !link.isSealed || header.kind == .result
            let fingerprint = isWanted ? header.fingerprint(of: payload) : ResultFingerprint()
            guard
                link.isSealed
                    || FrameHeader.isIntact(UnsafeRawBufferPointer(link.headerBytes), fingerprint)
            else {
                throw bad(link, "a \(header.kind) frame arrived damaged (checksum)")
            }
            counters.framesReceived += 1
            link.header = nil
            link.payload = UnsafeMutableRawBufferPointer(start: nil, count: 0)
            link.payloadCame = 0
            if link.isDropped {
                counters.framesDropped += 1
            } else {
                try apply(header, payload, fingerprint, link)
            }
        }
    }

    /// Decides where the payload of a frame goes; stalls the link when the caller must begin the operation first.
    func route(_ header: FrameHeader, _ link: MemberLink) throws(CollectivesError) {
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
        guard let shape = plan.shape(of: header) else { throw unexpected(header, link) }
        let slot = slots[Int(header.operation & 1)]
        if slot.operation != header.operation {
            // The caller has not told its own numbers yet: memory is taken for no more than it ever asked for.
            if shape.byteCount > largest || shape.width > 65_536 {
                link.isStalled = true
                link.payload = UnsafeMutableRawBufferPointer(start: nil, count: 0)
                return
            }
            slot.begin(header.operation, shape)
        } else if slot.shape != shape {
            throw CollectivesError(
                .mismatch,
                "operation \(header.operation) is \(shape) at rank \(link.rank), \(slot.shape) here",
                ranks: [link.rank]
            )
        }
        try locate(header, link, slot)
    }

    func locate(
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
            let total = plan.lanes[link.rank].count * slot.shape.width
            let count = min(OperationLedger.doublesPerFrame, total - start)
            try check(header.offset == UInt32(start) && length == count * 8, header, link)
        case .contribution, .contributionPlace:
            guard let index = slot.ledger.next(.contribution, from: link.rank) else {
                throw unexpected(header, link)
            }
            let (owner, piece, position) = slot.ledger.contribution(index, from: link.rank, to: plan.rank)
            let range = segmentation.piece(piece, of: owner)
            let isOwn = slot.routes.leaders[link.rank] != link.rank
            let subtree = (isOwn ? plan.tree : slot.routes.tree).subtrees[link.rank][position]
            try check(
                header.offset == UInt32(range.lowerBound) && isRightSize(header, range, slot.shape)
                    && header.segment == UInt32(owner) && Int(header.subtreeStart) == subtree.start
                    && Int(header.subtreeLevel) == subtree.level && (isOwn || header.kind == .contribution),
                header,
                link
            )
            // A place is looked up, and another codec's payload decoded, when the frame is whole.
            guard header.kind == .contribution, slot.shape.codec == .exact else { return }
            let place =
                isOwn
                ? slot.sitePlace(of: link.rank, position: position, start: range.lowerBound)
                : slot.place(of: link.rank, position: position, piece: piece)
            link.payload = UnsafeMutableRawBufferPointer(start: place, count: length)
        case .result, .resultPlace:
            let owner = Int(header.segment)
            guard owner < plan.memberCount,
                let index = slot.ledger.next(.result, from: link.rank, of: owner)
            else { throw unexpected(header, link) }
            let range = segmentation.piece(index, of: owner)
            let isLeader = slot.routes.leaders[plan.rank] == link.rank
            try check(
                header.offset == UInt32(range.lowerBound) && isRightSize(header, range, slot.shape)
                    && (isLeader || header.kind == .result),
                header,
                link
            )
            guard let active, header.operation == current, let place = active.result(at: range.lowerBound)
            else {
                link.isStalled = true
                link.payload = UnsafeMutableRawBufferPointer(start: nil, count: 0)
                return
            }
            guard header.kind == .result, slot.shape.codec == .exact else { return }
            link.payload = UnsafeMutableRawBufferPointer(start: place, count: length)
        case .ready: try check(length == 32, header, link)
        case .beat, .abort, .bye: break
        }
    }

    /// Whether a frame carries as many bytes as its values take, or as a place does.
    func isRightSize(_ header: FrameHeader, _ range: Range<Int>, _ shape: OperationShape) -> Bool {
        switch header.kind {
        case .contributionPlace, .resultPlace: header.length == 8 && header.codec == 0
        default: shape.allows(byteCount: Int(header.length), of: range.count)
        }
    }

    func apply(
        _ header: FrameHeader,
        _ payload: UnsafeRawBufferPointer,
        _ fingerprint: ResultFingerprint,
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
        case .contribution, .contributionPlace:
            if let index = slot.ledger.next(.contribution, from: link.rank) {
                try take(contribution: index, header, payload, slot, link)
            }
            slot.ledger.received(.contribution, from: link.rank)
            link.lastContribution = .now
        case .result, .resultPlace:
            let owner = Int(header.segment)
            if let index = slot.ledger.next(.result, from: link.rank, of: owner) {
                let range = slot.ledger.segmentation.piece(index, of: owner)
                slot.took(try take(result: range, header, payload, fingerprint, slot, link))
            }
            slot.ledger.received(.result, from: link.rank, of: owner)
        case .ready:
            guard let digest = Digest(raw: payload), slot.ledger.ready(link.rank, digest) else {
                throw unexpected(header, link)
            }
        }
        if header.operation == current { try advance() }
    }

    /// Takes a contribution whose values did not arrive in their place.
    func take(
        contribution index: Int,
        _ header: FrameHeader,
        _ payload: UnsafeRawBufferPointer,
        _ slot: OperationSlot,
        _ link: MemberLink
    ) throws(CollectivesError) {
        let (owner, piece, position) = slot.ledger.contribution(index, from: link.rank, to: plan.rank)
        let range = slot.ledger.segmentation.piece(piece, of: owner)
        if header.kind == .contributionPlace {
            let base = try array(at: payload, of: link, slot.shape, range)
            guard slot.refer(link.rank, position: position, to: base) else {
                throw bad(link, "its values stand in two places")
            }
        } else if slot.shape.codec != .exact {
            let place = slot.place(of: link.rank, position: position, piece: piece)
            try decode(payload, into: place, range, slot.shape.codec, link)
        }
    }

    /// Takes a result; gives its fingerprint.
    func take(
        result range: Range<Int>,
        _ header: FrameHeader,
        _ payload: UnsafeRawBufferPointer,
        _ fingerprint: ResultFingerprint,
        _ slot: OperationSlot,
        _ link: MemberLink
    ) throws(CollectivesError) -> ResultFingerprint {
        let size = slot.shape.form.type.byteCount
        guard header.kind == .resultPlace || slot.shape.codec != .exact,
            let place = active?.result(at: range.lowerBound)
        else { return fingerprint }
        var taken = ResultFingerprint()
        if header.kind == .resultPlace {
            let source = try array(at: payload, of: link, slot.shape, range) + range.lowerBound * size
            taken.copy(source, to: place, range, size: size)
        } else {
            try decode(payload, into: place, range, slot.shape.codec, link)
            taken.add(place, range, size: size)
        }
        return taken
    }

    func decode(
        _ payload: UnsafeRawBufferPointer,
        into place: UnsafeMutableRawPointer?,
        _ range: Range<Int>,
        _ codec: PayloadCodec,
        _ link: MemberLink
    ) throws(CollectivesError) {
        guard let place = place?.assumingMemoryBound(to: Float.self),
            codec.decode(payload, into: place, count: range.count)
        else {
            throw bad(link, "\(payload.count) bytes are no \(codec) of \(range.count) values")
        }
    }

    func reported(_ payload: UnsafeRawBufferPointer, _ link: MemberLink) -> CollectivesError {
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
}
