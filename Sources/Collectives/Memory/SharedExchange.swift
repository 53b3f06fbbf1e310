internal import Basics
internal import CShims
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// The exchange of members that are all on one machine: through memory that each writes for itself and the others read.
///
/// The caller of `reduce` does the work on its own thread; links carry signs of life and the end only. The parts are
/// those of the exchange over links: every contribution is read where it lies, each member sums its segment along the
/// lane tree, the others copy it, and an operation is committed when all hold the result with one digest.
///
/// Nobody can write into another's memory, and what is read there is checked against the own plan before it is used:
/// a member that lies about places is named, one that changes values is found by the digest.
///
/// Safety: `run` is called by one thread at a time and owns everything but the atomics; `stop`, `wakeAll` and
/// `hasResult` touch only what is atomic or never changes.
final class SharedExchange: @unchecked Sendable {
    /// Another member's memory.
    struct Peer {
        var rank: Int
        var control: PeerControl
        var data: PeerRegion
    }

    /// How an operation went.
    enum Outcome {
        /// All hold the result.
        case committed
        /// The group's thread said that it is over.
        case stopped
        /// This member found a reason to give up.
        case failed(CollectivesError)
    }

    /// A reason to leave the operation.
    private enum Exit: Error {
        case stopped
        case failed(CollectivesError)
    }

    /// Results of up to this many bytes are combined whole by every member: one wait less, and the values are near.
    static let wholeLimit = 32_768

    private let plan: GroupPlan
    private let arena: SharedArena
    private let own: OwnControl
    /// In rank order.
    private let peers: [Peer]
    private let controls: [PeerControl]
    private let isStopping = Atomic(false)
    private let spins: Int

    /// Where each leaf of the tree lies, and the same for the piece that is being summed.
    private var bases: [UnsafeRawPointer?]
    private var leaves: [UnsafeRawPointer?]
    /// Where each peer's segment result lies, and how many of its pieces are copied.
    private var results: [UnsafeRawPointer?]
    private var copied: [Int]
    /// What the operation is, and how its values are cut: mostly as the one before.
    private var shape = OperationShape()
    private var segmentation: Segmentation
    /// The lanes of each member, in rising order.
    private let lanes: [[Int]]
    /// Bytes of values that were read in others' memory so far.
    private(set) var bytesRead = 0
    /// Leaves of the tree that are others'.
    private let foreignLeaves: Int
    private var staging = UnsafeMutableBufferPointer<Float>(start: nil, count: 0)

    /// Tells the others whether all their memory is at hand here.
    ///
    /// - Returns: nil when somebody's is not: then nobody uses it.
    static func make(plan: GroupPlan, offer: MemoryOffer, peers: [Int: PeerMemory]) -> SharedExchange? {
        let mapped = peers.compactMap { rank, memory -> Peer? in
            guard case .mapped(let control, let data) = memory else { return nil }
            return Peer(rank: rank, control: control, data: data)
        }
        let hasAll = mapped.count == plan.memberCount - 1
        offer.control.publish(hasAll ? 1 : 2, at: ControlBlock.vote, wakes: mapped.map(\.control))
        return hasAll
            ? SharedExchange(plan: plan, arena: offer.arena, own: offer.control, peers: mapped) : nil
    }

    private init(plan: GroupPlan, arena: SharedArena, own: OwnControl, peers: [Peer]) {
        self.plan = plan
        self.arena = arena
        self.own = own
        self.peers = peers.sorted { $0.rank < $1.rank }
        controls = self.peers.map(\.control)
        segmentation = shape.form.segmentation(elements: 0, owners: plan.owners)
        lanes = plan.lanes.map(\.lanes)
        bases = Array(repeating: nil, count: plan.tree.leaves.count)
        leaves = bases
        foreignLeaves = plan.tree.leaves.count { $0.rank != plan.rank }
        results = Array(repeating: nil, count: peers.count)
        copied = Array(repeating: 0, count: peers.count)
        // With more members than cores whoever is waited for may need this one.
        spins = plan.memberCount <= sysconf(Int32(_SC_NPROCESSORS_ONLN)) ? 400 : 0
    }
    deinit { arena.free(staging) }

    // MARK: For the group's thread

    /// Ends a wait; call ``wakeAll()`` until the caller has left.
    func stop() { isStopping.store(true, ordering: .releasing) }

