internal import Basics
internal import Dispatch
internal import Synchronization

/// Chunks that are still to be sent.
///
/// Any thread takes from it, and may wait while more can come.
final class SendList: Sendable {
    private struct State {
        var chunks: [Digest]
        var next = 0
        var isClosed: Bool
        var waiting = 0
    }

    private let state: Mutex<State>
    private let news = DispatchSemaphore(value: 0)

    /// - Parameter isClosed: true when no more come.
    init(_ chunks: [Digest] = [], isClosed: Bool) {
        state = Mutex(State(chunks: chunks, isClosed: isClosed))
    }

    func append(_ more: [Digest]) {
        change { $0.chunks += more }
    }

    /// No more come; what is there can still be taken.
    func close() {
        change { $0.isClosed = true }
    }

    private func change(_ body: (inout sending State) -> Void) {
        let waiting = state.withLock { state in
            body(&state)
            defer { state.waiting = 0 }
            return state.waiting
        }
        for _ in 0..<waiting { news.signal() }
    }

    /// Takes at most so many; none when there are none.
    ///
    /// - Parameter waits: until there are some, or the end.
    func take(_ count: Int, waits: Bool) -> ArraySlice<Digest> {
        while true {
            let taken = state.withLock { state -> ArraySlice<Digest>? in
                let end = min(state.chunks.count, state.next + count)
                if state.next < end || state.isClosed || !waits {
                    defer { state.next = end }
                    return state.chunks[state.next..<end]
                }
                state.waiting += 1
                return nil
            }
            if let taken { return taken }
            news.wait()
        }
    }
}
