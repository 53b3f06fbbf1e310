internal import Basics
internal import CShims
internal import Dispatch
internal import Synchronization

/// What all members of a generation were told alike.
struct GroupPlan: Sendable {
    var run: UInt64
    var generation: UInt32
    var rank: Int
    var lanes: [LaneSet]
    var tree: LaneTree
    var laneCount: Int
    /// For each member whether it sums a segment.
    var owners: [Bool]
    var silenceLimit: Duration
    /// Each member gives one sum of all its lanes.
    var combines = false
    /// How values may travel beside exactly.
    var codec = PayloadCodec.exact

    var memberCount: Int { lanes.count }

    /// The codec of a frame of another member; nil for one that this generation does not use.
    func codec(wire: UInt16) -> PayloadCodec? {
        wire == 0 ? .exact : wire == codec.wire ? codec : nil
    }

    /// What both sides of a link compare.
    var digest: Digest {
        var writer = ByteWriter()
        writer.write("coord collectives plan")
        writer.write(UInt32(laneCount))
        writer.write(UInt32(lanes.count))
        for set in lanes { writer.write(set.bits) }
        for owns in owners { writer.write(UInt32(owns ? 1 : 0)) }
        if combines { writer.write("combined, \(codec)") }
        return Digest(of: writer.bytes)
    }
}

/// An operation as the caller of `reduce` hands it to the group's thread.
///
/// Safety: the pointers belong to the caller, who waits until the thread has said that it is done with them.
struct PostedOperation: @unchecked Sendable {
    var operation: UInt64
    var contributions: [UnsafePointer<Float>?]
    var laneValues: UnsafeMutableBufferPointer<Double>
    var width: Int
    var sum: UnsafeMutablePointer<Float>?
    var elements: Int
    /// Encodes, and keeps what that loses; nil = all travels exactly.
    var feedback: ErrorFeedback?
    /// The caller's floating-point control word: sums are made under the mode that the lanes were computed in.
    var floatMode: UInt64

    var codec: PayloadCodec { feedback?.codec ?? .exact }
}

/// What the caller's threads and the group's thread share.
final class GroupShared: Sendable {
    struct State {
        var member: MemberState
        var posted: PostedOperation?
        /// The operation that the caller exchanges through memory, on its own thread.
        var throughMemory: UInt64?
        /// Whether all members reach each other's memory, once that is settled.
        var sharesMemory: Bool?
        /// Why the caller gave up such an operation.
        var trouble: CollectivesError?
        /// A member ended after its last word on such an operation: the end of the group, once that one is over.
        var nextFailure: CollectivesError?
        /// A caller waits for `finished`.
        var isInFlight = false
        var outcome: CollectivesError?
        var failure: CollectivesError?
        var abortReason: String?
        var isClosing = false
        var counters = Group.Counters()
    }
    let state: Mutex<State>
    let wake: WakeEvent
    let finished = DispatchSemaphore(value: 0)
    /// The caller has left an operation through memory after the end of the group.
    let hasLeft = DispatchSemaphore(value: 0)

    init(state: MemberState, wake: WakeEvent) {
        self.state = Mutex(State(member: state))
        self.wake = wake
    }
}

/// The digest of a result, gathered piece by piece in any order.
struct ResultFingerprint {
    private var words = SIMD8<UInt64>()

    /// Adds a piece that starts at value `first`, a multiple of 16.
    mutating func add(_ values: UnsafePointer<Float>, first: Int, count: Int) {
        withWords { coord_fingerprint($0, values, UInt64(first), count) }
    }

    /// Adds a piece, as ``add(_:first:count:)`` does, and copies it to `target`.
    mutating func copy(
        _ values: UnsafePointer<Float>,
        to target: UnsafeMutablePointer<Float>,
        first: Int,
        count: Int
    ) {
        withWords { coord_copy_fingerprint($0, target, values, UInt64(first), count) }
    }

    /// Lets a kernel add what it has just computed.
    mutating func withWords<Result>(_ body: (UnsafeMutablePointer<UInt64>?) -> Result) -> Result {
        withUnsafeMutableBytes(of: &words) { body($0.bindMemory(to: UInt64.self).baseAddress) }
    }

    /// The digest of the operation's number and shape, its sum and its lane values.
    func digest(_ posted: PostedOperation) -> Digest {
        var writer = ByteWriter(capacity: 128)
        writer.write("coord collectives result")
        writer.write(posted.operation)
        writer.write(UInt64(posted.elements))
        writer.write(UInt64(posted.width))
        for index in words.indices { writer.write(words[index]) }
        var builder = DigestBuilder()
        builder.update(writer.bytes)
        builder.update(UnsafeRawBufferPointer(posted.laneValues))
        return builder.finish()
    }
}
