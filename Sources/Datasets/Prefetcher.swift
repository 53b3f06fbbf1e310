internal import Basics
internal import Dispatch
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Makes samples ready before they are asked for, on threads that give way to those that train.
///
/// A sample is made by a function of its key alone, so that it makes no difference who made it. Whoever asks for one never
/// waits: what is ready is copied, what is not is made by the asker. At most `room` samples are in memory: when all are ready,
/// the threads wait until one is asked for. At most `announced` keys are remembered: of more, those that were announced first
/// are given up, as nobody came for them.
public final class Prefetcher: Sendable {
    /// A sample as it is asked for.
    public struct Key: Hashable, Sendable {
        /// Where a sample is trained on.
        public struct Place: Hashable, Sendable {
            /// Of the whole run.
            public var step: Int
            /// In the step's batch.
            public var position: Int

            /// Both.
            public init(step: Int, position: Int) {
                self.step = step
                self.position = position
            }
        }

        /// Which.
        public var sample: Int
        /// Nil for a sample as it is.
        public var place: Place?

        /// Both parts.
        public init(sample: Int, place: Place? = nil) {
            self.sample = sample
            self.place = place
        }
    }

    /// Makes one sample: the same values for the same key.
    public typealias Make = @Sendable (Key, UnsafeMutableBufferPointer<Float>) -> Void

    private enum Slot {
        case waiting
        case ready([Float])
    }

    private struct State {
        var slots: [Key: Slot] = [:]
        /// In the order of announcement; some are gone already.
        var order: [Key] = []
        /// Those in `order` before this are known to be gone.
        var first = 0
        /// The next to be made, an index into `order`.
        var next = 0
        /// Samples that are ready or in the making.
        var held = 0
        /// Threads that wait for something to do.
        var asleep = 0
        var isOver = false
        var hits = 0
        var misses = 0

        /// The next to be made, when there is room for it.
        mutating func claim(room: Int) -> Key? {
            guard held < room else { return nil }
            next = max(next, first)
            while next < order.count {
                let key = order[next]
                next += 1
                guard case .waiting = slots[key] else { continue }
                held += 1
                return key
            }
            return nil
        }

        /// Forgets a key; what was ready for it.
        mutating func remove(_ key: Key) -> [Float]? {
            guard case .ready(let values) = slots.removeValue(forKey: key) else { return nil }
            held -= 1
            return values
        }

        /// Steps over what is gone, and forgets it now and then.
        mutating func tidy(_ announced: Int) {
            while first < order.count, slots[order[first]] == nil { first += 1 }
            guard first > 4 * announced else { return }
            order.removeFirst(first)
            next = max(0, next - first)
            first = 0
        }
    }

    /// What threads and owner share: threads keep no owner alive.
    private final class Shared: Sendable {
        let state = Mutex(State())
        let work = DispatchSemaphore(value: 0)

        /// Changes the state, and wakes as many threads as the change has work for.
        func change<Result>(_ body: (inout State) -> (result: Result, work: Int)) -> Result {
            let (result, woken) = state.withLock { state in
                let (result, work) = body(&state)
                let woken = min(state.asleep, work)
                state.asleep -= woken
                return (result, woken)
            }
            for _ in 0..<woken { work.signal() }
            return result
        }
    }

    private let shared = Shared()
    private let make: Make
    private let announced: Int

    /// Starts the threads; they end with the object.
    ///
    /// - Parameters:
    ///   - valueCount: numbers in a sample.
    ///   - room: samples that are in memory at most; ≥ 1.
    ///   - announced: keys that are remembered at most; ≥ 1.
    ///   - threads: ≥ 1.
    public init(valueCount: Int, room: Int, announced: Int, threads: Int, make: @escaping Make) {
        precondition(room > 0 && announced > 0 && threads > 0, "\(room), \(announced), \(threads)")
        self.make = make
        self.announced = announced
        for _ in 0..<threads {
            OSThread.start(name: "prefetch") { [shared] in
                // Below those who train: they are never slowed, and what they leave over is used. Without the right to, all
                // are equal, which is as correct.
                _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 10)
                Self.run(shared, valueCount: valueCount, room: room, make)
            }
        }
    }

    deinit {
        shared.change { state in
            state.isOver = true
            return ((), state.asleep)
        }
    }

    /// How many were ready when they were asked for, and how many were not.
    public var counts: (ready: Int, late: Int) { shared.state.withLock { ($0.hits, $0.misses) } }

    /// Announces samples that will be asked for, in this order; those that are announced already keep their place.
    public func expect(_ keys: [Key]) {
        shared.change { state in
            for key in keys where state.slots[key] == nil {
                while state.slots.count >= announced {
                    _ = state.remove(state.order[state.first])
                    state.tidy(announced)
                }
                state.slots[key] = .waiting
                state.order.append(key)
            }
            return ((), keys.count)
        }
    }

    /// Writes a sample: the one that is ready, or one that is made now.
    public func take(_ key: Key, into target: UnsafeMutableBufferPointer<Float>) {
        let ready = shared.change { state in
            let ready = state.remove(key)
            state.tidy(announced)
            if ready != nil { state.hits += 1 } else { state.misses += 1 }
            return (ready, ready == nil ? 0 : 1)
        }
        guard let ready else { return make(key, target) }
        _ = target.update(fromContentsOf: ready)
    }

    private static func run(_ shared: Shared, valueCount: Int, room: Int, _ make: Make) {
        while true {
            let (key, isOver) = shared.state.withLock { state in
                if state.isOver { return (Key?.none, true) }
                let key = state.claim(room: room)
                if key == nil { state.asleep += 1 }
                return (key, false)
            }
            if isOver { return }
            guard let key else {
                shared.work.wait()
                continue
            }
            let values = [Float](unsafeUninitializedCapacity: valueCount) { target, count in
                make(key, UnsafeMutableBufferPointer(rebasing: target[..<valueCount]))
                count = valueCount
            }
            shared.state.withLock { state in
                if case .waiting = state.slots[key] {
                    state.slots[key] = .ready(values)
                } else {
                    // Taken meanwhile, or given up: whoever needed it has made it.
                    state.held -= 1
                }
            }
        }
    }
}
