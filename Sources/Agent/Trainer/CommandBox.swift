internal import Basics
internal import Dispatch
internal import Synchronization
internal import Wire

/// What the agent last said to this trainer; the newest generation counts, those before it are history.
final class CommandBox: Sendable {
    private struct State {
        var generation: GenerationPlan?
        /// The state to begin with, and the generation that it belongs to.
        var joined: (generation: Int, manifest: Digest)?
        var interrupt: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())
    private let changed = DispatchSemaphore(value: 0)

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

    /// The state to begin with has come.
    func put(state manifest: Digest, generation: Int) {
        state.withLock { $0.joined = (generation, manifest) }
        changed.signal()
    }

    /// Waits for the state that belongs to a generation; nil when a newer generation came first.
    func waitForState(of generation: Int) -> Digest? {
        while true {
            let (joined, newest) = state.withLock { ($0.joined, $0.generation?.number ?? 0) }
            if newest > generation { return nil }
            if let joined, joined.generation == generation { return joined.manifest }
            changed.wait()
        }
    }

    /// What to call when a newer generation comes.
    func onInterrupt(_ body: (@Sendable () -> Void)?) {
        state.withLock { $0.interrupt = body }
    }

    /// The number of the newest generation.
    var newest: Int { state.withLock { $0.generation?.number ?? 0 } }

    /// Waits for a generation with a number above `number`; nil when none came in time.
    func wait(newerThan number: Int, milliseconds: Int) -> GenerationPlan? {
        let deadline = DispatchTime.now() + .milliseconds(milliseconds)
        while true {
            if let plan = state.withLock({ $0.generation }), plan.number > number { return plan }
            guard changed.wait(timeout: deadline) == .success else { return nil }
        }
    }
}
