internal import Basics
internal import ContentStore
internal import Dispatch
internal import Synchronization
internal import Wire

/// Chunks on their way to one host, over one connection and more while that makes it faster.
final class PushJob: Sendable {
    /// Batches on a connection that were not acknowledged: 16 MiB, or more where single chunks are larger than a
    /// batch.
    ///
    /// Larger: fast lines with long round trips stay full. Smaller: less is lost with a connection.
    private static let window = 16
    /// How long an acknowledgement may take; unit: milliseconds.
    private static let patience: Int32 = 120_000
    /// Chunks that a connection takes from the list at a time.
    private static let stride = 16

    private struct State {
        var next = 0
        var failure: (any Error)?
        var plan: LanePlan
        var measured: Double
    }

    private let source: any ChunkSource
    private let wanted: [Digest]
    private let progress: TransferProgress
    private let attempt: ChunkTransfer.Attempt
    private let state: Mutex<State>
    private let lanes = DispatchGroup()

    init(
        source: any ChunkSource,
        wanted: [Digest],
        progress: TransferProgress,
        attempt: ChunkTransfer.Attempt
    ) {
        self.source = source
        self.wanted = wanted
        self.progress = progress
        self.attempt = attempt
        state = Mutex(State(plan: LanePlan(roundTrip: 0), measured: Machine.monotonicSeconds))
    }

    /// Sends everything.
    ///
    /// - Throws: the first failure of any connection; then all have ended.
    func run(first: AgentClient, link: BulkLink) throws {
        state.withLock { $0.plan = LanePlan(roundTrip: first.roundTrip) }
        carry(on: first, link: link)
        lanes.wait()
        if let failure = state.withLock({ $0.failure }) { throw failure }
    }

    /// One connection's part; what goes wrong is kept for ``run(first:link:)``.
    private func carry(on client: AgentClient, link: BulkLink) {
        do {
            try client.send(.putChunks)
            let window = DispatchSemaphore(value: 0)
            for _ in 0..<Self.window { window.signal() }
            let underWay = Mutex<[(chunks: [Digest], size: Int)]>([])
            let reader = DispatchGroup()
            reader.enter()
            let box = Lane(client: client, window: window, underWay: underWay)
            OSThread.start(name: "ack-\(client.host)") { [self] in
                listen(box, link: link)
                reader.leave()
            }
            defer { reader.wait() }
            do {
                while !hasFailed, let batch = try nextBatch() {
                    window.wait()
                    if hasFailed { break }
                    let chunks = batch.entries.map(\.chunk)
                    let size = batch.size
                    let wire = batch.wire()
                    box.underWay.withLock { $0.append((chunks, size)) }
                    try client.send(bytes: wire)
                }
                try client.send(bytes: [])
            } catch {
                // Whatever the listener is waiting for does not come any more.
                fail(error)
                client.channel.close()
            }
        } catch {
            fail(error)
        }
    }

    private final class Lane: Sendable {
        let client: AgentClient
        let window: DispatchSemaphore
        let underWay: Mutex<[(chunks: [Digest], size: Int)]>
        init(
            client: AgentClient,
            window: DispatchSemaphore,
            underWay: consuming sending Mutex<[(chunks: [Digest], size: Int)]>
        ) {
            self.client = client
            self.window = window
            self.underWay = underWay
        }
    }

    /// Reads acknowledgements until the last word.
    private func listen(_ lane: Lane, link: BulkLink) {
        // Whoever waits for room must not wait for ever.
        defer { for _ in 0...Self.window { lane.window.signal() } }
        do {
            while true {
                let frame = try lane.client.receive(timeout: Self.patience)
                guard frame.kind == .bytes else {
                    // `done`, or a refusal, which this throws.
                    try lane.client.check(frame)
                    return
                }
                let done = lane.underWay.withLock { $0.isEmpty ? nil : $0.removeFirst() }
                guard let done else {
                    throw CoordinatorError(
                        "\(lane.client.host): acknowledged what was not sent",
                        exitCode: .bug
                    )
                }
                lane.window.signal()
                attempt.mark()
                progress.arrived(done.chunks, onTheLine: done.size)
                if measure(done.size) { open(link) }
            }
        } catch {
            fail(error)
            lane.client.channel.close()
        }
    }

    private func measure(_ size: Int) -> Bool {
        let now = Machine.monotonicSeconds
        return state.withLock { state in
            let seconds = now - state.measured
            state.measured = now
            return state.plan.measured(bytes: size, seconds: seconds)
        }
    }

    /// One more connection; where it can't be had the others go on.
    private func open(_ link: BulkLink) {
        lanes.enter()
        OSThread.start(name: "lane-\(link.host)") { [self] in
            try? link.with { client in
                carry(on: client, link: link)
                if hasFailed { throw LostConnection(host: link.host, cause: .truncated) }
            }
            lanes.leave()
        }
    }

    private var hasFailed: Bool { state.withLock { $0.failure != nil } }

    private func fail(_ error: any Error) {
        state.withLock { state in
            // What a host refuses says more than the end of the connection that follows.
            if state.failure == nil || state.failure is LostConnection { state.failure = error }
        }
    }

    /// The next chunks of the list, as many as fill a batch; nil at its end.
    private func nextBatch() throws -> ChunkBatch? {
        var batch = ChunkBatch()
        while !batch.isFull {
            let share = state.withLock { state in
                let end = min(wanted.count, state.next + (batch.isEmpty ? 1 : Self.stride))
                defer { state.next = end }
                return state.next..<end
            }
            guard !share.isEmpty else { break }
            for index in share { try source.append(wanted[index], to: &batch) }
        }
        return batch.isEmpty ? nil : batch
    }
}
