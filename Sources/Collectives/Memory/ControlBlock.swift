internal import Basics
internal import CShims

/// What a member tells the others of its machine through memory: one page, written by it alone, for one generation.
///
/// A word is written after all that it speaks of; whoever waits sleeps on the bell, which rings after each word.
/// Layout: `docs/formats/collectives.md`.
enum ControlBlock {
    static let byteCount = 4096
    /// u32: changes after each word; others sleep on it.
    static let bell = 0
    /// u32: this member sleeps on somebody's bell.
    static let asleep = 64
    /// u64: whether all others' memory is at hand here: 0 not known yet, 1 yes, 2 no.
    static let vote = 128
    /// u64: 1 once the memory of its site's members is at hand here.
    static let site = 136
    /// u64: the operation whose parts are described, plus 1.
    static let posted = 192
    /// u64: N, W, the places of the rows and of the own segment's result, and what the operation does
    /// (``OperationForm/wire``).
    static let elements = 200, width = 208, rows = 216, result = 224, form = 232
    /// u64 each: the places of the contributions, one a subtree, 64 at most.
    static let contributions = 256
    /// u64: pieces of the own segment that are summed in the posted operation.
    static let pieces = 768
    /// Two of: u64 operation plus 1, 32 bytes digest; for even and odd operations.
    static let ready = 832, readyBytes = 64

    static func ready(of operation: UInt64) -> Int { ready + Int(operation & 1) * readyBytes }
}

/// The own block.
struct OwnControl: Sendable {
    let region: SharedRegion

    init() throws(CollectivesError) {
        region = try SharedRegion(name: "coord-control", byteCount: ControlBlock.byteCount)
    }

    /// Writes a word that others read only after another one.
    func write(_ value: UInt64, at place: Int) {
        region.base.storeBytes(of: value, toByteOffset: place, as: UInt64.self)
    }

    /// Writes a word that others wait for, and wakes those that sleep.
    func publish(_ value: UInt64, at place: Int, wakes peers: [PeerControl]) {
        coord_store((region.base + place).assumingMemoryBound(to: UInt64.self), value)
        let bell = (region.base + ControlBlock.bell).assumingMemoryBound(to: UInt32.self)
        coord_store32(bell, coord_load32(bell) &+ 1)
        coord_fence()  // either the sleeper sees the word, or we see the sleeper
        if peers.contains(where: \.isAsleep) { coord_futex_wake(bell) }
    }

    func publish(ready digest: Digest, of operation: UInt64, wakes peers: [PeerControl]) {
        let place = ControlBlock.ready(of: operation)
        digest.store(to: UnsafeMutableRawBufferPointer(start: region.base + place + 8, count: 32))
        publish(operation + 1, at: place, wakes: peers)
    }

    func setAsleep(_ sleeps: Bool) {
        coord_store32(
            (region.base + ControlBlock.asleep).assumingMemoryBound(to: UInt32.self),
            sleeps ? 1 : 0
        )
        coord_fence()
    }
}

/// Another member's block.
struct PeerControl: Sendable {
    let region: PeerRegion

    /// - Throws: `.system` when the region is no block.
    init(_ region: PeerRegion) throws(CollectivesError) {
        guard region.byteCount >= ControlBlock.byteCount else {
            throw CollectivesError(.system, "its control block has \(region.byteCount) bytes")
        }
        self.region = region
    }

    var isAsleep: Bool {
        coord_load32((region.base + ControlBlock.asleep).assumingMemoryBound(to: UInt32.self)) != 0
    }
    var bell: UnsafePointer<UInt32> { region.base.assumingMemoryBound(to: UInt32.self) }

    func read(_ place: Int) -> UInt64 {
        coord_load((region.base + place).assumingMemoryBound(to: UInt64.self))
    }

    /// The digest of the result that the member holds of an operation; nil while it holds none.
    func ready(of operation: UInt64) -> Digest? {
        let place = ControlBlock.ready(of: operation)
        guard read(place) == operation + 1 else { return nil }
        return Digest(raw: UnsafeRawBufferPointer(start: region.base + place + 8, count: 32))
    }
}
