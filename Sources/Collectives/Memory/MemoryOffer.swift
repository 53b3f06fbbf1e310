internal import Basics

/// What members of one machine hand each other once they have proven themselves: the memory that each writes.
///
/// Descriptors pass over unix sockets only, so whoever holds one is here.
struct MemoryOffer: Sendable {
    /// 16 bytes: magic, version, whether two descriptors come with the first byte, 0; u32 each.
    static let messageBytes = 16
    private static let magic: UInt32 = 0x4D4C_4343  // "CCLM"
    private static let version: UInt32 = 1

    /// For this generation.
    var control: OwnControl
    /// For as long as the process lives.
    var arena: SharedArena

    /// What this endpoint can offer; nil when it has no memory to share.
    init?(_ endpoint: Endpoint) {
        guard let arena = endpoint.memory, let control = try? OwnControl() else { return nil }
        self.control = control
        self.arena = arena
    }

    /// The message and the descriptors beside it.
    static func message(_ offer: MemoryOffer?) -> (bytes: [UInt8], descriptors: [Int32]) {
        var writer = ByteWriter(capacity: messageBytes)
        writer.write(magic)
        writer.write(version)
        writer.write(UInt32(offer == nil ? 0 : 1))
        writer.write(UInt32(0))
        let descriptors = offer.map { [$0.control.region.descriptor, $0.arena.region.descriptor] } ?? []
        return (writer.bytes, descriptors)
    }

    /// Reads another member's message and maps its memory; takes the descriptors over.
    static func read(_ bytes: [UInt8], _ descriptors: [Int32]) -> PeerMemory {
        var rest = descriptors
        defer { rest.forEach(closeDescriptor) }
        let none = message(nil).bytes
        let isKnown =
            bytes == none
            || bytes.count == messageBytes && bytes.starts(with: none.prefix(8)) && bytes[8] == 1
        guard isKnown else {
            return .missing("it speaks another version")
        }
        guard descriptors.count == 2 else { return .missing("it has no memory to share") }
        do throws(CollectivesError) {
            let control = try PeerControl(try PeerRegion(taking: rest.removeFirst()))
            return .mapped(control, try PeerRegion(taking: rest.removeFirst()))
        } catch {
            return .missing(error.message)
        }
    }
}

/// Another member's memory, or why it is not at hand.
enum PeerMemory: Sendable {
    case mapped(PeerControl, PeerRegion)
    case missing(String)
}
