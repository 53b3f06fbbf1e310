internal import Basics
internal import Wire

/// Who trains a run, and what follows from what happens to them: every decision about membership, and nothing else.
///
/// A pure value: events and the time go in, actions come out; whoever holds it carries them out.
struct RunMachine: Sendable {
    /// Where a member stands.
    enum MemberState: Hashable, Sendable {
        case starting
        case listening(address: String)
        case finished
        case gone(reason: String)
    }

    struct Member: Hashable, Sendable {
        var host: String
        var state: MemberState = .starting
        var lanes = LaneSet()
        /// True while the member has nothing of the run: it came while the others were at work.
        var joins = false

        var isActive: Bool { if case .gone = state { false } else { true } }
        var address: String? { if case .listening(let address) = state { address } else { nil } }
    }

    /// What happened.
    enum Event: Sendable {
        case listening(member: Int, address: String)
        case exited(member: Int, end: ProcessEnd)
        case failed(member: Int, message: String, hint: String?)
        case peerLost(reporter: Int, generation: Int, member: Int?, isSilent: Bool, reason: String)
        case finished(member: Int)
        /// A trainer was started for a run in progress.
        case joining(member: Int, host: String)
        /// A member that joined was given the run's state.
        case supplied(member: Int)
        /// A host shall take no part any more.
        case leave(host: String)
        case tick
    }

    /// What to do.
    enum Action: Hashable, Sendable {
        /// Tell all hosts of the run; `reason` is for people.
        case announce(GenerationPlan, reason: String)
        /// Kill a trainer that no longer belongs.
        case expel(member: Int, reason: String)
        /// All members have done the last step.
        case finish
        /// Nobody is left; the last checkpoint is where to go on.
        case interrupt(reason: String)
        /// The run can't succeed.
        case fail(message: String, hint: String?)
    }

    /// Broken links with all processes alive are tried again so often.
    private static let maximumRelinks = 5
    /// How long to wait for the news that explains a broken link.
    private static let relinkPatience = Duration.milliseconds(500)

    let run: RunID
    let attempt: Int
    let laneCount: Int
    private(set) var members: [Int: Member]
    private(set) var generation = 0
    private(set) var isOver = false
    private var relinks = 0
    private var relinkAt: ContinuousClock.Instant?
    private var suspect: (member: Int, reason: String)?
    private var failure: (message: String, hint: String?)?
    private var lastLoss: String?
    private let makeSecret: @Sendable () -> WireSecret

    /// A run that begins.
    ///
    /// - Parameter hosts: the host of each member, by the member's number.
    init(
        run: RunID,
        attempt: Int,
        laneCount: Int,
        hosts: [String],
        makeSecret: @escaping @Sendable () -> WireSecret = { WireSecret(Sealing.randomBytes(32)) }
    ) {
        self.run = run
        self.attempt = attempt
        self.laneCount = laneCount
        members = Dictionary(
            uniqueKeysWithValues: hosts.enumerated().map { ($0.offset, Member(host: $0.element)) }
        )
        self.makeSecret = makeSecret
    }

    /// A run that went on while the coordinator was away, from what the hosts report.
    ///
    /// - Parameter plan: the newest generation that any host was told.
    init(
        run: RunID,
        attempt: Int,
        laneCount: Int,
        trainers: [(host: String, trainer: AgentStatus.Trainer)],
        plan: GenerationPlan?
    ) {
        self.init(run: run, attempt: attempt, laneCount: laneCount, hosts: [])
        for (host, trainer) in trainers {
            var member = Member(host: host)
            if trainer.isFinished {
                member.state = .finished
            } else if let address = trainer.address {
                member.state = .listening(address: address)
            }
            members[trainer.member] = member
        }
        generation = plan?.number ?? 0
        for known in plan?.members ?? [] {
            // A host that can't be asked now: its member is taken to be at work until a peer misses it.
            if members[known.member] == nil {
                members[known.member] = Member(host: known.host, state: .listening(address: known.address))
            }
            members[known.member]?.lanes = known.lanes
        }
        if generation > 0 {
            // Members that an earlier generation lost are history.
            let inPlan = Set(plan?.members.map(\.member) ?? [])
            for number in members.keys where !inPlan.contains(number) {
                members[number]?.state = .gone(reason: "left before")
            }
        }
    }

    /// When ``Event/tick`` is wanted.
    var deadline: ContinuousClock.Instant? { relinkAt }

    /// Takes an event and decides.
    mutating func handle(_ event: Event, now: ContinuousClock.Instant) -> [Action] {
        guard !isOver else { return [] }
        switch event {
        case .listening(let number, let address):
            guard members[number]?.state == .starting else { return [] }
            members[number]?.state = .listening(address: address)
            if generation > 0 { return next("\(members[number]?.host ?? "") joined", rebalances: true) }
            let isComplete = members.values.allSatisfy { $0.state != .starting }
            return isComplete ? next("all members are ready") : []
        case .exited(let number, let end):
            guard let member = members[number], member.isActive else { return [] }
            if member.state == .finished { return conclude() }
            if failure == nil, generation == 0, end.signal == nil {
                failure = (
                    "the trainer on \(member.host) ended before training began (\(end))", "look at its log"
                )
            }
            return lose(number, reason: "\(member.host): trainer \(number) ended, \(end)")
        case .failed(let number, let message, let hint):
            // One that came while the others worked fails alone.
            if members[number]?.joins != true { failure = (message, hint) }
            return lose(number, reason: message)
        case .finished(let number):
            guard members[number]?.isActive == true else { return [] }
            members[number]?.state = .finished
            return conclude()
        case .peerLost(let reporter, let generation, let lost, let isSilent, let reason):
            guard generation == self.generation, members[reporter]?.isActive == true else { return [] }
            if let lost, isSilent, members[lost]?.state != .finished {
                return [.expel(member: lost, reason: reason)] + lose(lost, reason: reason)
            }
            // The link broke: most likely the news that a trainer died is on its way.
            if relinkAt == nil { relinkAt = now + Self.relinkPatience }
            suspect = lost.map { ($0, reason) } ?? suspect
            return []
        case .joining(let number, let host):
            precondition(members[number] == nil, "member \(number) is not new")
            members[number] = Member(host: host, joins: generation > 0)
            return []
        case .supplied(let number):
            members[number]?.joins = false
            return []
        case .leave(let host): return dismiss(host)
        case .tick:
            guard let relinkAt, now >= relinkAt else { return [] }
            return relink()
        }
    }

