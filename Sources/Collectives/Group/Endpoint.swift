public import Basics
internal import Synchronization

/// Where the members of all generations reach this process; lives as long as the process.
///
/// A connection for a generation that is not open here yet waits (a bounded number, a bounded time); one for an
/// older generation, or one that does not say who it is, is closed and counted. One thread accepts.
public final class Endpoint: Sendable {
    /// How much strangers may take.
    public struct Limits: Sendable {
        /// Connections that have not become links, at most; beyond, the oldest goes.
        public var pending = 64
        /// How long a connection may take to say hello, and then wait for its generation.
        public var patience: Duration = .seconds(10)
        /// 64 connections, 10 s.
        public init() {}
    }

    /// What was turned away.
    public struct Counters: Hashable, Sendable {
        /// Connections that came.
        public var accepted = 0
        /// Said something else than hello.
        public var garbage = 0
        /// Said nothing in time, or their generation was not opened in time.
        public var expired = 0
        /// Ended before they said hello.
        public var ended = 0
        /// Gave place to newer ones.
        public var evicted = 0
        /// Belonged to a generation that is over, or complete.
        public var stale = 0
        /// Could not prove the secret, or claimed a wrong rank.
        public var refused = 0
    }

    /// A connection that said which generation it is for.
    struct Arrival: Sendable {
        var link: any Link
        var hello: Handshake.Hello
        var deadline: ContinuousClock.Instant
    }

    /// Where the connections of one generation wait for the thread that opens it.
    final class Arrivals: Sendable {
        private struct State {
            var waiting: [Arrival] = []
            var isAbandoned = false
        }
        private let state = Mutex(State())
        let wake: WakeEvent

        init() throws(CollectivesError) { wake = try WakeEvent() }

        func push(_ arrival: Arrival) {
            state.withLock { $0.waiting.append(arrival) }
            wake.signal()
        }
        func abandon() {
            state.withLock { $0.isAbandoned = true }
            wake.signal()
        }
        /// Takes all that wait; nil when somebody gave up this generation.
        func take() -> [Arrival]? {
            wake.clear()
            return state.withLock { state in
                if state.isAbandoned { return nil }
                defer { state.waiting = [] }
                return state.waiting
            }
        }
        /// Closes what nobody took.
        func drain() { state.withLock { state in state.waiting.forEach { $0.link.close() } } }
    }

    private struct Route: Hashable {
        var run: UInt64
        var generation: UInt32
    }

    private struct State {
        var counters = Counters()
        var held: [Arrival] = []
        var openers: [Route: Arrivals] = [:]
        /// The newest generation of each run that is over or complete here.
        var done: [UInt64: UInt32] = [:]
        var isClosed = false
        /// A drill: until then nobody is heard here.
        var silentUntil: ContinuousClock.Instant?
        /// Takes connections that bring a message instead of a hello.
        var council: (@Sendable (any Link, Council.Opening) -> Void)?
    }

    private struct Stranger {
        var link: any Link
        var bytes: [UInt8] = []
        var deadline: ContinuousClock.Instant
    }

    /// The transport that groups use to dial.
    public let transport: any Transport
    /// Where others reach this process.
    public let address: String
    /// Memory that the members on this machine read in place; nil where the transport or the system has none.
    public let memory: SharedArena?
    private let limits: Limits
    private let shared: SharedState
    private let wake: WakeEvent
    private let thread: CommThread

    private final class SharedState: Sendable {
        let state = Mutex(State())
    }

    /// Listens, and starts the thread that accepts.
    ///
    /// - Parameters:
    ///   - address: a local address; port 0 takes a free one.
    /// - Throws: ``CollectivesError`` `.badAddress`, `.system`.
    public init(
        transport: any Transport,
        address: String = "127.0.0.1:0",
        limits: Limits = Limits()
    ) throws(CollectivesError) {
        let listener = try transport.listen(at: address)
        self.transport = transport
        self.address = listener.address
        self.limits = limits
        memory = transport.sharesMemory ? try? SharedArena() : nil
        let shared = SharedState()
        self.shared = shared
        do throws(CollectivesError) {
            let wake = try WakeEvent()
            self.wake = wake
            thread = try CommThread(name: "coord-accept") {
                Self.serve(listener, shared, wake, limits)
                listener.close()
            }
        } catch {
            listener.close()
            throw error
        }
    }

