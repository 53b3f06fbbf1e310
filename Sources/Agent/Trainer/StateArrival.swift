internal import Basics
internal import Dispatch
internal import Synchronization
internal import Training

/// Reads and verifies a state beside the exchange: large ones take longer than the others should wait.
final class StateArrival: Sendable {
    private let outcome = Mutex<Result<CheckpointState, any Error>?>(nil)
    private let isThere = DispatchSemaphore(value: 0)

    /// - Parameter read: reads it, on a thread of its own.
    init(_ read: @escaping @Sendable () throws -> CheckpointState) {
        OSThread.start(name: "arrival") { [self] in
            let outcome = Result { try read() }
            self.outcome.withLock { $0 = outcome }
            isThere.signal()
        }
    }

    /// The state; nil while it is being read.
    ///
    /// - Parameter waits: until it is there; once only.
    func take(waits: Bool) throws -> CheckpointState? {
        if waits { isThere.wait() }
        return try outcome.withLock { $0 }?.get()
    }
}
