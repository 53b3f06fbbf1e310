/// A moment after which a wait gives up.
struct Deadline: Sendable {
    private let instant: ContinuousClock.Instant

    init(after duration: Duration) { instant = .now + duration }

    var hasPassed: Bool { instant <= .now }

    /// True when there is more time left than that.
    func leaves(_ duration: Duration) -> Bool { .now + duration < instant }

    /// The earlier of this moment and one that far from now.
    func limited(to duration: Duration) -> Deadline {
        let other = Deadline(after: duration)
        return other.instant < instant ? other : self
    }

    /// For poll(2): rounded up, 0 when the time is over, at most a second.
    ///
    /// The cap makes every wait look at the world again, should a wake-up ever be missed.
    var milliseconds: Int32 {
        let left = ContinuousClock.now.duration(to: instant)
        guard left > .zero else { return 0 }
        guard left < .seconds(1) else { return 1000 }
        return Int32(left.components.attoseconds / 1_000_000_000_000_000) + 1
    }
}
