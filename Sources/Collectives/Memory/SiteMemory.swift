/// The memory of a site's members, as its leader and they read it between two frames.
///
/// A frame may name the place of its values in the sender's arena in the place of carrying them. Nobody is believed: a
/// place is looked up in the region that was mapped, and what stands there is checked by READY as what a link carries is.
struct SiteMemory: Sendable {
    private let arena: SharedArena
    /// By rank: those of the own site whose memory is at hand.
    private let peers: [Int: (control: PeerControl, data: PeerRegion)]

    /// Tells the others of the site whether all their memory is at hand here.
    ///
    /// - Parameters:
    ///   - mates: the other members of the site.
    ///   - memory: what was met, by rank.
    /// - Returns: nil where there is nobody.
    init?(_ offer: MemoryOffer, mates: [Int], memory: [Int: PeerMemory]) {
        var peers: [Int: (control: PeerControl, data: PeerRegion)] = [:]
        for rank in mates {
            if case .mapped(let control, let data) = memory[rank] { peers[rank] = (control, data) }
        }
        guard !peers.isEmpty else { return nil }
        (arena, self.peers) = (offer.arena, peers)
        let hasAll = peers.count == mates.count
        offer.control.publish(hasAll ? 1 : 2, at: ControlBlock.site, wakes: [])
    }

    /// Whether a member finds what stands in this one's memory.
    func isRead(by rank: Int) -> Bool { peers[rank]?.control.read(ControlBlock.site) == 1 }

    /// What is told to such a member in the place of values; nil where these stand elsewhere.
    func place(of values: UnsafeRawPointer?, byteCount: Int) -> UInt64? {
        values.flatMap { arena.offset(of: $0, byteCount: byteCount) }.map(UInt64.init)
    }

    /// Where a member's values stand; nil when it names no place in its memory.
    func find(_ place: UInt64, of rank: Int, byteCount: Int) -> UnsafeRawPointer? {
        peers[rank]?.data.place(place, byteCount: byteCount)
    }
}
