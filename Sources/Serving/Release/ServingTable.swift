internal import Basics
internal import Synchronization
internal import Wire

/// Who answers requests now: written by ``Supervisor``, read by every request.
///
/// A request holds on to the child it was given, so a switch never touches what is in flight.
final class ServingTable: Sendable {
    /// A version, and its child while it can answer.
    struct Entry: Sendable {
        var version: ServedVersion
        var child: ChildHandle?
    }

    private struct State {
        var live: Entry?
        var previous: Entry?
        var isComing = false
        var waiters: [CheckedContinuation<Void, Never>] = []
    }

    private let state = Mutex(State())

    /// Replaces the table and wakes who waits for a change.
    func publish(live: Entry?, previous: Entry?, isComing: Bool) {
        let waiters = state.withLock { state in
            state.live = live
            state.previous = previous
            state.isComing = isComing
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume() }
    }

    /// The live version.
    var live: Entry? { state.withLock(\.live) }
    /// The live version, and the one before it.
    var entries: [Entry] { state.withLock { [$0.live, $0.previous].compactMap(\.self) } }

    /// The entry of a model, without waiting.
    ///
    /// - Throws: ``ServingError`` `.notFound` with what there is, `.notReady` when nothing is live.
    func entry(model: String, version: Int?) throws -> Entry {
        try state.withLock { try Self.find($0, model, version) }
    }

    /// A child that can answer for a model; waits while the live version is being started again.
    ///
    /// - Parameters:
    ///   - version: nil = the live one.
    ///   - dead: a child that was found dead and may still stand in the table.
    /// - Throws: ``ServingError`` `.notFound`, `.notReady`.
    func child(model: String, version: Int?, not dead: ChildID?) async throws -> Entry {
        while true {
            let entry: Entry? = try state.withLock { state in
                let entry = try Self.find(state, model, version)
                if let child = entry.child { return child.id == dead ? nil : entry }
                guard state.isComing, entry.version == state.live?.version else {
                    throw ServingError(
                        .notReady,
                        "\(entry.version.text) is not loaded",
                        hint: "roll back or release it again"
                    )
                }
                return nil
            }
            if let entry { return entry }
            // Every death and every load ends in a publication: loading has a deadline.
            await withCheckedContinuation { continuation in
                let isStale = state.withLock { state in
                    if let child = (try? Self.find(state, model, version))?.child, child.id != dead {
                        return true
                    }
                    if !state.isComing, (try? Self.find(state, model, version))?.child == nil { return true }
                    state.waiters.append(continuation)
                    return false
                }
                if isStale { continuation.resume() }
            }
        }
    }

    private static func find(_ state: State, _ model: String, _ version: Int?) throws -> Entry {
        guard let live = state.live else {
            throw ServingError(.notReady, "no version is live", hint: "release one with coord deploy")
        }
        let all = [live, state.previous].compactMap(\.self)
        guard let version else {
            guard live.version.model == model else {
                throw ServingError(
                    .notFound,
                    "there is no model \(JSON.quoted(model)); \(live.version.text) is live"
                )
            }
            return live
        }
        guard let found = all.first(where: { $0.version.model == model && $0.version.version == version })
        else {
            throw ServingError(
                .notFound,
                "there is no \(model)@\(version); loaded: \(all.map(\.version.text).joined(separator: ", "))"
            )
        }
        return found
    }
}
