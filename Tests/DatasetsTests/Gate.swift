import Dispatch
import Synchronization

/// Holds a thread until the test lets it go.
final class Gate: Sendable {
    private let entered = DispatchSemaphore(value: 0)
    private let opened = DispatchSemaphore(value: 0)
    private let never = DispatchSemaphore(value: 0)

    func enterAndWait() {
        entered.signal()
        opened.wait()
    }

    func waitUntilEntered() { entered.wait() }

    func open() { opened.signal() }

    /// Gives other threads the processor until a condition holds; the test's time limit ends it.
    func waitUntil(_ condition: () -> Bool) {
        // A semaphore of its own: the one that opens must reach the thread that is held.
        while !condition() { _ = never.wait(timeout: .now() + .milliseconds(1)) }
    }
}

/// Counts by number, on any thread.
final class Tally: Sendable {
    private let counts = Mutex<[Int: Int]>([:])

    func count(_ number: Int) { counts.withLock { $0[number, default: 0] += 1 } }

    subscript(number: Int) -> Int { counts.withLock { $0[number, default: 0] } }
}
