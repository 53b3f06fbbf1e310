/// Decides when to say that members keep the others waiting: again each time that the wait has doubled.
struct LatenessWatch {
    /// A shorter wait is not worth a word.
    static let first: Duration = .milliseconds(200)

    private var operation: UInt64?
    private var begun: ContinuousClock.Instant
    private var next = Self.first

    init(now: ContinuousClock.Instant) { begun = now }

    /// Looks at who is missing.
    ///
    /// - Parameters:
    ///   - operation: the one in flight, for which this member is done; nil: there is none.
    ///   - late: the members that have not begun to give their part.
    /// - Returns: how long this member has waited, when that is to be said.
    mutating func look(operation: UInt64?, late: [Int], at now: ContinuousClock.Instant) -> Duration? {
        guard let operation, !late.isEmpty else {
            self.operation = nil
            return nil
        }
        if self.operation != operation { (self.operation, begun, next) = (operation, now, Self.first) }
        let waited = begun.duration(to: now)
        guard waited >= next else { return nil }
        next = waited * 2
        return waited
    }
}
