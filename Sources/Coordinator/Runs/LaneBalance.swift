internal import Basics

/// When lanes move from slow members to fast ones: a decision over measured paces, and nothing else.
///
/// A move costs all members the step in flight, so it has to be worth it: a tenth of the step, and three looks in a row say so;
/// or less, and what was lost by not moving has become as much as the move costs. It has to be rare, too: after each move
/// comes a rest, ever longer while moves follow one another.
struct LaneBalance: Sendable {
    /// A new distribution that brings the step below this part of its time is worth a move at once.
    private static let worthwhile = 0.9
    /// One that does not even bring it below this part is none: so far measured paces are off.
    private static let noticeable = 0.98
    /// What a move takes beside the step in flight; unit: seconds.
    private static let moveSeconds = 0.1
    /// How much of a new measurement enters the pace, where it is about the same as before; unit: 1.
    private static let share = 0.2
    /// What counts as about the same, as a ratio.
    private static let usual = 0.8...1.25
    /// So many looks in a row must say so, this far apart at least.
    private static let looks = 3
    private static let lookInterval = Duration.milliseconds(200)
    /// Where looks are further apart, no steps were made for a part of the time.
    private static let longestLook = Duration.seconds(1)
    /// How long lanes stay where they are after a move, and a member without any, at first and at most.
    private static let shortestRest = Duration.seconds(2)
    private static let longestRest = Duration.seconds(60)

    private var paces: [Int: LanePace] = [:]
    /// Members without lanes: whoever computes nothing is not measured either.
    private var idle: [Int: Idleness] = [:]
    private var agreeing = 0
    /// What was lost by not moving, since lanes lie as they do; unit: seconds.
    private var lost = 0.0
    private var heldBefore: [Int: LaneSet] = [:]
    private var lastLook: ContinuousClock.Instant?
    private var lastMove: ContinuousClock.Instant?
    private var rest = Self.shortestRest

    /// Notes how fast a member is.
    mutating func note(_ pace: LanePace, of member: Int) {
        guard pace.secondsPerRound.isFinite, pace.secondsPerRound > 0 else { return }
        var pace = pace
        // A little more or less comes and goes: the mean of the last ones is nearer to what comes next.
        if let known = paces[member], known.threads == pace.threads,
            Self.usual.contains(pace.secondsPerRound / known.secondsPerRound)
        {
            let mean = (1 - Self.share) * known.secondsPerRound + Self.share * pace.secondsPerRound
            pace = LanePace(threads: pace.threads, lanes: 1, seconds: mean)
        }
        paces[member] = pace
    }

    /// The paces of some members; one that was not measured yet is taken to be as fast as the others on average.
    func paces(of members: [Int]) -> [LanePace] {
        let known = members.compactMap { paces[$0]?.secondsPerRound }
        let mean = known.isEmpty ? 1 : known.reduce(0, +) / Double(known.count)
        return members.map { paces[$0] ?? LanePace(threads: 1, lanes: 1, seconds: mean) }
    }

    /// Whether what is late is computed by the others, because that takes no longer than the wait has lasted so far.
    ///
    /// Whoever waits as long as the other way would take, and then takes it, loses at most twice what knowing the future
    /// would have saved. What the slower ones are known to need is not counted: lanes follow that by themselves.
    /// - Parameters:
    ///   - held: the lanes of each member.
    ///   - late: those that are waited for.
    mutating func isLate(
        _ held: [Int: LaneSet],
        late: Set<Int>,
        waited: Duration,
        laneCount: Int,
        now: ContinuousClock.Instant
    ) -> Bool {
        let others = held.keys.filter { !late.contains($0) }.sorted()
        guard !others.isEmpty, held.keys.allSatisfy({ paces[$0] != nil || held[$0]?.isEmpty == true }) else {
            return false
        }
        func seconds(_ member: Int) -> Double { paces[member]?.seconds(held[member]?.count ?? 0) ?? 0 }
        let done = others.map(seconds).min() ?? 0
        let expected = max(0, (late.map(seconds).max() ?? 0) - done)
        let sets = others.map { held[$0] ?? LaneSet() }
        let measured = paces(of: others)
        let more = LanePlanner.reassign(held: sets, laneCount: laneCount, paces: measured)
        let again = zip(zip(sets, more), measured).map { $1.seconds($0.1.count - $0.0.count) }.max() ?? 0
        let wait = waited / .seconds(1)
        guard wait > expected + again else { return false }
        for member in late {
            let (threads, lanes) = (paces[member]?.threads ?? 1, held[member]?.count ?? 1)
            paces[member] = LanePace(threads: threads, lanes: lanes, seconds: done + wait)
        }
        (lastMove, agreeing, lost) = (now, 0, 0)
        return true
    }