    deinit { close() }

    /// What was turned away so far.
    public var counters: Counters { shared.state.withLock { $0.counters } }

    /// Gives up a generation: opening it throws `.aborted` now and `.closed` later; a group that stands goes on.
    public func abandon(generation: UInt32, of run: RunID) {
        let route = Route(run: FrameHeader.runNumber(run), generation: generation)
        let opener = shared.state.withLock { state in
            // Also when the opening thread comes only after this call.
            state.done[route.run] = max(generation, state.done[route.run] ?? 0)
            return state.openers[route]
        }
        opener?.abandon()
    }

    /// A drill: until then nobody who connects is heard; the kernel takes the connections, as for a process that is stopped.
    public func beSilent(until end: ContinuousClock.Instant) {
        shared.state.withLock { $0.silentUntil = end }
        wake.signal()
    }

    /// Ends the listener, the thread and whatever waits; groups that stand go on.
    public func close() {
        let openers = shared.state.withLock { state in
            state.isClosed = true
            return Array(state.openers.values)
        }
        openers.forEach { $0.abandon() }
        wake.signal()
        thread.join()
    }

    /// Connections that bring a message to a ``Council`` are handed over; called on the accepting thread.
    func onCouncil(_ take: @escaping @Sendable (any Link, Council.Opening) -> Void) {
        shared.state.withLock { $0.council = take }
    }

    // MARK: For the opening thread

    /// Announces that a generation is being opened; what waits for it is handed over.
    func register(run: UInt64, generation: UInt32) throws(CollectivesError) -> Arrivals {
        let arrivals = try Arrivals()
        let route = Route(run: run, generation: generation)
        let refusal: CollectivesError? = shared.state.withLock { state in
            if state.isClosed { return CollectivesError(.closed, "the endpoint is closed") }
            if let done = state.done[run], generation <= done {
                return CollectivesError(.closed, "generation \(generation) is over: \(done) was open already")
            }
            if state.openers[route] != nil {
                return CollectivesError(.closed, "generation \(generation) is being opened already")
            }
            state.openers[route] = arrivals
            if generation > 0 { state.done[run] = max(generation - 1, state.done[run] ?? 0) }
            var kept: [Arrival] = []
            for arrival in state.held {
                if arrival.hello.run == run, arrival.hello.generation == generation {
                    arrivals.push(arrival)
                } else if arrival.hello.run == run, arrival.hello.generation < generation {
                    arrival.link.close()
                    state.counters.stale += 1
                } else {
                    kept.append(arrival)
                }
            }
            state.held = kept
            return nil
        }
        if let refusal { throw refusal }
        return arrivals
    }

    /// Ends the opening; after a complete one late connections are refused.
    func unregister(run: UInt64, generation: UInt32, isComplete: Bool) {
        let arrivals = shared.state.withLock { state in
            if isComplete { state.done[run] = max(generation, state.done[run] ?? 0) }
            return state.openers.removeValue(forKey: Route(run: run, generation: generation))
        }
        arrivals?.drain()
    }

    func countRefusal() { shared.state.withLock { $0.counters.refused += 1 } }

    // MARK: The accepting thread

