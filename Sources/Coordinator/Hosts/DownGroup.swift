internal import Basics
internal import Synchronization

/// Counts hosts down until all have said how their end went.
final class DownGroup: Sendable {
    private struct State {
        var waiting: Set<String>
        var failure: (any ExplainedError)?
    }

    private let state: Mutex<State>

    init(waiting: Set<String>) { state = Mutex(State(waiting: waiting)) }

    /// One host is done; the first failure when it was the last one.
    func done(_ host: String, _ failure: (any ExplainedError)?) -> (failure: (any ExplainedError)?, ())? {
        state.withLock { state in
            state.waiting.remove(host)
            if state.failure == nil { state.failure = failure }
            return state.waiting.isEmpty ? (state.failure, ()) : nil
        }
    }
}
