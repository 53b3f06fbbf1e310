internal import Basics
internal import Synchronization
internal import Wire

/// The connections for chunks with one host: opened when somebody needs one, kept for the next.
///
/// Any thread may take one; whoever took it talks on it alone.
package final class BulkLink: Sendable {
    private struct State {
        var idle: [AgentClient] = []
        var inUse: [ObjectIdentifier: AgentClient] = [:]
        var isClosed = false
        var lanes: Int?
    }

    /// As many as one transfer uses at most.
    private static let idleLimit = LanePlan.maximum

    package let host: String
    private let open: @Sendable () throws -> AgentClient
    private let state = Mutex(State())

    /// What a host's shell runs to join a channel to its agent; both parts as the shell takes them.
    ///
    /// OpenBLAS, which is in every worker program, would start a thread for each core at once, and have it spin.
    package static func bridge(_ program: String, _ root: String) -> String {
        "OPENBLAS_NUM_THREADS=1 exec \(program) bridge --directory \(root)"
    }

    /// - Parameter open: makes a connection that was greeted.
    package init(host: String, open: @escaping @Sendable () throws -> AgentClient) {
        self.host = host
        self.open = open
    }

    /// Lends a connection to `body`; one that `body` throws on is closed.
    package func with<R>(_ body: (AgentClient) throws -> R) throws -> R {
        let client = try take()
        do {
            let result = try body(client)
            give(client)
            return result
        } catch {
            drop(client)
            throw error
        }
    }

    /// How many connections the last transfer found to be worth it; nil before the first that needed several.
    var knownLanes: Int? { state.withLock { $0.lanes } }

    /// Keeps what a transfer found out; one that ended before it tried a second connection found nothing.
    func learned(lanes: Int) { if lanes > 1 { state.withLock { $0.lanes = lanes } } }

    /// Asks on a connection and waits for the answer; see ``AgentClient/call(_:bytes:timeout:)``.
    @discardableResult
    func call(_ request: AgentRequest, timeout: Int32 = 60_000) throws -> AgentReply {
        try with { try $0.call(request, timeout: timeout) }
    }

    private func take() throws -> AgentClient {
        let kept = state.withLock { state -> AgentClient? in
            guard let client = state.idle.popLast() else { return nil }
            state.inUse[ObjectIdentifier(client)] = client
            return client
        }
        if let kept { return kept }
        let client = try open()
        let isClosed = state.withLock { state in
            state.inUse[ObjectIdentifier(client)] = client
            return state.isClosed
        }
        if isClosed {
            drop(client)
            throw LostConnection(host: host, cause: .truncated)
        }
        return client
    }

    private func give(_ client: AgentClient) {
        let isKept = state.withLock { state in
            state.inUse[ObjectIdentifier(client)] = nil
            guard !state.isClosed, state.idle.count < Self.idleLimit else { return false }
            state.idle.append(client)
            return true
        }
        if !isKept { client.channel.close() }
    }

    private func drop(_ client: AgentClient) {
        state.withLock { $0.inUse[ObjectIdentifier(client)] = nil }
        client.channel.close()
    }

    /// Ends all connections; whoever uses one sees it break.
    package func close() {
        let clients = state.withLock { state in
            state.isClosed = true
            defer { state.idle = [] }
            return state.idle + state.inUse.values
        }
        for client in clients { client.channel.close() }
    }
}
