/// Decides when silence is a failure: only while an operation waits for a member that says nothing.
struct SilenceWatch {
    /// How often a sign of life is sent.
    static let beatInterval: Duration = .milliseconds(100)

    /// Where two looks are further apart, this process was stopped, or starved.
    private static let ownPause: Duration = .milliseconds(600)

    private let limit: Duration
    private var lastHeard: [ContinuousClock.Instant]
    private var lastLook: ContinuousClock.Instant

    init(members: Int, limit: Duration, now: ContinuousClock.Instant) {
        self.limit = limit
        lastHeard = Array(repeating: now, count: members)
        lastLook = now
    }

    /// Notes that bytes came.
    mutating func heard(_ rank: Int, at now: ContinuousClock.Instant) { lastHeard[rank] = now }

    /// Looks around, after everything that had arrived was read.
    ///
    /// A long gap between two looks is this process's own pause: it is not held against the others.
    /// - Parameter awaited: the members that the operation in progress waits for; empty: nothing is blocked.
    /// - Returns: the members to give up.
    mutating func look(awaited: [Int], at now: ContinuousClock.Instant) -> [Int] {
        let gap = lastLook.duration(to: now)
        lastLook = now
        if gap > Self.ownPause {
            for rank in lastHeard.indices { lastHeard[rank] = min(now, lastHeard[rank] + gap) }
        }
        return awaited.filter { lastHeard[$0].duration(to: now) >= limit }
    }
}
