import Basics
import Wire

@testable import Collectives
@testable import Coordinator

/// A whole cluster in one thread: virtual time, a network that does what networks do, and the machines of production.
///
/// Everything random comes from one seed, so a schedule that fails can be played again.
final class World {
    /// Microseconds since the beginning.
    typealias Time = Int64

    /// What is due, by the place of its closure: entries move in the heap, closures do not.
    private struct Entry {
        var time: Time
        var order: Int
        var place: Int
        func isBefore(_ other: Entry) -> Bool {
            time != other.time ? time < other.time : order < other.order
        }
    }

    let shape: Shape
    let harness: Harness
    var chance: SplitMix
    private(set) var time: Time = 0
    private let origin = ContinuousClock.now
    private var heap: [Entry] = []
    private var due: [(() -> Void)?] = []
    private var freePlaces: [Int] = []
    private var order = 0
    private(set) var events = 0
    /// Directed cuts between machines that are in force.
    private var cuts: [[Int]]
    var trainers: [SimTrainer] = []
    var agents: [SimAgent] = []
    private(set) lazy var coordinator = SimCoordinator(in: self)
    /// What was committed first, by operation.
    private(set) var committed: [UInt64] = []
    /// What all of it makes of the weights, after so many operations.
    private var weights: [UInt64] = [0]
    /// States that were copied for members that join.
    private(set) var states: [SimState] = []
    private(set) var violation: String?
    /// The run is over, as the coordinator sees it.
    var verdict: String?
    var trace: [String] = []
    var isTracing = false
    var lossPercent = 3

    init(seed: UInt64, harness: Harness, isTracing: Bool = false) {
        var chance = SplitMix(seed)
        shape = Shape(&chance)
        self.chance = chance
        self.harness = harness
        self.isTracing = isTracing
        cuts = Array(repeating: Array(repeating: 0, count: shape.hosts + 1), count: shape.hosts + 1)
        for (member, host) in shape.placement.enumerated() {
            trainers.append(SimTrainer(member, host: host, in: self, seed: self.chance.next()))
        }
        for host in 0..<shape.hosts { agents.append(SimAgent(host, in: self)) }
        _ = coordinator
    }

    var now: ContinuousClock.Instant { origin + .microseconds(time) }

    // MARK: Time

    func after(_ microseconds: Time, _ run: @escaping () -> Void) {
        order += 1
        let place = freePlaces.popLast() ?? due.count
        if place == due.count { due.append(run) } else { due[place] = run }
        heap.append(Entry(time: time + max(0, microseconds), order: order, place: place))
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard heap[child].isBefore(heap[parent]) else { break }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    /// Runs what is due until that time, or until something is wrong.
    func run(until end: Time) {
        while violation == nil, let first = heap.first, first.time <= end {
            let last = heap.removeLast()
            if !heap.isEmpty {
                heap[0] = last
                sink()
            }
            time = first.time
            events += 1
            let run = due[first.place]
            due[first.place] = nil
            freePlaces.append(first.place)
            run?()
        }
        time = max(time, end)
    }

    /// Runs until an operation was committed that had not been, the run is over or something is wrong.
    func commitsSomething(within limit: Time) -> Bool {
        let (end, before) = (time + limit, committed.count)
        while time < end, committed.count == before, violation == nil, verdict == nil {
            run(until: time + 500_000)
        }
        return committed.count > before
    }

    private func sink() {
        var parent = 0
        while true {
            let left = 2 * parent + 1
            guard left < heap.count else { return }
            let right = left + 1
            let child = right < heap.count && heap[right].isBefore(heap[left]) ? right : left
            guard heap[child].isBefore(heap[parent]) else { return }
            heap.swapAt(child, parent)
            parent = child
        }
    }

    func random(_ range: ClosedRange<Time>) -> Time { Time.random(in: range, using: &chance) }
    func happens(_ percent: Int) -> Bool { chance.next() % 100 < UInt64(percent) }

    // MARK: Network

    func isOpen(_ from: Int, _ to: Int) -> Bool { from == to || cuts[from][to] == 0 }
    func cut(_ from: Int, _ to: Int, by count: Int) { cuts[from][to] = max(0, cuts[from][to] + count) }
    func heal() {
        for row in cuts.indices { for column in cuts.indices { cuts[row][column] = 0 } }
    }
    /// One way over the network, mostly short.
    var latency: Time { happens(4) ? random(20_000...400_000) : random(300...25_000) }

    /// A message that may be lost, come twice, or come late.
    func post(from: Int, to: Int, _ deliver: @escaping () -> Void) {
        let copies = from == to ? 1 : happens(lossPercent) ? 0 : happens(3) ? 2 : 1
        for _ in 0..<copies {
            guard isOpen(from, to) else { continue }
            after(latency) { [self] in if isOpen(from, to) { deliver() } }
        }
    }

    // MARK: What must hold

    func note(_ words: @autoclosure () -> String) {
        if isTracing { trace.append("\(Double(time) / 1e6) \(words())") }
    }

    func fail(_ words: String) {
        note("VIOLATION \(words)")
        if violation == nil { violation = "at \(Double(time) / 1e6) s: \(words)" }
    }

    /// What a member that applied everything has before an operation; nil when that is not known yet.
    func weights(after operations: UInt64) -> UInt64? {
        weights.indices.contains(Int(operations)) ? weights[Int(operations)] : nil
    }

    /// Keeps a state; what it is known under.
    func keep(_ state: SimState) -> UInt64 {
        states.append(state)
        return UInt64(states.count - 1)
    }

    /// A member applies the result of an operation.
    func commits(_ member: Int, _ operation: UInt64, _ content: UInt64) {
        if operation < UInt64(committed.count) {
            // One that was frozen may end what the others had ended, even when the run is over.
            if committed[Int(operation)] != content {
                fail("operation \(operation) was committed twice with different content, by member \(member)")
            }
        } else if verdict != nil {
            fail("member \(member) went on after the run was begun anew")
        } else if operation == UInt64(committed.count) {
            committed.append(content)
            weights.append(SimState.apply(weights[weights.count - 1], content))
        } else {
            fail("operation \(operation) was committed before \(committed.count)")
        }
    }
}

/// A state of the run, as it is given to members that join.
struct SimState {
    /// The next operation.
    var operation: UInt64
    var weights: UInt64

