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
        var failure: (any Error)?
        var plan: LanePlan
        var measured: Double
        /// Questions without an answer, and one more until the last was asked.
        var open = 1
    }

    private let source: any ChunkSource
    private let wanted: SendList
    /// Chunks as they are found; which of them are wanted is asked on the first connection.
    private let found: FoundChunks?
    private let arrived: @Sendable ([Digest], _ onTheLine: Int) -> Void
    private let state: Mutex<State>
    private let lanes = DispatchGroup()

    /// - Parameter arrived: told of what was acknowledged, on several threads.
    init(
        source: any ChunkSource,
        wanted: [Digest],
        arrived: @escaping @Sendable ([Digest], _ onTheLine: Int) -> Void
    ) {
        self.source = source
        self.wanted = SendList(wanted, isClosed: true)
        found = nil
        self.arrived = arrived
        state = Mutex(State(plan: LanePlan(roundTrip: 0), measured: Machine.monotonicSeconds))
    }

    /// Sends what is wanted of chunks that are still being found.
    init(
        source: any ChunkSource,
        found: FoundChunks,
        arrived: @escaping @Sendable ([Digest], _ onTheLine: Int) -> Void
    ) {
        self.source = source
        wanted = SendList(isClosed: false)
        self.found = found
        self.arrived = arrived
        state = Mutex(State(plan: LanePlan(roundTrip: 0), measured: Machine.monotonicSeconds))
    }

    /// Sends everything.
    ///
    /// - Throws: the first failure of any connection; then all have ended.
    func run(first: AgentClient, link: BulkLink) throws {
        state.withLock { $0.plan = LanePlan(roundTrip: first.roundTrip, known: link.knownLanes) }
        carry(on: first, link: link, asks: found != nil)
        lanes.wait()
        link.learned(lanes: connections)
        if let failure = state.withLock({ $0.failure }) { throw failure }
    }

    /// How many connections were used in the end.
    var connections: Int { state.withLock { $0.plan.lanes } }

    /// One connection's part; what goes wrong is kept for ``run(first:link:)``.
    private func carry(on client: AgentClient, link: BulkLink, asks: Bool = false) {
        let lane = Lane(client)
        let others = DispatchGroup()
        defer { others.wait() }
        do {
            try client.send(.putChunks)
        } catch {
            return fail(error)
        }
        for _ in 0..<Self.window { lane.window.signal() }
        others.enter()
        OSThread.start(name: "ack-\(client.host)") { [self] in
            listen(lane, link: link)
            others.leave()
        }
        if asks, let found {
            others.enter()
            OSThread.start(name: "ask-\(client.host)") { [self] in
                ask(found, on: lane)
                others.leave()
            }
        }
        do {
            while !hasFailed, let batch = try nextBatch() {
                lane.window.wait()
                if hasFailed { break }
                let chunks = batch.entries.map(\.chunk)
                let size = batch.size
                try lane.send(.batch(chunks, size: size), Frame(.bytes, batch.wire()))
            }
            try client.send(bytes: [])
        } catch {
            // Whatever the listener is waiting for does not come any more.
            fail(error)
            client.channel.close()
        }
    }

    /// What was sent and not answered yet.
    private enum Sent {
        case batch([Digest], size: Int)
        case question([Digest])
    }

    private final class Lane: Sendable {
        let client: AgentClient
        let window = DispatchSemaphore(value: 0)
        private let underWay = Mutex<[Sent]>([])
        /// Held while a frame is sent, so that answers come in the order of ``underWay``.
        private let order = Mutex(())

        init(_ client: AgentClient) { self.client = client }

        func send(_ what: Sent, _ frame: Frame) throws {
            try order.withLock { _ in
                underWay.withLock { $0.append(what) }
                try client.send(frame)
            }
        }

        /// What an answer is for.
        func answered() throws -> Sent {
            guard let sent = underWay.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) else {
                throw CoordinatorError("\(client.host): acknowledged what was not sent", exitCode: .bug)
            }
            return sent
        }
    }

    /// Asks for what is found which of it is wanted, up to the end.
    private func ask(_ found: FoundChunks, on lane: Lane) {
        var seen: Set<Digest> = []
        // All of it is taken also when nobody is left to ask: it is not kept for anybody else.
        while let chunks = found.take() {
            let new = chunks.filter { seen.insert($0).inserted }
            guard !new.isEmpty, !hasFailed else { continue }
            var names: [UInt8] = []
            names.reserveCapacity(new.count * 32)
            for chunk in new { chunk.append(to: &names) }
            state.withLock { $0.open += 1 }
            do {
                try lane.send(.question(new), Frame(.question, names))
            } catch {
                fail(error)
                lane.client.channel.close()
            }
        }
        settled()
    }

    /// A question was answered, or the last one asked.
    private func settled() {
        let isAll = state.withLock { state in
            state.open -= 1
            return state.open == 0
        }
        if isAll { wanted.close() }
    }

    /// Reads acknowledgements and answers until the last word.
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
                switch try lane.answered() {
                case .batch(let chunks, let size):
                    lane.window.signal()
                    arrived(chunks, size)
                    for _ in 0..<measure(size) { open(link) }
                case .question(let chunks):
                    wanted.append(try ChunkTransfer.missing(of: chunks, frame.payload, lane.client.host))
                    arrived([], chunks.count * 32 + frame.payload.count)
                    settled()
                }
            }
        } catch {
            fail(error)
            lane.client.channel.close()
        }
    }

    /// How many more connections are worth a try.
    private func measure(_ size: Int) -> Int {
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
        wanted.close()
    }

    /// The next chunks of the list, as many as fill a batch or are there; nil at its end.
    private func nextBatch() throws -> ChunkBatch? {
        var batch = ChunkBatch()
        while !batch.isFull {
            let share = wanted.take(batch.isEmpty ? 1 : Self.stride, waits: batch.isEmpty)
            guard !share.isEmpty else { break }
            for chunk in share { try source.append(chunk, to: &batch) }
        }
        return batch.isEmpty ? nil : batch
    }
}
