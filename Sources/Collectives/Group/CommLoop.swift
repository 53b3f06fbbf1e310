internal import Basics
internal import CShims
internal import Dispatch
internal import Synchronization

/// The thread of a group: moves all bytes, adds, decides with the pure parts, tells the caller.
///
/// Safety: made by the thread's function and used by that thread alone.
final class CommLoop {
    let plan: GroupPlan
    let shared: GroupShared
    let exchange: SharedExchange?
    let site: SiteMemory?
    let onFailure: (@Sendable (CollectivesError) -> Void)?
    let onWait: (@Sendable (GroupWait) -> Void)?
    let links: [MemberLink]
    let slots: [OperationSlot]
    var polls = PollSet()
    var watch: SilenceWatch
    /// Nobody becomes silent or late within milliseconds, and a look makes lists.
    var nextLook: ContinuousClock.Instant
    var lateness: LatenessWatch
    var counters = Group.Counters()
    /// The operation that all of this is about, or the next one.
    var current: UInt64
    /// The caller's part of it, while the caller waits.
    var active: PostedOperation?
    /// A member ended after its last word on the running operation: that one still completes.
    var nextFailure: CollectivesError?
    var leaves: [UnsafeRawPointer?]
    /// What this member's site adds up to, subtree by subtree, as far as it was asked for.
    var carried = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    /// A drill: until then nothing is read or written.
    var silentUntil: ContinuousClock.Instant?
    /// The most bytes that are received before the caller begins an operation.
    var largest = 4 << 20

    init(
        _ plan: GroupPlan,
        _ shared: GroupShared,
        _ links: [Int: any Link],
        _ exchange: SharedExchange?,
        _ site: SiteMemory?,
        _ onFailure: (@Sendable (CollectivesError) -> Void)?,
        _ onWait: (@Sendable (GroupWait) -> Void)? = nil
    ) {
        let now = ContinuousClock.now
        self.plan = plan
        self.shared = shared
        self.exchange = exchange
        self.site = site
        self.onFailure = onFailure
        self.onWait = onWait
        self.links = links.sorted { $0.key < $1.key }.map {
            MemberLink(rank: $0.key, link: $0.value, members: plan.memberCount, now: now)
        }
        slots = [OperationSlot(plan: plan), OperationSlot(plan: plan)]
        watch = SilenceWatch(members: plan.memberCount, limit: plan.silenceLimit, now: now)
        nextLook = now
        lateness = LatenessWatch(now: now)
        current = shared.state.withLock { $0.member.committed }
        leaves = Array(repeating: nil, count: plan.tree.leaves.count)
    }
    deinit { carried.deallocate() }

    var slot: OperationSlot { slots[Int(current & 1)] }

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
    func turn() throws(CollectivesError) -> Bool {
        if let goesOn = try turnInSilence() { return goesOn }
        polls.clear()
        polls.add(shared.wake.descriptor, read: true, write: false)
        var next = ContinuousClock.now + SilenceWatch.beatInterval
        var hasUnread = false
        for link in links {
            // A negative descriptor is skipped by poll(2).
            polls.add(
                link.hasEnded ? -1 : link.link.descriptor,
                read: !link.isStalled,
                write: !link.isFlushed
            )
            next = min(next, link.lastSent + SilenceWatch.beatInterval)
            hasUnread = hasUnread || link.link.hasUnread && !link.isStalled
        }
        // The next part of an operation is a moment away: falling asleep for it costs more than it takes.
        let awake: Duration = hasUnread || !isAwaited ? .zero : .microseconds(50)
        if !polls.waitAwake(for: awake), !hasUnread { polls.wait(until: next) }
        let now = ContinuousClock.now
        if polls.isReadable(0), try !takeOrders(now) { return false }
        for (index, link) in links.enumerated() where !link.hasEnded {
            if link.isStalled {
                if polls.hasEnded(index + 1) { try ended(link, "the connection ended") }
            } else if polls.isReadable(index + 1) || link.link.hasUnread {
                try read(link, now)
            }
        }
        try flushAll(now)
        if now >= nextLook { try lookAround(now) }
        return true
    }

    /// Whether somebody keeps the operation in flight for too long.
    func lookAround(_ now: ContinuousClock.Instant) throws(CollectivesError) {
        nextLook = now + .milliseconds(5)
        let silent = watch.look(awaited: awaited, at: now)
        if !silent.isEmpty {
            let list = silent.map(String.init).joined(separator: ", ")
            throw CollectivesError(
                .peerSilent,
                "nothing came from rank \(list) for \(plan.silenceLimit) while operation "
                    + "\(operationAwaited ?? current) waits",
                ranks: silent
            )
        }
        let late = late(at: now)
        if let waited = lateness.look(operation: operationAwaited, late: late, at: now) {
            onWait?(GroupWait(ranks: late, duration: waited))
        }
    }

