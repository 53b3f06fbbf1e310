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
        /// True while the member has nothing of the run: it came while the others were at work, and has no lanes yet.
        var joins = false
        /// True when it was started in the place of one that its host lost.
        var isBack = false
        /// The generation that it came with; 0: it was there before this coordinator.
        var entered = 0
        /// Where it listened last, should it come back.
        var lastAddress: String?

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
        /// How fast a member computes its lanes.
        case pace(member: Int, generation: Int, LanePace)
        /// Members keep another one waiting with their lanes.
        case late(reporter: Int, generation: Int, members: [Int], Duration)
        /// A trainer was started for a run in progress; `isBack`: in the place of one that was lost.
        case joining(member: Int, host: String, isBack: Bool = false)
        /// Trainers of a run that begins could not be started, for want of a connection to their host.
        case unstarted(members: [Int], isReachable: Bool, reason: String)
        /// A host has fewer trainers than it should: one was lost before this coordinator came, or could not be started.
        case lacks(host: String, isReachable: Bool)
        /// A member that joined holds the run's state.
        case caughtUp(member: Int, generation: Int)
        /// A member that joins could not be given the state.
        case unsupplied(member: Int, reason: String)
        /// A host shall take no part any more; a person's word that it does nothing for the run.
        case leave(host: String)
        /// A host answers, for the first time or again, and these trainers live there, with the addresses they have;
        /// some of them have nothing of the run yet.
        case returned(host: String, members: [Int: String?], joining: Set<Int> = [])
        /// The members made a generation themselves, and this one is about to open it.
        case accepted(GenerationPlan, by: Int, reason: String)
        /// A member accepted what was announced.
        case opening(member: Int, generation: Int, mark: UInt64)
        /// A member will never open a generation, and none up to a number.
        case refused(member: Int, generation: Int, mark: UInt64, promised: Int)
        /// All members of a generation had accepted it.
        case confirmed(generation: Int, mark: UInt64)
        /// How hosts reach each other is being found out; nobody new enters before.
        case routing
        /// How the run's hosts reach each other, and which of them are this machine.
        case routed([PeerRoute], here: Set<String>)
        /// A host's relay connection to this machine stands, or is over.
        case relay(host: String, isUp: Bool)
        case tick
    }

    /// What to do.
    enum Action: Hashable, Sendable {
        /// Tell all hosts of the run; `reason` is for people.
        case announce(GenerationPlan, reason: String)
        /// The members went on by themselves: this is the generation in force.
        case adopt(GenerationPlan, reason: String)
        /// Nobody may go on; why, for people.
        case park(reason: String)
        /// Kill a trainer that no longer belongs.
        case expel(member: Int, reason: String)
        /// Start a trainer on a host that lost one; it joins.
        case start(host: String)
        /// Something that people should know.
        case note(String)
        /// All members have done the last step.
        case finish
        /// Nobody is left; the last checkpoint is where to go on.
        case interrupt(reason: String)
        /// The run can't succeed.
        case fail(message: String, hint: String?)
    }

    /// Broken links with all processes alive are tried again so often.
    static let maximumRelinks = 5
    /// How long to wait for the news that explains a broken link.
    static let relinkPatience = Duration.milliseconds(500)
    /// Links that held so long are as good as new: their breaking is not counted with what was before.
    static let steady = Duration.seconds(60)
    /// A member that says nothing over a relay is linked anew so often: the way may be what broke.
    static let silentRelinks = 1

    let run: RunID
    let attempt: Int
    let laneCount: Int
    /// Lanes that stay together: an island of a run that has some.
    let laneUnit: Int
    var members: [Int: Member]
    var generation = 0
    var isOver = false
    /// How hosts meet.
    var routes: [PeerRoute]
    /// Hosts that are this machine.
    var here: Set<String> = []
    /// How many hosts' ways are being found out.
    var searches: Int
    /// Hosts without a relay connection to this machine.
    var unrelayed: Set<String> = []
    /// The members of the generation in force.
    var planned: Set<Int> = []
    /// Those of them that joined in it: they have no lanes there.
    var learners: Set<Int> = []
    /// When the event in hand happened.
    var now = ContinuousClock.now
    /// When the generation in force was announced.
    var announcedAt: ContinuousClock.Instant?
    var relinks = 0
    var relinkAt: ContinuousClock.Instant?
    /// When members stop waiting for relay connections.
    var relayDeadline: ContinuousClock.Instant?
    /// A member said nothing over a relay, in the generation in force.
    var isSilent = false
    /// The same, since links last held.
    var wasSilent = false
    var suspect: (member: Int, reason: String)?
    var failure: (message: String, hint: String?)?
    var lastLoss: String?
    var balance = LaneBalance()
    var cooldown = Cooldown()
    /// Trainers that are to be started again.
    var comebacks: [Comeback] = []
    /// Lanes do not follow the measured speed, and stay with those who began.
    let isFixed: Bool
    let makeSecret: @Sendable () -> WireSecret
    /// What the next generation must reckon with.
    var succession: Succession
    /// The highest number that can't be given to a generation any more.
    var taken = 0
    /// Why nobody may go on; nil while somebody does.
    var parkedFor: String?
    /// Until when those who joined, and are all that is left, may say that they have the state.
    var heirsUntil: ContinuousClock.Instant?
    /// Members without a part in the run that were told to end, since their host answers.
    var dismissed: Set<Int> = []
    /// Members that would be, were there somebody who has the state.
    var strays: Set<Int> = []
    /// Members that were heard of since they were lost, if they were.
    var present: Set<Int> = []
    /// Members that were given up before they began.
    var unstarted: Set<Int> = []
    /// Hosts in the order in which they should hold lane 0.
    let anchors: [String]

    /// A run that begins.
    ///
    /// - Parameters:
    ///   - laneUnit: lanes that stay together and do not follow the measured speed; nil: each lane for itself.
    ///   - hosts: the host of each member, by the member's number.
    ///   - routes: nil: the first generation waits for ``Event/routed(_:here:)``.
    ///   - anchors: hosts, those first that should go on when the run is cut into halves.
    init(
        run: RunID,
        attempt: Int,
        laneCount: Int,
        laneUnit: Int? = nil,
        hosts: [String],
        routes: [PeerRoute]? = [],
        anchors: [String] = [],
        succession: Succession = Succession(),
        makeSecret: @escaping @Sendable () -> WireSecret = { WireSecret(Sealing.randomBytes(32)) }
    ) {
        self.anchors = anchors
        self.succession = succession
        self.run = run
        self.attempt = attempt
        self.laneCount = laneCount
        self.laneUnit = laneUnit ?? 1
        isFixed = laneUnit != nil
        members = Dictionary(
            uniqueKeysWithValues: hosts.enumerated().map { ($0.offset, Member(host: $0.element)) }
        )
        self.routes = routes ?? []
        searches = routes == nil ? 1 : 0
        self.makeSecret = makeSecret
    }

    /// A run that went on while the coordinator was away, from what the hosts report.
    ///
    /// - Parameters:
    ///   - plan: the newest generation that any host was told.
    ///   - announced: the highest number that a coordinator ever gave a generation of the attempt.
    init(
        run: RunID,
        attempt: Int,
        laneCount: Int,
        laneUnit: Int? = nil,
        trainers: [(host: String, trainer: AgentStatus.Trainer)],
        plan: GenerationPlan?,
        here: Set<String> = [],
        announced: Int = 0,
        anchors: [String] = [],
        succession: Succession = Succession(),
        makeSecret: @escaping @Sendable () -> WireSecret = { WireSecret(Sealing.randomBytes(32)) }
    ) {
        self.init(
            run: run,
            attempt: attempt,
            laneCount: laneCount,
            laneUnit: laneUnit,
            hosts: [],
            anchors: anchors,
            succession: succession,
            makeSecret: makeSecret
        )
        self.here = here
        if let plan { self.succession.proposed(plan) }
        for (host, trainer) in trainers {
            var member = Member(host: host)
            if trainer.isFinished {
                member.state = .finished
            } else if let address = trainer.address {
                member.state = .listening(address: address)
            }
            member.lastAddress = trainer.address
            member.joins = trainer.joins
            members[trainer.member] = member
        }
        generation = plan?.number ?? 0
        taken = announced
        routes = plan?.routes ?? []
        planned = Set((plan?.members ?? []).map(\.member))
        learners = Set(plan?.joiners ?? [])
        // Whatever stood before stood in a process that is gone.
        unrelayed = Set(routes.filter(\.needsCoordinator).flatMap { [$0.first, $0.second] })
        for known in plan?.members ?? [] {
            // A host that can't be asked now: its member is taken to be at work until a peer misses it.
            if members[known.member] == nil {
                members[known.member] = Member(host: known.host, state: .listening(address: known.address))
                members[known.member]?.joins = plan?.joiners.contains(known.member) == true
            }
            members[known.member]?.lanes = known.lanes
        }
        if generation > 0 {
            // Members that an earlier generation lost are history, unless the newest one can't take effect.
            let basis = self.succession.basis(mark: 0)
            for (number, member) in members where !planned.contains(number) {
                // One that came late and was in none of them yet still enters.
                guard !member.joins else { continue }
                guard member.address == nil || basis.without(number, since: 0) != nil else { continue }
                members[number]?.state = .gone(reason: "left before")
            }
        }
        // The state was on its way through the process that is gone.
        if members.values.contains(where: { $0.joins && $0.isActive }) { relinkAt = now }
    }

    /// When ``Event/tick`` is wanted.
    var deadline: ContinuousClock.Instant? {
        isOver ? nil : ([relinkAt] + comebacks.map(\.at)).compactMap { $0 }.min()
    }

    /// Takes an event and decides.
    mutating func handle(_ event: Event, now: ContinuousClock.Instant) -> [Action] {
        guard !isOver else { return [] }
        self.now = now
        switch event {
        case .listening(let number, let address):
            guard members[number]?.state == .starting else { return dismissUnstarted(number) }
            members[number]?.state = .listening(address: address)
            members[number]?.lastAddress = address
            return enter()
        case .routing:
            searches += 1
            return []
        case .routed(let routes, let here):
            self.routes = routes
            self.here = here
            searches = max(0, searches - 1)
            return enter()
        case .relay(let host, let isUp):
            // When all were gone, this machine was away: each host gets its time to come back.
            let wasAway = isUp && isWithoutRelays
            if isUp { unrelayed.remove(host) } else { unrelayed.insert(host) }
            if isUp, relayDeadline != nil {
                relinkAt = now
                if wasAway { relayDeadline = now + Self.relayPatience }
            }
            return []
        case .exited(let number, let end):
            succession.note(.exited(end), of: number)
            present.remove(number)
            guard let member = members[number], member.isActive else { return retry() }
            if member.state == .finished { return conclude() }
            if failure == nil, generation == 0, end.signal == nil {
                failure = (
                    "the trainer on \(member.host) ended before training began (\(end))", "look at its log"
                )
            }
            let actions = lose(number, reason: "\(member.host): trainer \(number) ended, \(end)")
            return actions + missed(on: member.host, mayComeBack: Self.mayComeBack(end))
        case .failed(let number, let message, let hint):
            // One that came while the others worked fails alone.
            if members[number]?.joins != true { failure = (message, hint) }
            return lose(number, reason: message)
        case .finished(let number):
            guard members[number]?.isActive == true else { return [] }
            members[number]?.state = .finished
            // It has nothing left to commit, and everything that was.
            succession.left(number)
            return conclude()
        case .peerLost(let reporter, let generation, let lost, let isSilent, let reason):
            if let revived = heard(of: [reporter]) { return revived }
            guard generation == self.generation, members[reporter]?.isActive == true else { return [] }
            let isRelayed = lost.map { self.isRelayed(reporter, $0) } ?? false
            if let lost, isSilent, !isRelayed, let member = members[lost], member.state != .finished {
                return giveUp(lost, reason, "\(member.host): \(reason)")
            }
            if isSilent { self.isSilent = true }
            // The link broke: most likely the news that a trainer died is on its way.
            if relinkAt == nil { relinkAt = now + Self.relinkPatience }
            suspect = lost.map { ($0, reason) } ?? suspect
            return []
        case .late(let reporter, let generation, let late, let waited):
            return generation == self.generation ? takeOver(from: Set(late), waited, reporter) : []
        case .joining(let number, let host, let isBack):
            precondition(members[number] == nil, "member \(number) is not new")
            members[number] = Member(host: host, joins: generation > 0, isBack: isBack)
            succession.started(number, on: host)
            return []
        case .unstarted(let numbers, let isReachable, let reason):
            return giveUpUnstarted(numbers, isReachable: isReachable, reason: reason)
        case .lacks(let host, let isReachable):
            return lacks(host, isReachable: isReachable)
        case .caughtUp(let number, let generation):
            guard let member = members[number], member.isActive else { return [] }
            // From now on it can be behind the others: it has the state of that generation, whichever is in force now.
            members[number]?.joins = false
            members[number]?.entered = generation
            guard generation == self.generation, learners.contains(number) else { return [] }
            return next("\(member.host) \(member.isBack ? "is back at work" : "joined")", rebalances: true)
        case .unsupplied(let number, let reason):
            guard let member = members[number], member.isActive, member.joins else { return [] }
            return giveUp(number, reason, reason)
        case .pace(let number, let generation, let pace):
            balance.note(pace, of: number)
            return generation == self.generation ? rebalance() : []
        case .leave(let host):
            comebacks.removeAll { $0.host == host }
            let parted = members.filter { $0.value.host == host && !$0.value.isActive }.keys
            for number in parted { succession.left(number) }
            let actions = dismiss(host)
            return actions.isEmpty && !parted.isEmpty ? retry() : actions
        case .returned(let host, let living, let joining):
            for (number, address) in living {
                if members[number] == nil {
                    // Not in the generation that this coordinator found, and not heard of since.
                    members[number] = Member(
                        host: host,
                        state: .gone(reason: "\(host): it could not be reached"),
                        joins: joining.contains(number)
                    )
                }
                if let address { members[number]?.lastAddress = address }
                dismissed.remove(number)
            }
            resumeComebacks(on: host)
            return (heard(of: living.keys.sorted()) ?? []) + dismissStrays(of: living.keys.sorted())
        case .accepted(let plan, let member, let reason):
            let isNews = !succession.knows(plan.view)
            succession.note(.accepted(plan, reason: reason), of: member)
            return adopt(plan, reason, isNews: isNews) + (heard(of: [member]) ?? [])
        case .opening(let number, let generation, let mark):
            succession.note(.opening(generation: generation, mark: mark), of: number)
            return heard(of: [number]) ?? retry()
        case .refused(let number, let generation, let mark, let promised):
            let report = TrainerReport.refused(
                generation: generation,
                mark: mark,
                promised: promised,
                reason: ""
            )
            succession.note(report, of: number)
            // A generation that can't take effect any more is no reason to keep anybody out.
            return refused(upTo: promised) + (heard(of: [number]) ?? [])
        case .confirmed(let generation, let mark):
            succession.confirmed(generation, mark: mark)
            return retry()
        case .tick:
            let starts = startComebacks()
            guard let relinkAt, now >= relinkAt else { return starts }
            return relink() + starts
        }
    }

    /// The number of the next member that is started: no process of the attempt ever had it.
    var nextMember: Int { max(members.keys.max() ?? -1, succession.hosts.keys.max() ?? -1) + 1 }
}