    private mutating func relink() -> [Action] {
        relinks += 1
        let finished = members.filter { $0.value.state == .finished }.map(\.key)
        // A member that finished has left; those who still need its help compute its lanes.
        if !finished.isEmpty { return next("members \(finished.sorted()) have finished") }
        if relinks > Self.maximumRelinks, let suspect {
            return [.expel(member: suspect.member, reason: suspect.reason)]
                + lose(suspect.member, reason: "its links kept breaking: \(suspect.reason)")
        }
        return next("links are made anew: \(suspect?.reason ?? "a link broke")")
    }

    /// The others take over the lanes of a host that leaves; then its trainers end.
    private mutating func dismiss(_ host: String) -> [Action] {
        let leaving = members.filter {
            $0.value.host == host && $0.value.isActive && $0.value.state != .finished
        }
        guard !leaving.isEmpty else { return [] }
        var hadLanes = false
        for number in leaving.keys {
            hadLanes = hadLanes || members[number]?.lanes.isEmpty == false
            members[number]?.state = .gone(reason: "\(host) left")
            members[number]?.lanes = LaneSet()
        }
        let expulsions = leaving.keys.sorted().map {
            Action.expel(member: $0, reason: "\(host) leaves the run")
        }
        let others = members.values.contains { $0.isActive }
        if generation == 0 {
            guard others else { return expulsions + conclude() }
            let isComplete = members.values.allSatisfy { $0.state != .starting }
            return (isComplete ? next("\(host) left") : []) + expulsions
        }
        return (hadLanes ? next("\(host) left") : []) + expulsions
    }

    private mutating func lose(_ number: Int, reason: String) -> [Action] {
        guard let member = members[number], member.isActive else { return [] }
        members[number]?.state = .gone(reason: reason)
        members[number]?.lanes = LaneSet()
        if !member.joins { lastLoss = reason }
        // One that came later and never worked: nobody misses it.
        if member.joins, member.state == .starting, generation > 0 { return conclude() }
        if generation == 0 {
            // A trainer that was killed is a lost one; one that ends by itself would do so again.
            let others = members.values.filter(\.isActive)
            if failure == nil, !others.isEmpty {
                return others.contains { $0.state == .starting } ? [] : next("lost \(reason)")
            }
            isOver = true
            return [.fail(message: failure?.message ?? reason, hint: failure?.hint)]
        }
        let working = members.values.filter { $0.address != nil && !$0.joins }
        return working.isEmpty ? conclude() : next("lost \(reason)")
    }

    /// Says how the run ended once nobody works any more.
    private mutating func conclude() -> [Action] {
        // Who came later and has nothing yet can't carry the run on alone.
        let isOpen = members.values.contains { !$0.joins && ($0.address != nil || $0.state == .starting) }
        guard !isOpen else { return [] }
        isOver = true
        if members.values.contains(where: { $0.state == .finished }) { return [.finish] }
        if let failure { return [.fail(message: failure.message, hint: failure.hint)] }
        return [.interrupt(reason: lastLoss ?? "no trainer is left")]
    }

    /// Makes the next generation of those who work: they keep their lanes, orphaned ones go to those with the fewest.
    ///
    /// - Parameter rebalances: cut all lanes anew, since somebody came.
    private mutating func next(_ reason: String, rebalances: Bool = false) -> [Action] {
        let working = members.filter { $0.value.address != nil }.sorted { $0.key < $1.key }
        guard working.contains(where: { !$0.value.joins }) else { return conclude() }
        let lanes =
            generation == 0 || rebalances
            ? LanePlanner.assign(laneCount: laneCount, weights: working.map { _ in 1 })
            : LanePlanner.reassign(held: working.map(\.value.lanes), laneCount: laneCount)
        for number in members.keys { members[number]?.lanes = LaneSet() }
        generation += 1
        relinkAt = nil
        suspect = nil
        let planned = zip(working, lanes).map { entry, lanes in
            GenerationPlan.Member(
                member: entry.key,
                host: entry.value.host,
                address: entry.value.address ?? "",
                lanes: lanes
            )
        }
        for member in planned { members[member.member]?.lanes = member.lanes }
        let plan = GenerationPlan(
            run: run,
            attempt: attempt,
            number: generation,
            members: planned,
            writers: Self.writers(planned),
            secret: makeSecret()
        )
        return [.announce(plan, reason: reason)]
    }

    /// Two members, on two hosts where there are two: equal checkpoints, so the second copy costs no transfer.
    static func writers(_ members: [GenerationPlan.Member]) -> [Int] {
        guard let first = members.first else { return [] }
        let second = members.first { $0.host != first.host } ?? members.dropFirst().first
        return [first.member] + (second.map { [$0.member] } ?? [])
    }
}