    /// The members whose word on the operation in flight keeps the caller waiting.
    var awaited: [Int] {
        guard let operation = operationAwaited else { return [] }
        return links.filter { !$0.hasEnded && !hasLastWord(of: $0.rank, on: operation) }.map(\.rank)
    }

    /// The members that have lanes and have not computed them for the operation that the caller waits for.
    ///
    /// Rows come when all is computed, unless much is on its way before them: a slow link is no slow host.
    func late(at now: ContinuousClock.Instant) -> [Int] {
        guard onWait != nil, let operation = operationAwaited else { return [] }
        return links.filter { link in
            guard !plan.lanes[link.rank].isEmpty else { return false }
            guard active != nil else { return !(exchange?.hasPosted(link.rank, operation) ?? true) }
            if let last = link.lastContribution, now - last < LatenessWatch.first { return false }
            return slot.ledger.next(.laneValues, from: link.rank) != nil
        }.map(\.rank)
    }

    /// The operation that was begun, over links or through memory.
    var operationInFlight: UInt64? {
        active == nil ? shared.state.withLock { $0.throughMemory } : current
    }

    /// The one of it that the caller waits for: not one to which it still computes its part.
    var operationAwaited: UInt64? { active.map(\.isWhole) ?? true ? operationInFlight : nil }

    /// Whether the caller waits for an operation over links.
    var isAwaited: Bool { active?.isWhole ?? false }

    /// Whether an operation, the one in flight, needs nothing more from a member.
    func hasLastWord(of rank: Int, on operation: UInt64) -> Bool {
        if active != nil { return slot.ledger.readyDigests[rank] != nil }
        return exchange?.hasResult(rank, of: operation) ?? false
    }

    // MARK: Orders

    func takeOrders(_ now: ContinuousClock.Instant) throws(CollectivesError) -> Bool {
        shared.wake.clear()
        let (posted, reason, closes, trouble, injury) = shared.state.withLock { state in
            defer { (state.posted, state.injury) = (nil, nil) }
            return (state.posted, state.abortReason, state.isClosing, state.trouble, state.injury)
        }
        if let trouble { throw trouble }
        if let injury { suffer(injury) }
        if active == nil {
            if let posted { try begin(posted, now) }
        } else {
            try goOn(with: posted)
        }
        if let reason { throw CollectivesError(.aborted, reason) }
        if let operation = operationInFlight {
            if closes {
                throw CollectivesError(.aborted, "the group was closed during operation \(operation)")
            }
        } else if let nextFailure {
            throw nextFailure
        }
        return !closes
    }

    func begin(_ posted: PostedOperation, _ now: ContinuousClock.Instant) throws(CollectivesError) {
        active = posted
        largest = max(largest, posted.shape.byteCount)
        if slot.operation == nil {
            slot.begin(posted.operation, posted.shape)
        } else if slot.shape != posted.shape {
            throw CollectivesError(
                .mismatch,
                "operation \(current) is \(posted.shape) here, \(slot.shape) at another member"
            )
        }
        take(posted)
        reserveCarried()
        for link in links {
            link.beginOperation()
            link.readsMemory = slot.routes.hasTwoLevels && site?.isRead(by: link.rank) ?? false
            if link.isStalled {
                link.isStalled = false
                watch.heard(link.rank, at: now)
                try digest(link)
            }
        }
        try advance()
    }

    /// The caller has computed more of its part, or all of it.
    func goOn(with whole: PostedOperation?) throws(CollectivesError) {
        guard let posted = whole ?? active, !isAwaited else { return }
        active = posted
        take(posted)
        try advance()
    }

    /// Takes as much of the caller's part as is final.
    func take(_ posted: PostedOperation) {
        slot.ledger.give(posted.isWhole ? .max : shared.given.load(ordering: .acquiring))
        if posted.isWhole { slot.takeOwnRows(posted.laneValues) }
    }

    // MARK: Going on