    /// The weights after one more operation.
    static func apply(_ weights: UInt64, _ content: UInt64) -> UInt64 {
        var generator = SplitMix(weights ^ content)
        return generator.next()
    }
}

/// What the cluster of a schedule looks like.
struct Shape {
    var hosts: Int
    /// The host of each member.
    var placement: [Int]
    var laneCount: Int
    /// The machine of the coordinator: `hosts` for one of its own.
    var coordinatorHost: Int

    init(_ chance: inout SplitMix) {
        hosts = 2 + Int(chance.next() % 4)
        placement = (0..<hosts).flatMap { host in
            Array(repeating: host, count: chance.next() % 4 == 0 ? 2 : 1)
        }
        laneCount = chance.next() % 2 == 0 ? 8 : 4
        if placement.count > laneCount { placement = Array(placement.prefix(laneCount)) }
        coordinatorHost = chance.next() % 2 == 0 ? 0 : hosts
    }
}

/// The decisions that the world runs on; planted bugs replace one each.
struct Harness {
    var rules = MembershipRules()
    var succession = Succession()
    /// Whether a frame belongs to the group that it reached.
    var accepts: (SimFrame, SimGroup) -> Bool = {
        $0.generation == $1.view.number && $0.mark == $1.view.mark
    }
    /// What the READYs so far mean.
    var verdict: (OperationLedger, _ readies: Int) -> OperationLedger.Verdict = { ledger, _ in ledger.verdict
    }
    /// What a member keeps of a group that broke.
    var keep: (MemberState) -> MemberState = { $0 }
    /// True when a member that came later computes nothing before it has the state.
    var waitsForState = true
    /// True when a coordinator that comes back asks the agents for the newest generation.
    var reconciles = true
}

/// What goes over a link of a group.
struct SimFrame {
    enum Body {
        case hello(MemberState)
        case part(OperationLedger.Part, value: UInt64)
        case ready(UInt64)
        case bye
    }
    var generation: Int
    var mark: UInt64
    var sender: Int
    var operation: UInt64 = 0
    var body: Body
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

/// A number as a digest, and back.
func digest(_ number: UInt64) -> Digest {
    var raw = [UInt8](repeating: 0, count: 32)
    for index in 0..<8 { raw[index] = UInt8(truncatingIfNeeded: number >> UInt64(8 * index)) }
    guard let digest = Digest(raw: raw) else { preconditionFailure("32 bytes are a digest") }
    return digest
}

/// What a lane contributes to an operation.
func token(_ operation: UInt64, _ lane: Int) -> UInt64 {
    var generator = SplitMix(operation &* 977 &+ UInt64(lane))
    return generator.next()
}