    /// How long a member has had no lanes, and how long that may last.
    private struct Idleness {
        var begin: ContinuousClock.Instant
        var patience = shortestRest
        /// When it was given lanes again.
        var end: ContinuousClock.Instant?

        /// The same while it lasts; a new one, twice as long, of a member that lost its lanes again soon.
        func goingOn(_ now: ContinuousClock.Instant) -> Idleness {
            guard let end else { return self }
            let isSoon = now - end < longestRest
            return Idleness(begin: now, patience: isSoon ? min(patience * 2, longestRest) : shortestRest)
        }
    }

    /// Looks at the members of a generation: how many lanes each should have; nil while all stays as it is.
    ///
    /// - Parameter held: the lanes of each member now.
    mutating func look(_ held: [Int: LaneSet], laneCount: Int, now: ContinuousClock.Instant) -> [Int: Int]? {
        let since = lastLook.map { now - $0 } ?? .zero
        guard lastLook == nil || since >= Self.lookInterval else { return nil }
        lastLook = now
        if held != heldBefore { (heldBefore, lost) = (held, 0) }
        let isTrying = triesAgain(held, now)
        let members = held.keys.sorted()
        guard members.count > 1, members.allSatisfy({ paces[$0] != nil || held[$0]?.isEmpty == true }) else {
            return nil
        }
        let measured = paces(of: members)
        let better = LanePlanner.counts(laneCount: laneCount, paces: measured)
        func seconds(_ counts: [Int]) -> Double { zip(measured, counts).map { $0.seconds($1) }.max() ?? 0 }
        let step = seconds(members.map { held[$0]?.count ?? 0 })
        let part = seconds(better) / step
        agreeing = part < Self.worthwhile ? agreeing + 1 : 0
        lost = part < Self.noticeable ? lost + (1 - part) * (min(since, Self.longestLook) / .seconds(1)) : 0
        guard agreeing >= Self.looks || lost > step + Self.moveSeconds else { return nil }
        if !isTrying {
            if let lastMove, now - lastMove < rest { return nil }
            moved(now)
        }
        (agreeing, lost) = (0, 0)
        return Dictionary(uniqueKeysWithValues: zip(members, better))
    }

    /// Whoever was too slow for any lane is tried again, ever more rarely while it comes to nothing.
    ///
    /// - Returns: whether somebody without lanes is taken to be as fast as the others again.
    private mutating func triesAgain(_ held: [Int: LaneSet], _ now: ContinuousClock.Instant) -> Bool {
        var isTrying = false
        for (member, lanes) in held {
            guard lanes.isEmpty else {
                if idle[member]?.end == nil { idle[member]?.end = now }
                continue
            }
            let times = idle[member]?.goingOn(now) ?? Idleness(begin: now)
            idle[member] = times
            if now - times.begin > times.patience {
                paces[member] = nil
                isTrying = true
            }
        }
        return isTrying
    }

    /// What has to be moved again soon was not worth much: the next move waits twice as long.
    private mutating func moved(_ now: ContinuousClock.Instant) {
        let isSoon = lastMove.map { now - $0 < rest * 4 } ?? false
        rest = isSoon ? min(rest * 2, Self.longestRest) : Self.shortestRest
        lastMove = now
    }
}
