internal import Synchronization
internal import Wire

/// The connections of the coordinator, so that those of a dead one can be ended.
///
/// A machine that changed its address or slept comes back on new connections; the old ones would stay open until the
/// kernel gives up on them, which takes hours.
final class ConnectionTable: Sendable {
    private struct State {
        var session: String?
        var channels: [Int: (session: String, channel: FrameChannel)] = [:]
        var next = 0
    }

    private let state = Mutex(State())

    /// A connection says which session it belongs to; a new session ends the connections of all others.
    ///
    /// - Returns: the connection's number, for ``left(_:)``.
    func entered(_ session: String, _ channel: FrameChannel) -> Int {
        let (number, old) = state.withLock { state -> (Int, [FrameChannel]) in
            var old: [FrameChannel] = []
            if state.session != session {
                old = state.channels.values.map(\.channel)
                state.channels = [:]
                state.session = session
            }
            state.next += 1
            state.channels[state.next] = (session, channel)
            return (state.next, old)
        }
        for channel in old { channel.close() }
        return number
    }

    /// A connection is over.
    func left(_ number: Int) {
        _ = state.withLock { $0.channels.removeValue(forKey: number) }
    }
}
