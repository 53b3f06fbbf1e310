internal import Wire

/// When an agent ends, and when a rented host is stopped: every decision about it, and nothing else.
///
/// A pure value: what goes on and the time go in, actions come out. The time is of a clock that stands still while the
/// machine sleeps: a laptop that was closed for a week has not been left alone for a week of work.
///
/// An own host is never stopped; its agent ends after `lease` without work and without word from the coordinator. The agent
/// of a rented host never ends by itself; its host is stopped after `idleStop` without work. That the coordinator is
/// connected keeps no rented host alive: it is, all night long.
struct LeaseMachine: Sendable {
    /// What goes on here.
    struct Facts: Hashable, Sendable {
        /// A trainer's process lives.
        var isTraining = false
        /// A trainer has used the CPU since the last look; one that waits for a coordinator does not.
        var isWorking = false
        /// `coord-serve` lives.
        var isServing = false
        /// Checkpoints that, as far as is known, nobody else has.
        var unsaved = 0
    }

    /// What to do.
    enum Action: Hashable, Sendable {
        /// End the agent.
        case end(reason: String)
        /// Run the stop command, and tell how it went by ``stopEnded(isSuccess:at:)``.
        case stop(reason: String)
    }

    typealias Instant = SuspendingClock.Instant

    /// Between tries of a stop command that fails: at first, at most.
    private static let firstRetry = Duration.seconds(30)
    private static let longestRetry = Duration.seconds(600)

    private(set) var terms: AgentTerms
    private(set) var isStopping = false
    private var isDemanded = false
    private var facts = Facts()
    private var lastContact: Instant
    private var lastUse: Instant
    private var retryAt: Instant?
    private var retryAfter = Self.firstRetry

    /// - Parameter now: when the agent began.
    init(terms: AgentTerms, now: Instant) {
        self.terms = terms
        lastContact = now
        lastUse = now
    }

    // MARK: Events

    /// The coordinator said what holds.
    mutating func agreed(_ terms: AgentTerms, at now: Instant) {
        // A coordinator that connects again says the same; that is no work.
        if terms != self.terms {
            lastUse = now
            forgetFailures()
        }
        self.terms = terms
        lastContact = now
    }

    /// The coordinator said anything.
    mutating func contacted(at now: Instant) { lastContact = now }

    /// The coordinator asked for work: data, a run, a release.
    mutating func used(at now: Instant) {
        lastContact = now
        lastUse = now
        isDemanded = false
        forgetFailures()
    }

    /// Somebody wants the host stopped now, whatever else; false when it is never stopped or already is being stopped.
    mutating func demandStop() -> Bool {
        guard terms.stop != nil, !isStopping else { return false }
        isDemanded = true
        isStopping = true
        return true
    }

    /// The stop command has ended, and we are still here.
    mutating func stopEnded(isSuccess: Bool, at now: Instant) {
        isStopping = false
        // After a success the machine takes a moment to go away; one that stays is told again.
        retryAt = now + (isSuccess ? Self.longestRetry : retryAfter)
        if !isSuccess { retryAfter = min(retryAfter * 2, Self.longestRetry) }
    }

    /// Looks at what goes on and decides.
    mutating func tick(_ facts: Facts, at now: Instant) -> Action? {
        self.facts = facts
        if terms.stop == nil {
            if facts.isTraining || facts.isServing || facts.unsaved > 0 { lastUse = now }
            guard now >= quietSince + .seconds(terms.lease) else { return nil }
            return .end(reason: "no work and no word from the coordinator for \(Self.words(terms.lease))")
        }
        if facts.isWorking || facts.isServing { lastUse = now }
        guard !isStopping, let moment = stopsAt, now >= moment else { return nil }
        isStopping = true
        let unsaved =
            facts.unsaved > 0 ? ", \(facts.unsaved) checkpoints are lost as stop_unsaved allows" : ""
        return .stop(reason: "no work for \(Self.words(terms.idleStop))\(unsaved)")
    }

    /// Takes in what goes on without deciding anything.
    mutating func look(_ facts: Facts) { self.facts = facts }

    // MARK: What is known

    /// What the last look found.
    var isWorking: Bool { facts.isWorking }

    /// What people are told.
    func status(at now: Instant) -> LeaseStatus {
        guard terms.stop != nil else {
            let kept =
                facts.isTraining
                ? "a run is on"
                : facts.isServing
                    ? "a version is served"
                    : facts.unsaved > 0 ? "\(facts.unsaved) checkpoints are not home" : nil
            return LeaseStatus(
                isArmed: false,
                secondsLeft: kept == nil ? Self.left(quietSince + .seconds(terms.lease), now) : nil,
                reason: kept ?? "ends without work and word from the coordinator"
            )
        }
        if isStopping { return LeaseStatus(isArmed: true, secondsLeft: 0, reason: "is being stopped") }
        if facts.isWorking || facts.isServing {
            let reason = facts.isWorking ? "a trainer works" : "a version is served"
            return LeaseStatus(isArmed: true, secondsLeft: nil, reason: reason)
        }
        let unsaved = facts.unsaved > 0 ? ", with \(facts.unsaved) checkpoints that are nowhere else" : ""
        guard let moment = stopsAt else {
            return LeaseStatus(isArmed: true, secondsLeft: nil, reason: "waits\(unsaved)")
        }
        return LeaseStatus(
            isArmed: true,
            secondsLeft: Self.left(moment, now),
            reason: "is stopped without work\(unsaved)"
        )
    }

    /// The later of the last work and the last word.
    private var quietSince: Instant { max(lastUse, lastContact) }

    /// When the host is stopped if nothing happens; nil while it holds the only copy of a checkpoint.
    private var stopsAt: Instant? {
        if isDemanded { return retryAt }
        if facts.unsaved > 0, !terms.stopsUnsaved { return nil }
        // With leave to lose checkpoints: they still have the time of a lease to go home.
        let patience = terms.idleStop + (facts.unsaved > 0 ? terms.lease : 0)
        let moment = lastUse + .seconds(patience)
        return retryAt.map { max($0, moment) } ?? moment
    }

    private mutating func forgetFailures() {
        retryAt = nil
        retryAfter = Self.firstRetry
    }

    private static func left(_ moment: Instant, _ now: Instant) -> Double {
        max(0, (moment - now) / .seconds(1))
    }

    /// `10 min`, `90 s`.
    private static func words(_ seconds: Double) -> String {
        let whole = Int(seconds)
        if whole >= 7200, whole % 3600 == 0 { return "\(whole / 3600) h" }
        return whole >= 120 && whole % 60 == 0 ? "\(whole / 60) min" : "\(whole) s"
    }
}
