/// How long to wait before the next try, and when to give up.
///
/// Only what may be done twice is tried again; whoever uses the policy says so.
public struct RetryPolicy: Sendable, Equatable {
    /// The pause before the second try.
    ///
    /// Larger: slower recovery; smaller: more load on a host that is busy already.
    public var first: Duration
    /// The longest pause.
    ///
    /// Larger: a host that is back late is noticed late.
    public var longest: Duration
    /// How much longer each pause is than the one before.
    public var factor: Double
    /// The part of a pause that chance decides, 0 to 1, so that many who failed together do not come back together.
    public var jitter: Double
    /// How long after the first failure no further try is begun; nil = never too late.
    public var limit: Duration?

    /// All fields.
    public init(
        first: Duration = .milliseconds(200),
        longest: Duration = .seconds(10),
        factor: Double = 2,
        jitter: Double = 0.5,
        limit: Duration? = nil
    ) {
        self.first = first
        self.longest = longest
        self.factor = factor
        self.jitter = jitter
        self.limit = limit
    }

    /// The pause before the next try.
    ///
    /// - Parameters:
    ///   - failures: tries that have failed, at least 1.
    ///   - elapsed: time since the first failure.
    ///   - random: uniform in 0..<1, from the caller.
    /// - Returns: nil when it is too late for another try.
    /// - Precondition: `failures` is at least 1, `random` in 0..<1.
    public func pause(failures: Int, elapsed: Duration = .zero, random: Double) -> Duration? {
        precondition(failures >= 1 && (0..<1).contains(random), "failures \(failures), random \(random)")
        var whole = first
        // Multiplied step by step and capped: a large power would overflow.
        for _ in 1..<failures where whole < longest { whole = whole * factor }
        whole = min(whole, longest)
        let pause = whole * (1 - jitter * random)
        if let limit, elapsed + pause > limit { return nil }
        return pause
    }
}
