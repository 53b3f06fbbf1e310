/// Keeps work that costs more the longer a run lasts to a tenth of the coordinator's time.
struct Thrift: Sendable {
    private var due: ContinuousClock.Instant?

    /// How long it is to wait yet; nil: it may be done.
    func wait(at now: ContinuousClock.Instant) -> Duration? { due.flatMap { $0 > now ? $0 - now : nil } }

    /// It was done, and took from `begin` to `end`.
    mutating func spent(from begin: ContinuousClock.Instant, to end: ContinuousClock.Instant) {
        due = end + (end - begin) * 9
    }
}
