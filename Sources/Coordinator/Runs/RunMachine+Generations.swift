internal import Basics
internal import Wire

// Who is in the next generation, and with which lanes.
extension RunMachine {
    /// Announces a generation for whom none was yet: all members at first, later those who came.
    mutating func enter() -> [Action] {
        guard !isRouting else { return [] }
        if generation == 0 {
            let isComplete = members.values.allSatisfy { $0.state != .starting }
            return isComplete ? next("all members are ready") : []
        }
        let new = members.filter { $0.value.address != nil && !planned.contains($0.key) }
        guard let first = new.min(by: { $0.key < $1.key }) else { return [] }
        return next("\(first.value.host) is \(first.value.isBack ? "back and " : "")to join")
    }

    /// Moves lanes from slow members to fast ones, while nothing else is going on.
    mutating func rebalance() -> [Action] {
        let working = members.filter { planned.contains($0.key) }
        let isQuiet =
            !isFixed && relinkAt == nil && working.values.allSatisfy { $0.address != nil && !$0.joins }
        guard isQuiet, let counts = balance.look(working.mapValues(\.lanes), laneCount: laneCount, now: now)
        else { return [] }
        let shares = counts.sorted { $0.key < $1.key }.map { "\(working[$0.key]?.host ?? "?") \($0.value)" }
        return next("\(LaneMoves.measured): \(shares.joined(separator: ", "))", rebalances: true)
    }

    var isRouting: Bool { searches > 0 }

    /// Makes the next generation of those who work: they keep their lanes, orphaned ones go to those who are done first.
    ///
    /// - Parameters:
    ///   - rebalances: give all lanes out anew by measured speed.
    ///   - spared: members that get none.
    mutating func next(
        _ reason: String,
        rebalances: Bool = false,
        sparing spared: Set<Int> = []
    ) -> [Action] {
        // Whose ways are not known yet enters with a later generation.
        let mayEnter = generation == 0 || !isRouting
        let known = planned
        let expulsions = expelThoseBehind()
        var working = members.filter { $0.value.address != nil && (mayEnter || known.contains($0.key)) }
            .sorted { $0.key < $1.key }
        guard working.contains(where: { !$0.value.joins }) else { return expulsions + conclude() }
        if let shortage = shortage(of: Set(working.map(\.key))) { return expulsions + park(shortage) }
        var paces = balance.paces(of: working.map(\.key))
        // Whoever joins takes part before it can compute.
        let learning = working.filter(\.value.joins).map(\.key)
        let rebalances = rebalances || working.contains { learners.contains($0.key) && !$0.value.joins }
        learners = Set(learning)
        let idle = spared.union(learning)
        for index in working.indices where idle.contains(working[index].key) {
            paces[index] = LanePace(threads: 1, lanes: 1, seconds: .infinity)
            working[index].value.lanes = LaneSet()
        }
        let unitCount = laneCount / laneUnit
        var units =
            generation == 0 || rebalances
            ? LanePlanner.place(
                counts: LanePlanner.counts(laneCount: unitCount, paces: paces),
                laneCount: unitCount
            )
            : LanePlanner.reassign(
                held: working.map { $0.value.lanes.units(of: laneUnit) },
                laneCount: unitCount,
                paces: paces
            )
        let anchored = working.map { idle.contains($0.key) ? "" : $0.value.host }
        if let anchor = anchor(among: anchored) {
            units = LaneZero.give(to: anchor, of: units)
        }
        let lanes = units.map { LaneSet(units: $0, of: laneUnit) }
        for number in members.keys { members[number]?.lanes = LaneSet() }
        generation = max(generation, taken) + 1
        (parkedFor, relinkAt, heirsUntil) = (nil, nil, nil)
        suspect = nil
        announcedAt = now
        planned = Set(working.map(\.key))
        let planned = zip(working, lanes).map { entry, lanes in
            GenerationPlan.Member(
                member: entry.key,
                host: entry.value.host,
                address: entry.value.address ?? "",
                lanes: lanes
            )
        }
        for member in planned {
            members[member.member]?.lanes = member.lanes
            // One that comes back after it was missed has what it had, and may be behind all since.
            if !known.contains(member.member), learning.contains(member.member) {
                members[member.member]?.entered = generation
            }
        }
        let secret = makeSecret()
        let plan = GenerationPlan(
            run: run,
            attempt: attempt,
            number: generation,
            members: planned,
            writers: Self.writers(planned.filter { !idle.contains($0.member) }),
            secret: secret,
            routes: routes,
            owners: SumPlan.owners(planned.map { ($0.member, $0.host) }, routes: routes, here: here),
            joiners: learning,
            giver: StateGiver.choose(
                for: working.filter(\.value.joins).map(\.value.host),
                among: working.filter { !$0.value.joins }.map { ($0.key, $0.value.host) },
                here: here
            ),
            basis: succession.basis(mark: Self.mark(of: secret))
        )
        succession.proposed(plan)
        return expulsions + [.announce(plan, reason: reason)] + dismissStrays(of: strays.sorted())
    }

    /// Two members, on two hosts where there are two: equal checkpoints, so the second copy costs no transfer.
    static func writers(_ members: [GenerationPlan.Member]) -> [Int] {
        guard let first = members.first else { return [] }
        let second = members.first { $0.host != first.host } ?? members.dropFirst().first
        return [first.member] + (second.map { [$0.member] } ?? [])
    }
}