    /// Wakes the caller wherever it sleeps.
    func wakeAll() { for peer in peers { coord_futex_wake(peer.control.bell) } }

    /// Whether a member has said its last word on an operation.
    func hasResult(_ rank: Int, of operation: UInt64) -> Bool {
        peers.first { $0.rank == rank }?.control.ready(of: operation) != nil
    }

    /// Whether a member has told where its part of an operation lies.
    func hasPosted(_ rank: Int, _ operation: UInt64) -> Bool {
        peers.first { $0.rank == rank }.map { $0.control.read(ControlBlock.posted) > operation } ?? false
    }

    // MARK: For the caller

    /// Asks whether every member reaches every other's memory; they all get one answer.
    ///
    /// - Returns: nil when the group ended first.
    func isPossible() -> Bool? {
        var all = true
        for peer in peers {
            guard (try? wait(peer, ControlBlock.vote, 1)) != nil else { return nil }
            all = all && peer.control.read(ControlBlock.vote) == 1
        }
        return all
    }

    /// One operation; everything but the commit.
    ///
    /// - Parameter onReady: called with the digest of the complete result, before the others are told.
    func run(_ posted: PostedOperation, onReady: (Digest) -> Void) -> Outcome {
        if posted.shape != shape {
            shape = posted.shape
            segmentation = shape.form.segmentation(elements: shape.elements, owners: plan.owners)
        }
        do throws(Exit) {
            try post(posted)
            try meet(posted)
            var fingerprint = ResultFingerprint()
            if isWhole {
                combine(0..<posted.shape.elements, posted, &fingerprint)
            } else {
                try exchange(posted, &fingerprint)
            }
            let digest = fingerprint.digest(posted)
            onReady(digest)
            own.publish(ready: digest, of: posted.operation, wakes: controls)
            for peer in peers {
                try wait(peer, ControlBlock.ready(of: posted.operation), posted.operation + 1)
            }
            return verdict(posted.operation, digest)
        } catch {
            switch error {
            case .stopped: return .stopped
            case .failed(let error): return .failed(error)
            }
        }
    }

    /// Whether all hold the result that this member holds.
    func verdict(_ operation: UInt64, _ digest: Digest) -> Outcome {
        var isAlike = true
        for peer in peers {
            guard let theirs = peer.control.ready(of: operation) else { return .stopped }
            isAlike = isAlike && theirs == digest
        }
        if isAlike { return .committed }
        var digests: [Digest?] = Array(repeating: nil, count: plan.memberCount)
        for peer in peers { digests[peer.rank] = peer.control.ready(of: operation) }
        digests[plan.rank] = digest
        let odd = Resolution.oddOnes(digests)
        return .failed(
            CollectivesError(
                .diverged,
                "members hold different results of operation \(operation): ranks "
                    + odd.map(String.init).joined(separator: ", "),
                ranks: odd
            )
        )
    }

    // MARK: Telling and hearing

    /// Tells the others where the own parts lie; what is not in the arena is copied there.
    private func post(_ posted: PostedOperation) throws(Exit) {
        let size = shape.form.type.byteCount
        let segment = segmentation.segment(of: plan.rank)
        func isShared(_ pointer: UnsafeRawPointer?, _ byteCount: Int) -> Bool {
            pointer.map { arena.offset(of: $0, byteCount: byteCount) != nil } ?? true
        }
        func lines(_ byteCount: Int) -> Int { (byteCount + 63) / 64 * 64 }
        let rowBytes = lines(lanes[plan.rank].count * shape.width * 8)
        let strangers = posted.contributions.count { !isShared($0, shape.byteCount) }
        let result = posted.result(at: segment.lowerBound)
        // The others read it only where they do not combine everything themselves, or nobody but this member does.
        let returnsResult = shape.form.returns && !isWhole
        let sharesResult = !returnsResult || isShared(UnsafeRawPointer(result), segment.count * size)
        try reserve(
            rowBytes + strangers * lines(shape.byteCount) + (sharesResult ? 0 : lines(segment.count * size))
        )
        guard var free = UnsafeMutableRawPointer(staging.baseAddress) else { return }
        own.write(UInt64(shape.elements), at: ControlBlock.elements)
        own.write(UInt64(shape.width), at: ControlBlock.width)
        own.write(UInt64(shape.form.wire), at: ControlBlock.form)
        own.write(place(free), at: ControlBlock.rows)
        copyRows(posted, to: free)
        free += rowBytes
        for (index, values) in posted.contributions.enumerated() {
            guard let values else { continue }
            var shared = values
            if !isShared(values, shape.byteCount) {
                free.copyMemory(from: values, byteCount: shape.byteCount)
                shared = UnsafeRawPointer(free)
                free += lines(shape.byteCount)
            }
            own.write(place(shared), at: ControlBlock.contributions + 8 * index)
        }
        resultTarget = sharesResult ? nil : free
        let shown = sharesResult ? result : free
        own.write(returnsResult ? shown.map { place($0) } ?? 0 : 0, at: ControlBlock.result)
        coord_store(pieces, 0)
        own.publish(posted.operation + 1, at: ControlBlock.posted, wakes: controls)
    }
    /// Where the own segment's result goes for the others when the caller's is not in the arena.
    private var resultTarget: UnsafeMutableRawPointer?

