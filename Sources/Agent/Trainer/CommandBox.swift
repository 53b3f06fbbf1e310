internal import Basics
internal import Dispatch
internal import Synchronization
internal import Wire

/// What the agent last said to this trainer; the newest generation counts, those before it are history.
final class CommandBox: Sendable {
    /// For a member that joins: each with the generation that it belongs to.
    struct News: Sendable {
        /// Where the run stands.
        var standing: (generation: Int, String)?
        /// The manifest of the state.
        var state: (generation: Int, Digest)?
    }

    private struct State {
        var generation: GenerationPlan?
        var news = News()
        var interrupt: (@Sendable () -> Void)?
        /// No generation up to this one is to be begun.
        var abandoned = 0
        /// The harm to do at the next exchange.
        var injury: Injury?
    }

    private let state = Mutex(State())
    private let changed = DispatchSemaphore(value: 0)
    private let never = DispatchSemaphore(value: 0)

    /// A newer generation: whoever waits is woken, whoever exchanges is interrupted.
    func put(_ plan: GenerationPlan) {
        let interrupt = state.withLock { state -> (@Sendable () -> Void)? in
            guard plan.number > state.generation?.number ?? 0 else { return nil }
            state.generation = plan
            return state.interrupt
        }
        interrupt?()
        changed.signal()
    }

    /// A generation that is not to be used: whoever opens it is interrupted, whoever has not begun never does.
    func abandon(_ number: Int) {
        let interrupt = state.withLock { state -> (@Sendable () -> Void)? in
            state.abandoned = max(state.abandoned, number)
            return state.generation?.number == number ? state.interrupt : nil
        }
        interrupt?()
    }

    /// A drill: harm to be done at the next exchange.
    func put(_ injury: Injury) { state.withLock { $0.injury = injury } }

    /// Takes it.
    func takeInjury() -> Injury? {
        state.withLock { state in
            defer { state.injury = nil }
            return state.injury
        }
    }

    /// Waits until then, whatever comes.
    func rest(until end: ContinuousClock.Instant) {
        _ = never.wait(timeout: .now() + max(0, (end - .now) / .seconds(1)))
    }

    /// Where the run stands has come; what was on its way longer than news of a later generation says nothing.
    func put(standing: String, generation: Int) {
        state.withLock { state in
            guard generation >= state.news.standing?.generation ?? 0 else { return }
            state.news.standing = (generation, standing)
        }
        changed.signal()
    }

    /// The state that belongs to it has come.
    func put(state manifest: Digest, generation: Int) {
        state.withLock { state in
            guard generation >= state.news.state?.generation ?? 0 else { return }
            state.news.state = (generation, manifest)
        }
        changed.signal()
    }

    /// What has come for a member that joins, and belongs to a generation.
    func latest<Word: Sendable>(_ word: KeyPath<News, (generation: Int, Word)?>, of generation: Int) -> Word?
    {
        state.withLock { state in
            state.news[keyPath: word].flatMap { $0.generation == generation ? $0.1 : nil }
        }
    }

    /// Waits for something that belongs to a generation; nil when a newer generation came first.
    ///
    /// - Parameter givesUp: asked twice a second.
    func wait<Word: Sendable>(
        for word: KeyPath<News, (generation: Int, Word)?>,
        of generation: Int,
        givesUp: () throws -> Void
    ) throws -> Word? {
        while true {
            if newest > generation { return nil }
            if let word = latest(word, of: generation) { return word }
            try givesUp()
            _ = changed.wait(timeout: .now() + .milliseconds(500))
        }
    }

    /// What to call when a newer generation comes.
    func onInterrupt(_ body: (@Sendable () -> Void)?) {
        state.withLock { $0.interrupt = body }
    }

    /// The number of the newest generation.
    var newest: Int { state.withLock { $0.generation?.number ?? 0 } }

    /// Whether a generation above `number` has come in which a member does not have a lane.
    func takes(_ lane: Int, from member: Int, after number: Int) -> Bool {
        state.withLock { state in
            guard let plan = state.generation, plan.number > max(number, state.abandoned) else {
                return false
            }
            return plan.members.first { $0.member == member }?.lanes.contains(lane) != true
        }
    }

    /// Waits for a generation with a number above `number`; nil when none came in time.
    func wait(newerThan number: Int, milliseconds: Int) -> GenerationPlan? {
        let deadline = DispatchTime.now() + .milliseconds(milliseconds)
        while true {
            let (plan, abandoned) = state.withLock { ($0.generation, $0.abandoned) }
            if let plan, plan.number > max(number, abandoned) { return plan }
            guard changed.wait(timeout: deadline) == .success else { return nil }
        }
    }
}
