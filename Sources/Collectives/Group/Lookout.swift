internal import Basics
internal import Synchronization

/// Looks, while a generation opens, whether members that have not come yet live at all.
///
/// Whoever computes comes late, and is waited for; whose process is frozen or whose host is gone never comes, and
/// everybody waits for it. Asking blocks, so each question has a thread of its own.
final class Lookout: Sendable {
    private struct State {
        var isAsking: Set<Int> = []
        var silent: Set<Int> = []
        var next: ContinuousClock.Instant
    }

    /// Openings take some milliseconds: nobody is asked before.
    static let firstLook = Duration.milliseconds(100)

    private let isSilent: @Sendable (_ rank: Int) -> Bool
    private let pause: Duration
    private let state: Mutex<State>

    /// - Parameters:
    ///   - pause: between two looks.
    ///   - isSilent: whether nothing comes from a member; blocks as long as silence is borne.
    init(
        now: ContinuousClock.Instant,
        pause: Duration,
        isSilent: @escaping @Sendable (_ rank: Int) -> Bool
    ) {
        self.isSilent = isSilent
        self.pause = pause
        state = Mutex(State(next: now + Self.firstLook))
    }

    /// When to look again.
    var next: ContinuousClock.Instant { state.withLock { $0.next } }

    /// Asks for those who are missing when it is time to; an answer that matters wakes whoever waits.
    ///
    /// - Returns: those of them who said nothing.
    func look(_ missing: [Int], at now: ContinuousClock.Instant, wake: WakeEvent) -> [Int] {
        let (asked, silent) = state.withLock { state -> ([Int], [Int]) in
            let silent = missing.filter(state.silent.contains)
            guard now >= state.next else { return ([], silent) }
            state.next = now + pause
            let asked = missing.filter { !state.isAsking.contains($0) }
            state.isAsking.formUnion(asked)
            return (asked, silent)
        }
        for rank in asked {
            OSThread.start(name: "lookout-\(rank)") { [self] in
                let found = isSilent(rank)
                state.withLock { state in
                    state.isAsking.remove(rank)
                    if found { state.silent.insert(rank) }
                }
                if found { wake.signal() }
            }
        }
        return silent
    }
}