    private var pieces: UnsafeMutablePointer<UInt64> {
        (own.region.base + ControlBlock.pieces).assumingMemoryBound(to: UInt64.self)
    }
    private func place(_ pointer: UnsafeRawPointer) -> UInt64 {
        UInt64(pointer - UnsafeRawPointer(arena.region.base))
    }

    private func copyRows(_ posted: PostedOperation, to target: UnsafeMutableRawPointer) {
        let width = shape.width
        for (index, lane) in lanes[plan.rank].enumerated() {
            for column in 0..<width {
                target.storeBytes(
                    of: posted.laneValues[lane * width + column].bitPattern,
                    toByteOffset: (index * width + column) * 8,
                    as: UInt64.self
                )
            }
        }
    }

    private func reserve(_ byteCount: Int) throws(Exit) {
        let floats = byteCount / 4
        guard staging.count < max(floats, 16) else { return }
        arena.free(staging)
        staging = UnsafeMutableBufferPointer(start: nil, count: 0)
        var size = 1024
        while size < floats { size *= 2 }
        guard let block = arena.allocate(size) else {
            throw .failed(CollectivesError(.system, "\(size * 4) bytes are not left in the shared arena"))
        }
        staging = block
    }

    /// Waits until all have posted; finds their parts and takes their rows.
    private func meet(_ posted: PostedOperation) throws(Exit) {
        for peer in peers { try wait(peer, ControlBlock.posted, posted.operation + 1) }
        let width = shape.width, size = shape.form.type.byteCount
        for (index, peer) in peers.enumerated() {
            try agree(peer, posted.operation)
            let lanes = lanes[peer.rank]
            let rows = try find(peer, ControlBlock.rows, lanes.count * width * 8)
            for (row, lane) in lanes.enumerated() {
                for column in 0..<width {
                    let at = (row * width + column) * 8
                    let bits = rows.loadUnaligned(fromByteOffset: at, as: UInt64.self)
                    posted.laneValues[lane * width + column] = Double(bitPattern: bits)
                }
            }
            let segment = segmentation.segment(of: peer.rank)
            if shape.form.returns, !isWhole, !segment.isEmpty {
                results[index] = try find(peer, ControlBlock.result, segment.count * size)
            }
            copied[index] = 0
        }
        guard shape.elements > 0, shape.form.combines else { return }
        for (index, leaf) in plan.tree.leaves.enumerated() {
            if leaf.rank == plan.rank {
                bases[index] = posted.contributions[leaf.position]
            } else if let peer = peers.first(where: { $0.rank == leaf.rank }) {
                let at = ControlBlock.contributions + 8 * leaf.position
                bases[index] = try find(peer, at, shape.byteCount)
            }
        }
    }

    /// Whether a member does the same operation.
    private func agree(_ peer: Peer, _ operation: UInt64) throws(Exit) {
        let (elements, width, form) = (
            peer.control.read(ControlBlock.elements), peer.control.read(ControlBlock.width),
            peer.control.read(ControlBlock.form)
        )
        if elements == UInt64(shape.elements), width == UInt64(shape.width), form == UInt64(shape.form.wire) {
            return
        }
        let known = UInt32(exactly: form).flatMap { OperationForm(wire: $0, members: plan.memberCount) }
        let what = known.map { "\($0.kind) of \(elements) \($0.type) values by \($0.reduction)" }
        throw .failed(
            CollectivesError(
                .mismatch,
                "operation \(operation) is \(what ?? "something else"), rows of \(width), at rank "
                    + "\(peer.rank), \(shape) here",
                ranks: [peer.rank]
            )
        )
    }

