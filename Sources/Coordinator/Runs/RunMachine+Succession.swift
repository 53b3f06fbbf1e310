internal import Basics
internal import Wire

// What the coordinator does about members that it can't hear: they may be at work without it.
extension RunMachine {
    /// Tells a proposal from others with its number: nobody else draws that secret.
    static func mark(of secret: WireSecret) -> UInt64 {
        Digest(of: secret.bytes).raw.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Why members may not go on without the others; nil when they may.
    func shortage(of numbers: Set<Int>) -> String? { succession.shortage(of: numbers) }

    /// Who may carry the run on unheard, when nobody here does.
    var mayGoOnElsewhere: String? {
        guard generation > 0, !members.values.contains(where: { $0.state == .finished }) else { return nil }
        let unheard = succession.unheard(besides: Set(members.filter(\.value.isActive).keys))
        guard !unheard.isEmpty else { return nil }
        let hosts = Set(unheard.map(succession.host(of:))).sorted()
        return
            "\(hosts.joined(separator: ", ")) can't be reached and may go on without this machine; waits until it is"
            + " back, or until coord down HOST says that it is gone for good"
    }

    /// Waits for those who joined, when everybody else is gone: they may have the state, with the news still on its way.
    ///
    /// Who does not say so in time is ended: a run must not begin anew while somebody may go on with it.
    ///
    /// - Returns: nil when there is nobody to wait for.
    mutating func awaitHeirs() -> [Action]? {
        let heirs = members.filter { planned.contains($0.key) && $0.value.joins && $0.value.address != nil }
        guard !heirs.isEmpty else { return nil }
        let until = heirsUntil ?? now + Self.relinkPatience
        heirsUntil = until
        if now < until {
            relinkAt = until
            return []
        }
        heirsUntil = nil
        let reason = "it has nothing of the run, and nobody is left to give it"
        for (number, heir) in heirs { members[number]?.state = .gone(reason: "\(heir.host): \(reason)") }
        let expulsions = heirs.keys.sorted().map { Action.expel(member: $0, reason: reason) }
        return expulsions + conclude()
    }

    /// Nobody goes on until somebody is heard of.
    mutating func park(_ reason: String) -> [Action] {
        relinkAt = nil
        let strays = dismissStrays(of: members.keys.filter { !mayComeBack($0) }.sorted())
        guard parkedFor != reason else { return strays }
        parkedFor = reason
        return strays + [.park(reason: reason)]
    }

    /// Ends those who live somewhere without a part in the run.
    ///
    /// Most of all while nobody may go on: such a member is counted until its end is certain, but can't help, since it
    /// lacks what may have been committed without it. Only beside somebody who has all that was: the state must not go.
    mutating func dismissStrays(of numbers: [Int]) -> [Action] {
        guard members.values.contains(where: { $0.address != nil && !$0.joins }) else {
            strays.formUnion(numbers)
            return []
        }
        let strays = numbers.filter { number in
            guard case .gone = members[number]?.state else { return false }
            return !succession.left.contains(number) && dismissed.insert(number).inserted
        }
        self.strays.subtract(numbers)
        return strays.map { .expel(member: $0, reason: "the others go on without it") }
    }

    /// Whether a member that was lost for want of news can still go on with the others.
    private func mayComeBack(_ number: Int) -> Bool {
        guard let member = members[number], !succession.left.contains(number) else { return false }
        return member.lastAddress != nil
            && succession.basis(mark: 0).without(number, since: member.entered) == nil
    }

    /// Tries again after news of somebody who was missed.
    mutating func retry() -> [Action] {
        guard parkedFor != nil else { return [] }
        return next("lost \(missedHosts)")
    }

    private var missedHosts: String {
        let gone = members.values.compactMap { member -> String? in
            if case .gone(let reason) = member.state { reason } else { nil }
        }
        return gone.max() ?? "a host"
    }

    /// Members are heard of: those that were lost for want of news are needed when nobody goes on without them.
    ///
    /// - Returns: nil when nobody comes back.
    mutating func heard(of numbers: [Int]) -> [Action]? {
        present.formUnion(numbers)
        guard parkedFor != nil else { return nil }
        var hosts: Set<String> = []
        for number in present.sorted() where mayComeBack(number) {
            guard let member = members[number], !member.isActive, let address = member.lastAddress
            else { continue }
            members[number]?.state = .listening(address: address)
            hosts.insert(member.host)
        }
        return hosts.isEmpty ? nil : next("\(hosts.sorted().joined(separator: ", ")) is back")
    }

    /// The members went on by themselves: their generation is the run's.
    mutating func adopt(_ plan: GenerationPlan, _ reason: String, isNews: Bool) -> [Action] {
        guard plan.run == run, plan.attempt == attempt else { return [] }
        guard plan.number > generation else {
            // Ours has the same number or a higher one; one that follows both puts an end to the doubt.
            if isNews, relinkAt == nil { relinkAt = now + Self.relinkPatience }
            return []
        }
        generation = plan.number
        (parkedFor, relinkAt, heirsUntil, announcedAt) = (nil, nil, nil, now)
        planned = Set(plan.members.map(\.member))
        learners = Set(plan.joiners)
        var actions = [Action.adopt(plan, reason: reason)]
        for number in members.keys.sorted() { members[number]?.lanes = LaneSet() }
        for member in plan.members {
            var known = members[member.member] ?? Member(host: member.host)
            if succession.left.contains(member.member) {
                if known.state != .finished { known.state = .gone(reason: "\(known.host): it ended") }
            } else {
                known.state = .listening(address: member.address)
            }
            (known.lanes, known.lastAddress) = (member.lanes, member.address)
            known.joins = known.joins && plan.joiners.contains(member.member)
            members[member.member] = known
        }
        for number in members.keys.sorted() where !planned.contains(number) {
            guard let member = members[number], member.isActive, !member.joins, member.state != .finished
            else { continue }
            members[number]?.state = .gone(reason: "\(member.host): the others went on without it")
            actions.append(.expel(member: number, reason: "generation \(plan.number) is without it"))
            actions += missed(on: member.host, mayComeBack: true)
        }
        let ended = planned.contains { succession.left.contains($0) }
        return ended ? actions + next("lost \(missedHosts)") : actions
    }

    /// Members that a generation went on without can't go on with the others: they lack what was committed there.
    mutating func expelThoseBehind() -> [Action] {
        let basis = succession.basis(mark: 0)
        let behind = members.filter { number, member in
            guard generation > 0, member.address != nil, !member.joins else { return false }
            return basis.without(number, since: member.entered) != nil
        }
        for (number, member) in behind {
            members[number]?.state = .gone(reason: "\(member.host): the others went on without it")
            members[number]?.lanes = LaneSet()
        }
        return behind.sorted { $0.key < $1.key }.flatMap { number, member in
            [.expel(member: number, reason: "the others went on without it")]
                + missed(on: member.host, mayComeBack: true)
        }
    }

    /// A generation of ours can't take effect: a newer one must reckon with what the member knows.
    mutating func refused(upTo promised: Int) -> [Action] {
        taken = max(taken, promised)
        if relinkAt == nil { relinkAt = now + Self.relinkPatience }
        return []
    }

    /// The member that should hold lane 0, by its place among those who work.
    func anchor(among hosts: [String]) -> Int? {
        for anchor in anchors {
            if let index = hosts.firstIndex(of: anchor) { return index }
        }
        return nil
    }
}

/// Lane 0 decides who goes on when a run is cut into halves, so it is given with care.
enum LaneZero {
    /// Gives lane 0 to a member and leaves everyone as many lanes as before.
    ///
    /// - Parameter lanes: together all lanes.
    static func give(to anchor: Int, of lanes: [LaneSet]) -> [LaneSet] {
        guard let holder = lanes.firstIndex(where: { $0.contains(0) }), holder != anchor,
            let given = lanes[anchor].lanes.first
        else { return lanes }
        var changed = lanes
        // Two contiguous ranges stay such when they change places whole; else one lane for one lane.
        if lanes[holder].count == lanes[anchor].count {
            changed.swapAt(holder, anchor)
        } else {
            changed[holder].bits ^= 1 | 1 << UInt64(given)
            changed[anchor].bits ^= 1 | 1 << UInt64(given)
        }
        return changed
    }
}