    private static func serve(
        _ listener: any Listener,
        _ shared: SharedState,
        _ wake: WakeEvent,
        _ limits: Limits
    ) {
        var strangers: [Stranger] = []
        var polls = PollSet()
        var pausedUntil = ContinuousClock.now
        while !shared.state.withLock({ $0.isClosed }) {
            let now = ContinuousClock.now
            var next = now + .seconds(60)
            polls.clear()
            polls.add(wake.descriptor, read: true, write: false)
            if let end = shared.state.withLock({ $0.silentUntil }), now < end {
                polls.wait(until: end)
                wake.clear()
                continue
            }
            polls.add(listener.descriptor, read: now >= pausedUntil, write: false)
            if now < pausedUntil { next = pausedUntil }
            for stranger in strangers {
                polls.add(stranger.link.descriptor, read: true, write: false)
                next = min(next, stranger.deadline)
            }
            for arrival in shared.state.withLock({ $0.held }) { next = min(next, arrival.deadline) }
            polls.wait(until: next)
            wake.clear()
            var kept: [Stranger] = []
            for (index, var stranger) in strangers.enumerated() {
                if !polls.isReadable(index + 2) || listen(to: &stranger, shared) { kept.append(stranger) }
            }
            strangers = kept
            if polls.isReadable(1) {
                var came = 0
                while let link = listener.accept() {
                    came += 1
                    strangers.append(Stranger(link: link, deadline: .now + limits.patience))
                    if came == limits.pending { break }
                }
                shared.state.withLock { $0.counters.accepted += came }
                // Out of descriptors, most likely: the listener stays readable, so look again a little later.
                if came == 0 { pausedUntil = .now + .milliseconds(10) }
            }
            expire(&strangers, shared, limits)
        }
        strangers.forEach { $0.link.close() }
        shared.state.withLock { state in
            state.held.forEach { $0.link.close() }
            state.held = []
        }
    }

    /// Reads what a stranger says; false when it is no stranger any more, or gone.
    private static func listen(to stranger: inout Stranger, _ shared: SharedState) -> Bool {
        var buffer = [UInt8](repeating: 0, count: Handshake.helloBytes - stranger.bytes.count)
        let progress = buffer.withUnsafeMutableBytes {
            stranger.link.receive(into: $0, and: UnsafeMutableRawBufferPointer(start: nil, count: 0))
        }
        switch progress {
        case .wouldBlock: return true
        case .ended, .failed:
            shared.state.withLock { $0.counters.ended += 1 }
            stranger.link.close()
            return false
        case .moved(let count): stranger.bytes += buffer.prefix(count)
        }
        guard stranger.bytes.count == Handshake.helloBytes else { return true }
        if let opening = Council.Opening(stranger.bytes), let council = shared.state.withLock({ $0.council })
        {
            council(stranger.link, opening)
            return false
        }
        guard let hello = Handshake.Hello(stranger.bytes) else {
            shared.state.withLock { $0.counters.garbage += 1 }  // before the other side can notice
            stranger.link.close()
            return false
        }
        let arrival = Arrival(link: stranger.link, hello: hello, deadline: stranger.deadline)
        shared.state.withLock { state in
            let route = Route(run: hello.run, generation: hello.generation)
            if let opener = state.openers[route] {
                opener.push(arrival)
            } else if let done = state.done[hello.run], hello.generation <= done {
                arrival.link.close()
                state.counters.stale += 1
            } else {
                state.held.append(arrival)
            }
        }
        return false
    }

    private static func expire(_ strangers: inout [Stranger], _ shared: SharedState, _ limits: Limits) {
        let now = ContinuousClock.now
        var kept: [Stranger] = []
        shared.state.withLock { state in
            for stranger in strangers {
                if stranger.deadline > now {
                    kept.append(stranger)
                } else {
                    stranger.link.close()
                    state.counters.expired += 1
                }
            }
            var held: [Arrival] = []
            for arrival in state.held {
                if arrival.deadline > now {
                    held.append(arrival)
                } else {
                    arrival.link.close()
                    state.counters.expired += 1
                }
            }
            // Too many: first those go that never said who they are.
            while kept.count + held.count > limits.pending {
                if kept.isEmpty {
                    held.removeFirst().link.close()
                } else {
                    kept.removeFirst().link.close()
                }
                state.counters.evicted += 1
            }
            state.held = held
        }
        strangers = kept
    }
}
