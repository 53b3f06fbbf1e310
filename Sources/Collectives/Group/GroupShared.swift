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
    /// How the values of a training step are cut; none = in one.
    var buckets: [Range<Int>] = []
    /// How the values of an all-reduce go over links, where that is not directly.
    var twoLevels: ValueRoutes?

    var memberCount: Int { lanes.count }

    /// Which way the values of an operation go over links.
    func routes(of shape: OperationShape) -> ValueRoutes {
        if let twoLevels, shape.form.kind == .allReduce { return twoLevels }
        return ValueRoutes(direct: tree, owners: owners)
    }

    /// How the values of an operation are cut; none = in one.
    func buckets(of shape: OperationShape) -> [Range<Int>] {
        let isStep = shape.form == OperationForm() && shape.codec == .exact && !combines
        return isStep && shape.elements == buckets.reduce(0, { $0 + $1.count }) ? buckets : []
    }

    /// What another member's frame says of its operation; nil for what this generation does not do.
    func shape(of header: FrameHeader) -> OperationShape? {
        guard header.codec == 0 || header.codec == codec.wire,
            let form = OperationForm(wire: header.form, members: memberCount),
            header.codec == 0 || form == OperationForm()
        else { return nil }
        return OperationShape(
            elements: Int(header.elements),
            width: Int(header.width),
            codec: header.codec == 0 ? .exact : codec,
            form: form
        )
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
        if let twoLevels { writer.write("leaders \(twoLevels.leaders)") }
        if !buckets.isEmpty { writer.write("buckets \(buckets)") }
        return Digest(of: writer.bytes)
    }
}

/// An operation as the caller of `reduce` hands it to the group's thread.
///
/// Safety: the pointers belong to the caller, who waits until the thread has said that it is done with them.
struct PostedOperation: @unchecked Sendable {
    var operation: UInt64
    /// What it is, as all members must say.
    var shape: OperationShape
    /// False while the caller still computes its part: the first buckets are final (``GroupShared/given``), and the rows
    /// are missing.
    var isWhole = true
    /// Where the first value of each subtree stands; none where nothing is combined.
    var contributions: UnsafeBufferPointer<UnsafeRawPointer?>
    var laneValues: UnsafeMutableBufferPointer<Double>
    /// Where the first value of the result stands, or would: of a reduce-scatter only the own segment does.
    var result: UnsafeMutableRawPointer?
    /// Encodes, and keeps what that loses; nil = all travels exactly.
    var feedback: ErrorFeedback?
    /// The caller's floating-point control word: sums are made under the mode that the lanes were computed in.
    var floatMode: UInt64

    /// Where a value of the result stands.
    func result(at index: Int) -> UnsafeMutableRawPointer? {
        result.map { $0 + index * shape.form.type.byteCount }
    }
}

/// What the caller's threads and the group's thread share.
final class GroupShared: Sendable {
    struct State {
        var member: MemberState
        var posted: PostedOperation?
        /// What the caller has begun and not given whole yet.
        var begun: PostedOperation?
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
        /// A drill that the group's thread has not begun yet.
        var injury: Group.Injury?
        /// A drill: until then this member shows no sign of life.
        var silentUntil: ContinuousClock.Instant?
        var isClosing = false
        var counters = Group.Counters()
    }
    let state: Mutex<State>
    let wake: WakeEvent
    let finished = DispatchSemaphore(value: 0)
    /// How many of the first buckets are final of what the caller has begun.
    let given = Atomic(0)
    /// The group is over: nobody need be silent any longer.
    let hasEnded = DispatchSemaphore(value: 0)
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

    /// Adds a piece.
    ///
    /// - Parameters:
    ///   - range: its values in the whole array; begins on a multiple of 64 bytes.
    ///   - size: bytes of a value.
    mutating func add(_ values: UnsafeRawPointer, _ range: Range<Int>, size: Int) {
        add(values, from: range.lowerBound * size, count: range.count * size)
    }

    /// Adds bytes, the first of which has the place `first` in the whole array.
    mutating func add(_ bytes: UnsafeRawPointer, from first: Int, count: Int) {
        withWords { coord_fingerprint($0, bytes, UInt64(first), count) }
    }

    /// Adds the fingerprint of a piece.
    mutating func add(_ piece: ResultFingerprint) { words &+= piece.words }

    /// For the checksum of a frame: every bit of the sums counts.
    var folded: UInt32 {
        var hash: UInt64 = 0
        for index in words.indices {
            hash = (hash ^ words[index]) &* 0x9E37_79B9_7F4A_7C15
            hash ^= hash >> 32
        }
        return UInt32(truncatingIfNeeded: hash)
    }

    /// Adds a piece, as ``add(_:_:size:)`` does, and copies it to `target`.
    mutating func copy(
        _ values: UnsafeRawPointer,
        to target: UnsafeMutableRawPointer,
        _ range: Range<Int>,
        size: Int
    ) {
        let (first, count) = (UInt64(range.lowerBound * size), range.count * size)
        withWords { coord_copy_fingerprint($0, target, values, first, count) }
    }

    /// Lets a kernel add what it has just computed.
    mutating func withWords<Result>(_ body: (UnsafeMutablePointer<UInt64>?) -> Result) -> Result {
        withUnsafeMutableBytes(of: &words) { body($0.bindMemory(to: UInt64.self).baseAddress) }
    }

    /// The digest of the operation's number and shape, its lane values, and of the result where all hold it.
    func digest(_ posted: PostedOperation) -> Digest {
        let shape = posted.shape
        var builder = DigestBuilder()
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 12) { numbers in
            numbers.initialize(repeating: 0)
            numbers[0] = posted.operation.littleEndian
            numbers[1] = UInt64(shape.elements).littleEndian
            numbers[2] = UInt64(shape.width).littleEndian
            numbers[3] = UInt64(shape.form.wire).littleEndian
            if shape.form.returns {
                for index in words.indices { numbers[4 + index] = words[index].littleEndian }
            }
            builder.update(UnsafeRawBufferPointer(numbers))
        }
        builder.update(UnsafeRawBufferPointer(posted.laneValues))
        return builder.finish()
    }
}