    /// Does what the parts at hand allow: sum, say READY, commit.
    func advance() throws(CollectivesError) {
        guard let active else { return }
        while let piece = slot.ledger.summablePiece {
            slot.summed(combine(piece, slot.ledger.segmentation.piece(piece, of: plan.rank), active))
        }
        if active.isWhole, slot.ledger.readyDigests[plan.rank] == nil, slot.ledger.isComplete {
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

    /// Brings a piece of the own segment about; gives its fingerprint.
    func combine(_ piece: Int, _ range: Range<Int>, _ active: PostedOperation) -> ResultFingerprint {
        var fingerprint = ResultFingerprint()
        guard let target = active.result(at: range.lowerBound) else { return fingerprint }
        let form = active.shape.form, size = form.type.byteCount
        guard form.combines else {
            fingerprint.add(target, range, size: size)
            return fingerprint
        }
        let routes = slot.routes
        addUpSite(range, active)
        for (index, leaf) in routes.tree.leaves.enumerated() {
            leaves[index] =
                leaf.rank == plan.rank
                ? carriedBase(leaf.position, active).map { $0 + range.lowerBound * size }
                : UnsafeRawPointer(slot.place(of: leaf.rank, position: leaf.position, piece: piece))
        }
        leaves.withUnsafeBufferPointer { leaves in
            if let leaves = leaves.baseAddress {
                routes.tree.combine(leaves, into: target, range, form, mode: active.floatMode, &fingerprint)
            }
        }
        guard let feedback = active.feedback else { return fingerprint }
        // The owner, too, goes on with what the others will decode.
        feedback.encodeResult(piece, of: plan.rank, range, into: target.assumingMemoryBound(to: Float.self))
        fingerprint = ResultFingerprint()
        fingerprint.add(target, range, size: size)
        return fingerprint
    }

    // MARK: The end of an operation

    func commitIfDecided() throws(CollectivesError) {
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
            report(to: &state.counters)
        }
        // What it was told about the end of a member must stand before the caller goes on to the next operation.
        if let nextFailure { shared.state.withLock { $0.failure = nextFailure } }
        shared.finished.signal()
        if let nextFailure { throw nextFailure }
    }

    /// What went over the links; the rest belongs to the caller's thread.
    func report(to counters: inout Group.Counters) {
        let memory = counters.bytesThroughMemory
        counters = self.counters
        counters.bytesThroughMemory = memory
    }

    // MARK: Failing

    func check(_ claim: Bool, _ header: FrameHeader, _ link: MemberLink) throws(CollectivesError) {
        if !claim { throw unexpected(header, link) }
    }
    func unexpected(_ header: FrameHeader, _ link: MemberLink) -> CollectivesError {
        bad(link, "a \(header.kind) frame of operation \(header.operation) makes no sense now")
    }
    func bad(_ link: MemberLink, _ what: String) -> CollectivesError {
        CollectivesError(.badFrame, "rank \(link.rank): \(what)", ranks: [link.rank])
    }

    func ended(_ link: MemberLink, _ reason: String) throws(CollectivesError) {
        try ended(
            link,
            CollectivesError(.peerLost, "rank \(link.rank) is lost: \(reason)", ranks: [link.rank])
        )
    }

    /// A link ended: at once the end of the group, unless the running operation needs nothing more from it.
    func ended(_ link: MemberLink, _ error: CollectivesError) throws(CollectivesError) {
        guard !link.hasEnded else { return }
        link.hasEnded = true
        guard let operation = operationInFlight, hasLastWord(of: link.rank, on: operation) else {
            throw nextFailure ?? error
        }
        if nextFailure == nil {
            nextFailure = error
            onFailure?(error)
        }
        guard active == nil else { return }
        let isOver = shared.state.withLock { state in
            state.nextFailure = nextFailure
            // The caller goes through memory on its own: it may be at the next operation by now, where the lost
            // member's word will never come.
            return state.throughMemory != operation
        }
        if isOver { throw nextFailure ?? error }
    }

    /// Tells the others and the caller, closes the links; nobody touches the caller's memory after that.
    func finish(_ failure: CollectivesError?) {
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
            report(to: &state.counters)
            let end =
                failure ?? CollectivesError(.closed, "the group of generation \(plan.generation) is closed")
            state.failure = end
            if state.throughMemory != nil { return false }  // it leaves by itself
            defer { state.isInFlight = false }
            if state.isInFlight { state.outcome = end }
            return state.isInFlight
        }
        shared.hasEnded.signal()
        releaseMemory()
        if let failure, failure.code != .aborted, nextFailure == nil { onFailure?(failure) }
        if isWaiting { shared.finished.signal() }
    }

    /// Waits until the caller has left the memory of the others.
    func releaseMemory() {
        guard let exchange else { return }
        exchange.stop()
        // It may be about to fall asleep each time.
        while shared.state.withLock({ $0.throughMemory != nil }) {
            exchange.wakeAll()
            _ = shared.hasLeft.wait(timeout: .now() + .milliseconds(1))
        }
    }

    func sayGoodbye(until deadline: ContinuousClock.Instant) {
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
