internal import Basics
internal import Wire

// What follows when a link breaks, a member is lost or a host leaves.
extension RunMachine {
    /// Makes the links anew, or gives somebody up whose links keep breaking.
    mutating func relink() -> [Action] {
        let missing = missingRelays
        if !missing.isEmpty { return waitForRelays(missing) }
        // Whatever follows, this moment has come: a deadline that stays in the past would be met again and again.
        (relayDeadline, relinkAt) = (nil, nil)
        if heirsUntil != nil { return next("somebody has the state") }
        if let announcedAt, now - announcedAt > Self.steady {
            relinks = 0
            wasSilent = false
        }
        relinks += 1
        wasSilent = wasSilent || isSilent
        isSilent = false
        let limit = wasSilent ? Self.silentRelinks : Self.maximumRelinks
        let finished = members.filter { $0.value.state == .finished }.map(\.key)
        // A member that finished has left; those who still need its help compute its lanes.
        if !finished.isEmpty { return next("members \(finished.sorted()) have finished") }
        if relinks > limit, let suspect {
            return giveUp(
                suspect.member,
                suspect.reason,
                "its links kept breaking: \(suspect.reason)"
            )
        }
        return next("links are made anew: \(suspect?.reason ?? "a link broke, or this machine was away")")
    }

    /// The others take over the lanes of a host that leaves; then its trainers end.
    mutating func dismiss(_ host: String) -> [Action] {
        let leaving = members.filter {
            $0.value.host == host && $0.value.isActive && $0.value.state != .finished
        }
        guard !leaving.isEmpty else { return [] }
        var hadLanes = false
        for number in leaving.keys {
            hadLanes = hadLanes || members[number]?.lanes.isEmpty == false
            members[number]?.state = .gone(reason: "\(host) left")
            succession.left(number)
            members[number]?.lanes = LaneSet()
        }
        let expulsions = leaving.keys.sorted().map {
            Action.expel(member: $0, reason: "\(host) leaves the run")
        }
        let others = members.values.contains { $0.isActive }
        if generation == 0 {
            guard others else { return expulsions + conclude() }
            let isComplete = members.values.allSatisfy { $0.state != .starting }
            return (isComplete && !isRouting ? next("\(host) left") : []) + expulsions
        }
        return (hadLanes ? next("\(host) left") : []) + expulsions
    }

    /// Ends a member that lives and can't be worked with; another one may come in its place.
    mutating func giveUp(_ number: Int, _ reason: String, _ loss: String) -> [Action] {
        let host = members[number].flatMap { $0.isActive ? $0.host : nil }
        let actions = [.expel(member: number, reason: reason)] + lose(number, reason: loss)
        return actions + (host.map { missed(on: $0, mayComeBack: true) } ?? [])
    }

    /// Goes on without a member that is gone for good.
    mutating func lose(_ number: Int, reason: String) -> [Action] {
        guard let member = members[number], member.isActive else { return [] }
        members[number]?.state = .gone(reason: reason)
        members[number]?.lanes = LaneSet()
        present.remove(number)
        if !member.joins { lastLoss = reason }
        // One that came later and never worked: nobody misses it.
        if member.joins, member.state == .starting, generation > 0 { return conclude() }
        if generation == 0 {
            // A trainer that was killed is a lost one; one that ends by itself would do so again.
            let others = members.values.filter(\.isActive)
            if failure == nil, !others.isEmpty {
                let mustWait = isRouting || others.contains { $0.state == .starting }
                return mustWait ? [] : next("lost \(reason)")
            }
            isOver = true
            return [.fail(message: failure?.message ?? reason, hint: failure?.hint)]
        }
        let working = members.values.filter { $0.address != nil && !$0.joins }
        return working.isEmpty ? conclude() : next("lost \(reason)")
    }

    /// Says how the run ended once nobody works any more.
    mutating func conclude() -> [Action] {
        // Who came later and has nothing yet can't carry the run on alone.
        let isOpen = members.values.contains { !$0.joins && ($0.address != nil || $0.state == .starting) }
        guard !isOpen else { return [] }
        if let others = mayGoOnElsewhere { return park(others) }
        if let awaited = awaitHeirs() { return awaited }
        isOver = true
        if members.values.contains(where: { $0.state == .finished }) { return [.finish] }
        if let failure { return [.fail(message: failure.message, hint: failure.hint)] }
        return [.interrupt(reason: lastLoss ?? "no trainer is left")]
    }
}
