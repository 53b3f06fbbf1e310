internal import Basics
internal import ContentStore
internal import Dispatch
internal import Synchronization
internal import Wire

/// Chunks on their way from one host, over one connection and more while that makes it faster.
///
/// What is under way is bounded by what was asked for: two shares a connection.
final class PullJob: Sendable {
    /// What a connection asks for at a time; unit: bytes.
    private static let share = 16 << 20
    /// How long a batch may take; unit: milliseconds.
    private static let patience: Int32 = 120_000

    private struct State {
        var next = 0
        var failure: (any Error)?
        var plan: LanePlan
        var measured: Double
    }

    private let store: ChunkStore
    private let wanted: [Digest]
    private let shareCount: Int
    private let progress: TransferProgress
    private let attempt: ChunkTransfer.Attempt
    private let state: Mutex<State>
    private let lanes = DispatchGroup()

    /// - Parameter averageSize: of a chunk; unit: bytes.
    init(
        store: ChunkStore,
        wanted: [Digest],
        averageSize: Int,
        progress: TransferProgress,
        attempt: ChunkTransfer.Attempt
    ) {
        self.store = store
        self.wanted = wanted
        self.progress = progress
        self.attempt = attempt
        // The names of a share fit one frame many times over.
        shareCount = min(max(1, Self.share / max(1, averageSize)), 65536)
        state = Mutex(State(plan: LanePlan(roundTrip: 0), measured: Machine.monotonicSeconds))
    }

    /// Fetches everything and brings it to the disk.
    ///
    /// - Throws: the first failure of any connection; then all have ended, and what arrived is kept.
    func run(first: AgentClient, link: BulkLink) throws {
        state.withLock { $0.plan = LanePlan(roundTrip: first.roundTrip, known: link.knownLanes) }
        carry(on: first, link: link)
        lanes.wait()
        link.learned(lanes: connections)
        if let failure = state.withLock({ $0.failure }) { throw failure }
    }

    /// How many connections were used in the end.
    var connections: Int { state.withLock { $0.plan.lanes } }

    private func carry(on client: AgentClient, link: BulkLink) {
        let writer = ChunkWriter(store)
        do {
            var waiting = 0
            // The next share is asked for before the last one is here, so that the host never waits for us.
            if try request(on: client) { waiting += 1 }
            while waiting > 0 {
                if try request(on: client) { waiting += 1 }
                try client.checkReply(timeout: Self.patience)
                try receive(on: client, into: writer, link: link)
                waiting -= 1
            }
        } catch {
            state.withLock { state in if state.failure == nil { state.failure = error } }
            client.channel.close()
        }
        do {
            try writer.flush()
        } catch {
            state.withLock { state in if state.failure == nil { state.failure = error } }
        }
    }

    /// Asks for the next share; false when there is none.
    private func request(on client: AgentClient) throws -> Bool {
        let share = state.withLock { state in
            if state.failure != nil { return 0..<0 }
            let end = min(wanted.count, state.next + shareCount)
            defer { state.next = end }
            return state.next..<end
        }
        guard !share.isEmpty else { return false }
        var names: [UInt8] = []
        names.reserveCapacity(share.count * 32)
        for index in share { wanted[index].append(to: &names) }
        try client.send(.getChunks)
        try client.send(bytes: names)
        return true
    }

    private func receive(on client: AgentClient, into writer: ChunkWriter, link: BulkLink) throws {
        while true {
            let frame = try client.receive(timeout: Self.patience)
            guard frame.kind == .bytes else {
                try client.check(frame)
                throw CoordinatorError("\(client.host): a message in the middle of chunks", exitCode: .bug)
            }
            if frame.payload.isEmpty { return }
            let batch = try ChunkBatch(wire: frame.payload)
            try writer.take(batch)
            attempt.mark()
            progress.arrived(batch.entries.map(\.chunk), onTheLine: batch.size)
            let now = Machine.monotonicSeconds
            let more = state.withLock { state in
                let seconds = now - state.measured
                state.measured = now
                return state.plan.measured(bytes: batch.size, seconds: seconds)
            }
            for _ in 0..<more { open(link) }
        }
    }

    private func open(_ link: BulkLink) {
        lanes.enter()
        OSThread.start(name: "lane-\(link.host)") { [self] in
            try? link.with { client in
                carry(on: client, link: link)
                if state.withLock({ $0.failure != nil }) {
                    throw LostConnection(host: link.host, cause: .truncated)
                }
            }
            lanes.leave()
        }
    }
}
