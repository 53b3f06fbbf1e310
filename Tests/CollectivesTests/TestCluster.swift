import Basics
import Collectives
import Synchronization
import Testing

#if canImport(Glibc)
import Glibc
#endif

/// Which transport a suite runs on.
enum Way: String, CaseIterable, CustomTestStringConvertible {
    case tcp, inProcess, memory, sealed
    var testDescription: String { rawValue }
    func make() -> any Transport {
        switch self {
        case .tcp, .sealed: TCPTransport()
        case .inProcess: InProcessTransport()
        case .memory: DirectTransport()
        }
    }
    /// What its groups are opened with.
    var options: Group.Options {
        var options = Group.Options()
        if self == .sealed { options.sealing = .always }
        return options
    }
    /// The address to listen on.
    var address: String { self == .inProcess ? ":0" : "127.0.0.1:0" }
}

let testRun: RunID = {
    guard let run = RunID("20261121-101502-k3f9a") else { preconditionFailure("bad run id") }
    return run
}()
let testSecret = Redacted([UInt8](repeating: 7, count: 32))

/// Runs one function a member, each on a thread of its own, and waits for all.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
    final class Start: Sendable {
        let rank: Int
        let body: @Sendable (Int) -> Void
        init(_ rank: Int, _ body: @escaping @Sendable (Int) -> Void) {
            self.rank = rank
            self.body = body
        }
    }
    var threads: [pthread_t] = []
    for rank in 0..<count {
        var thread = pthread_t()
        let context = Unmanaged.passRetained(Start(rank, body)).toOpaque()
        let made = pthread_create(
            &thread,
            nil,
            { context in
                guard let context else { return nil }
                let start = Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
                start.body(start.rank)
                return nil
            },
            context
        )
        precondition(made == 0)
        threads.append(thread)
    }
    for thread in threads { pthread_join(thread, nil) }
}

func pause(_ duration: Duration) {
    let parts = duration.components
    var time = timespec(tv_sec: Int(parts.seconds), tv_nsec: Int(parts.attoseconds / 1_000_000_000))
    nanosleep(&time, nil)
}

/// Values that differ for each (operation, lane, index), with signs and wide exponents, so that order shows.
func laneValue(_ operation: UInt64, _ lane: Int, _ index: Int) -> Float {
    var x = operation &* 0x9E37_79B9_7F4A_7C15 ^ UInt64(lane) &* 0xBF58_476D_1CE4_E5B9 ^ UInt64(index)
    x ^= x >> 31
    x &*= 0x94D0_49BB_1331_11EB
    x ^= x >> 29
    let mantissa = Float(Int32(truncatingIfNeeded: x)) * 0x1p-31
    return mantissa * Float(sign: .plus, exponent: Int(x >> 40 & 15) - 8, significand: 1)
}

/// The sum along the lane tree, written down as plainly as can be.
func serialTree(_ subtree: LaneSubtree, _ operation: UInt64, _ count: Int) -> [Float] {
    guard let (left, right) = subtree.halves else {
        return (0..<count).map { laneValue(operation, subtree.start, $0) }
    }
    let a = serialTree(left, operation, count)
    let b = serialTree(right, operation, count)
    return zip(a, b).map { $0 + $1 }
}

func wholeTree(_ laneCount: Int) -> LaneSubtree {
    LaneSubtree(start: 0, level: laneCount.trailingZeroBitCount)
}

/// The row of a lane: W doubles.
func laneRow(_ operation: UInt64, _ lane: Int, _ width: Int) -> [Double] {
    (0..<width).map { Double(laneValue(operation, lane, 1_000_000 + $0)) * 1.25 }
}

/// What a member computes for an operation: the subtrees' sums and its rows.
struct Computed {
    var subtrees: [LaneSubtree]
    var values: [[Float]]
    var rows: [Double]

    init(_ operation: UInt64, _ lanes: LaneSet, laneCount: Int, count: Int, width: Int) {
        subtrees = lanes.subtrees(laneCount: laneCount)
        values = subtrees.map { serialTree($0, operation, count) }
        rows = Array(repeating: .nan, count: laneCount * width)
        for lane in lanes.lanes {
            rows.replaceSubrange(lane * width..<(lane + 1) * width, with: laneRow(operation, lane, width))
        }
    }

    /// Exchanges them; `rows` and `sum` are filled in.
    ///
    /// - Parameter buckets: how it is given while it is still computed; none = all at once.
    mutating func reduce(
        _ group: Group,
        _ operation: UInt64,
        into sum: inout [Float],
        feedback: ErrorFeedback? = nil,
        settles: Bool = false,
        buckets: [Range<Int>] = []
    ) throws {
        let size = sum.count
        let buffers = (values.map { _ in size } + [size]).map {
            UnsafeMutableBufferPointer<Float>.allocate(capacity: $0)
        }
        defer { buffers.forEach { $0.deallocate() } }
        defer { sum = Array(buffers[buffers.count - 1]) }
        try reduce(group, operation, in: buffers, feedback: feedback, settles: settles, buckets: buckets)
    }