    private func find(_ peer: Peer, _ word: Int, _ byteCount: Int) throws(Exit) -> UnsafeRawPointer {
        if let place = peer.data.place(peer.control.read(word), byteCount: byteCount) { return place }
        throw .failed(
            CollectivesError(
                .badFrame,
                "rank \(peer.rank) names a place that is not in its memory",
                ranks: [peer.rank]
            )
        )
    }

    // MARK: Values

    /// Whether every member combines the whole array for itself.
    private var isWhole: Bool { shape.form.kind == .allReduce && shape.byteCount <= Self.wholeLimit }

    /// Sums the own segment and copies the others', piece by piece, while what was written last is still near.
    private func exchange(_ posted: PostedOperation, _ fingerprint: inout ResultFingerprint) throws(Exit) {
        let segment = segmentation.segment(of: plan.rank)
        let size = shape.form.type.byteCount
        for index in 0..<segmentation.pieceCount(of: plan.rank) {
            let piece = segmentation.piece(index, of: plan.rank)
            combine(piece, posted, &fingerprint)
            if let resultTarget, let result = posted.result(at: piece.lowerBound) {
                (resultTarget + (piece.lowerBound - segment.lowerBound) * size)
                    .copyMemory(from: result, byteCount: piece.count * size)
            }
            own.publish(UInt64(index + 1), at: ControlBlock.pieces, wakes: controls)
            for at in peers.indices { copy(at, posted, &fingerprint) }
        }
        guard shape.form.returns else { return }
        for (at, peer) in peers.enumerated() {
            while copied[at] < segmentation.pieceCount(of: peer.rank) {
                try wait(peer, ControlBlock.pieces, UInt64(copied[at] + 1))
                copy(at, posted, &fingerprint)
            }
        }
    }

    /// Copies what a member has summed meanwhile.
    private func copy(_ at: Int, _ posted: PostedOperation, _ fingerprint: inout ResultFingerprint) {
        guard shape.form.returns else { return }
        let peer = peers[at], size = shape.form.type.byteCount
        let segment = segmentation.segment(of: peer.rank)
        let due = min(UInt64(segmentation.pieceCount(of: peer.rank)), peer.control.read(ControlBlock.pieces))
        guard due > copied[at], let result = results[at] else { return }
        for index in copied[at]..<Int(due) {
            let piece = segmentation.piece(index, of: peer.rank)
            guard let target = posted.result(at: piece.lowerBound) else { return }
            let source = result + (piece.lowerBound - segment.lowerBound) * size
            fingerprint.copy(source, to: target, piece, size: size)
            bytesRead += piece.count * size
        }
        copied[at] = Int(due)
    }

    private func combine(
        _ range: Range<Int>,
        _ posted: PostedOperation,
        _ fingerprint: inout ResultFingerprint
    ) {
        let form = shape.form, size = form.type.byteCount
        guard let target = posted.result(at: range.lowerBound), !range.isEmpty else { return }
        guard form.combines else { return fingerprint.add(target, range, size: size) }
        bytesRead += range.count * size * foreignLeaves
        for index in bases.indices { leaves[index] = bases[index].map { $0 + range.lowerBound * size } }
        leaves.withUnsafeBufferPointer { leaves in
            if let leaves = leaves.baseAddress {
                plan.tree.combine(leaves, into: target, range, form, mode: posted.floatMode, &fingerprint)
            }
        }
    }

    // MARK: Waiting

    /// Waits until a word of another member is at least `least`: a moment awake, then asleep.
    private func wait(_ peer: Peer, _ word: Int, _ least: UInt64) throws(Exit) {
        if peer.control.read(word) >= least { return }
        for _ in 0..<spins {
            coord_pause()
            if peer.control.read(word) >= least { return }
        }
        let patience = ContinuousClock.now + .microseconds(50)
        repeat {
            coord_yield()
            if peer.control.read(word) >= least { return }
        } while ContinuousClock.now < patience
        while true {
            let bell = coord_load32(peer.control.bell)
            own.setAsleep(true)
            defer { own.setAsleep(false) }
            if peer.control.read(word) >= least { return }
            if isStopping.load(ordering: .acquiring) { throw .stopped }
            coord_futex_wait(peer.control.bell, bell, 1000)
        }
    }
}
