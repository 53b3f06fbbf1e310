internal import Dispatch
internal import Synchronization
internal import Tensors

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A few threads that run the lanes of a worker side by side; the caller is the first of them.
///
/// Which thread takes which lane is left to chance: the result never depends on it. Threads end with the pool. A thread
/// that waits looks for work for some microseconds before it sleeps: the pieces of one lane follow closely on each other.
final class LanePool {
    /// What the threads share.
    ///
    /// Safety: `body` and `count` are written by the caller before it wakes the threads and
    /// read by them until they report; the gates order both.
    private final class Shared: @unchecked Sendable {
        var body: ((Int, Int) -> Void)?
        var count = 0
        var isStopping = false
        let next = Atomic<Int>(0)
        let done = Gate()
    }

    /// A semaphore whose waiter looks before it sleeps; one waiter at a time.
    ///
    /// Safety: the count is atomic, and whoever finds a sleeper (a count below zero) wakes it.
    private final class Gate: Sendable {
        private let count = Atomic<Int>(0)
        private let sleeper = DispatchSemaphore(value: 0)
        /// About 20 µs.
        private static let looks = 4000

        func signal() {
            if count.wrappingAdd(1, ordering: .acquiringAndReleasing).oldValue < 0 { sleeper.signal() }
        }

        func wait() {
            for _ in 0..<Self.looks {
                let value = count.load(ordering: .relaxed)
                guard value > 0 else { continue }
                let taken = count.compareExchange(
                    expected: value,
                    desired: value - 1,
                    ordering: .acquiringAndReleasing
                )
                if taken.exchanged { return }
            }
            if count.wrappingSubtract(1, ordering: .acquiringAndReleasing).oldValue <= 0 { sleeper.wait() }
        }
    }

    /// One thread's door.
    ///
    /// Safety: `index` never changes, the rest is safe by itself.
    private final class Door: @unchecked Sendable {
        let shared: Shared
        let index: Int
        let wake = Gate()

        init(shared: Shared, index: Int) {
            self.shared = shared
            self.index = index
        }

        func run() {
            FloatMode.withDeterministicMode {
                while true {
                    wake.wait()
                    if shared.isStopping { return }
                    LanePool.drain(shared, thread: index)
                    shared.done.signal()
                }
            }
        }
    }

    /// Threads in all, the caller included.
    let size: Int
    private let shared = Shared()
    private let doors: [Door]
    private var threads: [pthread_t] = []

    /// - Parameter size: threads in all, ≥ 1.
    init(size: Int) {
        precondition(size >= 1, "a pool of \(size) threads")
        self.size = size
        let shared = shared
        doors = (1..<size).map { Door(shared: shared, index: $0) }
        for door in doors {
            var thread = pthread_t()
            let started = pthread_create(
                &thread,
                nil,
                { context in
                    if let context { Unmanaged<Door>.fromOpaque(context).takeRetainedValue().run() }
                    return nil
                },
                Unmanaged.passRetained(door).toOpaque()
            )
            precondition(started == 0, "pthread_create failed with errno \(started)")
            threads.append(thread)
        }
    }

    deinit {
        shared.isStopping = true
        for door in doors { door.wake.signal() }
        for thread in threads { pthread_join(thread, nil) }
    }

    /// Calls `body(index, thread)` for each index below `count`, and returns when all are done.
    func run(_ count: Int, _ body: (_ index: Int, _ thread: Int) -> Void) {
        guard count > 1, size > 1 else {
            for index in 0..<count { body(index, 0) }
            return
        }
        withoutActuallyEscaping(body) { body in
            shared.body = body
            shared.count = count
            shared.next.store(0, ordering: .relaxed)
            let helpers = doors.prefix(count - 1)
            for door in helpers { door.wake.signal() }
            Self.drain(shared, thread: 0)
            for _ in helpers { shared.done.wait() }
            shared.body = nil
        }
    }

    /// Calls `body` with slices that together are `0 ..< count`, cut at multiples of 64.
    func forEachSlice(_ count: Int, _ body: (Range<Int>) -> Void) {
        // Below some 64 KiB waking threads costs more than the work.
        let slices = count < 16384 ? 1 : size
        let each = (count / slices + 63) / 64 * 64
        run(slices) { index, _ in
            let first = min(count, index * each)
            let end = index == slices - 1 ? count : min(count, first + each)
            if first < end { body(first..<end) }
        }
    }

    private static func drain(_ shared: Shared, thread: Int) {
        while true {
            let index = shared.next.wrappingAdd(1, ordering: .relaxed).oldValue
            guard index < shared.count else { return }
            shared.body?(index, thread)
        }
    }
}