    /// Exchanges them; `rows` is filled in.
    ///
    /// - Parameter buffers: where each subtree's values are to stand, and the sum after them.
    mutating func reduce(
        _ group: Group,
        _ operation: UInt64,
        in buffers: [UnsafeMutableBufferPointer<Float>],
        feedback: ErrorFeedback? = nil,
        settles: Bool = false,
        buckets: [Range<Int>] = []
    ) throws {
        buffers.forEach { $0.initialize(repeating: .nan) }
        let target = buffers[values.count]
        let contributions = zip(subtrees, buffers).map { (subtree: $0, values: UnsafeBufferPointer($1)) }
        let isBegun =
            !buckets.isEmpty
            && group.begin(
                operation: operation,
                contributions: contributions,
                width: rows.count / group.laneCount,
                sum: target
            )
        // What is not final yet is NaN: whoever reads it too early can be seen in the sum.
        for (index, range) in (buckets.isEmpty ? [0..<target.count] : buckets).enumerated() {
            for (buffer, values) in zip(buffers, values) {
                for place in range { buffer[place] = values[place] }
            }
            if isBegun { group.give(buckets: index + 1) }
        }
        try group.reduce(
            operation: operation,
            contributions: contributions,
            laneValues: &rows,
            sum: target,
            feedback: feedback,
            settles: settles
        )
    }
}

/// Endpoints of members that live in this process.
struct TestCluster: Sendable {
    let endpoints: [Endpoint]
    let way: Way

    init(_ count: Int, _ way: Way = .tcp, limits: Endpoint.Limits = Endpoint.Limits()) throws {
        let transport = way.make()
        self.way = way
        endpoints = try (0..<count).map { _ in
            try Endpoint(transport: transport, address: way.address, limits: limits)
        }
    }

    /// The members, holding those lanes.
    func members(_ lanes: [LaneSet]) -> [Member] {
        lanes.indices.map { Member(rank: $0, address: endpoints[$0].address, lanes: lanes[$0]) }
    }

    func open(
        _ rank: Int,
        _ members: [Member],
        laneCount: Int,
        generation: UInt32 = 1,
        state: MemberState = MemberState(),
        within: Duration = .seconds(20),
        secret: Redacted<[UInt8]> = testSecret,
        dials: Set<Int>? = nil,
        owners: Set<Int> = [],
        options: Group.Options? = nil,
        onFailure: (@Sendable (CollectivesError) -> Void)? = nil
    ) throws(CollectivesError) -> Group {
        try Group.open(
            endpoint: endpoints[rank],
            run: testRun,
            generation: generation,
            rank: rank,
            members: members,
            laneCount: laneCount,
            secret: secret,
            state: state,
            deadline: .now + within,
            dials: dials,
            owners: owners,
            options: options ?? way.options,
            onFailure: onFailure
        )
    }

    func close() { endpoints.forEach { $0.close() } }
}

/// A random way to give `laneCount` lanes to `members` members; some may get none.
func randomLanes(
    _ laneCount: Int,
    _ members: Int,
    _ generator: inout some RandomNumberGenerator
) -> [LaneSet] {
    var sets = Array(repeating: LaneSet(), count: members)
    // Sometimes whole subtrees, sometimes lane by lane.
    let grain = 1 << Int.random(in: 0...laneCount.trailingZeroBitCount, using: &generator)
    for start in stride(from: 0, to: laneCount, by: grain) {
        let owner = Int.random(in: 0..<members, using: &generator)
        for lane in start..<(start + grain) { sets[owner].bits |= 1 << UInt64(lane) }
    }
    return sets
}

/// No sites, or some by chance.
func randomSites(_ members: Int, _ generator: inout some RandomNumberGenerator) -> [Int] {
    let most = Int.random(in: 0..<members, using: &generator)
    guard Bool.random(using: &generator) else { return [] }
    return (0..<members).map { _ in Int.random(in: 0...most, using: &generator) }
}

/// A random way to cut N values into buckets, in a random order.
func randomBuckets(_ count: Int, _ generator: inout some RandomNumberGenerator) -> [Range<Int>] {
    let lines = (count + 15) / 16
    let cuts = (0..<Int.random(in: 0...6, using: &generator)).map { _ in
        Int.random(in: 0...lines, using: &generator) * 16
    }
    let ends = ([0] + cuts.map { min($0, count) }.sorted() + [count])
    return zip(ends, ends.dropFirst()).map { $0..<$1 }.shuffled(using: &generator)
}

/// A seeded generator: SplitMix64.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    init(_ seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}
