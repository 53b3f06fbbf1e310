public import Basics

/// What members say to one another about who goes on, while nobody coordinates.
public enum MembershipMessage: Codable, Hashable, Sendable {
    /// Will you open no generation below this number, unless it is mine? `newest` is the newest I know of.
    case prepare(number: Int, newest: Int)
    /// I promise, and this is what I know.
    case promise(number: Int, MembershipKnowledge)
    /// I can't, since I promised another number.
    case refuse(number: Int, promised: Int)
    /// I won't: a coordinator is here, who decides.
    case coordinated(number: Int)
    /// You are none of us any more.
    case outdated(number: Int, newest: GenerationView)
    /// Open this generation.
    case propose(GenerationProposal)
    /// A member ended, says its agent; all that it had accepted.
    case left(member: Int, [GenerationView])
}

/// One member's part in deciding who belongs to the next generation: a pure value without sockets or a clock.
///
/// With a coordinator present it opens what that one proposes, after it has checked that nothing went on that the
/// coordinator does not know of. While none is there, and after a loss, it asks the others for their votes on the next
/// number (as in single-decree Paxos: a number is promised once, and whatever an earlier number may have decided is
/// learnt with the promises), and proposes a generation of those who answered, where they are a quorum.
public struct MembershipMachine: Sendable {
    /// What happened.
    public enum Event: Sendable {
        /// The coordinator proposes a generation.
        case announced(GenerationProposal)
        /// All links of a generation stand here, so all its members accepted it.
        case opened(Int)
        /// They could not all be made; who was missing.
        case openFailed(Int, missing: [Int], reason: String)
        /// A generation in which this member worked broke.
        case lost(Int, member: Int?, reason: String)
        /// Something was committed in a generation by this member, which has the run's state.
        case committed(Int)
        /// A coordinator is connected to this host's agent, or none is.
        case coordinator(isPresent: Bool)
        /// This host's agent saw a member end.
        case ended(member: Int, [GenerationView])
        /// Another member speaks.
        case received(from: Int, MembershipMessage)
        /// Time has passed.
        case tick
    }

    /// What to do.
    public enum Effect: Hashable, Sendable {
        /// Tell a member; the message may be lost.
        case send(to: Int, MembershipMessage)
        /// Tell the agent, who keeps it as this member's last words, before the generation is opened.
        case record(GenerationProposal)
        /// Open the links of a generation; what was open before is left.
        case open(GenerationProposal)
        /// The generation that was opened is not to be used.
        case abandon(Int)
        /// Work in it.
        case enter(Int)
        /// Tell the coordinator that its proposal will never be opened here, and the highest number promised.
        case refuse(GenerationView, promised: Int, reason: String)
        /// For people: why nothing goes on, when that changes.
        case park(String)
    }

    /// What may be tuned; all measured on the member's own steady clock.
    public struct Options: Sendable {
        /// How long after a loss without a coordinator the first member asks for votes.
        public var patience = Duration.milliseconds(300)
        /// How long each further member waits longer than the one before it.
        public var stagger = Duration.milliseconds(150)
        /// How long votes are waited for once they suffice, so that nobody is left out who is merely slow.
        public var gathering = Duration.milliseconds(300)
        /// How long votes are waited for at all.
        public var ballotLimit = Duration.seconds(2)
        /// The longest pause between two ballots of one member.
        public var longestPause = Duration.seconds(8)
        /// How long a member that said a coordinator is there is believed.
        public var coordinatedPause = Duration.seconds(2)
        /// The defaults.
        public init() {}
    }

    private struct Ballot {
        var ballot: MembershipRules.Ballot
        var votes: [Int: MembershipKnowledge]
        var asked: Set<Int>
        var began: ContinuousClock.Instant
        var ends: ContinuousClock.Instant
    }

    private enum Phase {
        case idle
        case opening(GenerationProposal)
        case working(GenerationView)
        case waiting
        case balloting(Ballot)
        /// The others went on without this member; only a coordinator can take it in again.
        case outcast
    }

    /// This member's number.
    public let member: Int
    /// What it knows.
    public private(set) var knowledge: MembershipKnowledge
    /// The highest number that was promised, to whom.
    public private(set) var promised = 0
    private var promisedTo: Int?
    private let laneCount: Int
    private let rules: MembershipRules
    private let options: Options
    private var phase = Phase.idle
    /// Unknown counts as present: there was one when this member was started.
    private var isCoordinated = true
    private var nextBallot: ContinuousClock.Instant?
    private var fruitless = 0
    private var highestSeen = 0
    private var cause = "a link broke"
    private var parkedFor: String?
    private var chance: UInt64

    /// A member that has heard of no generation yet.
    ///
    /// - Parameters:
    ///   - joins: it was started for a run in progress, and has nothing of it yet.
    ///   - laneCount: L.
    ///   - seed: of the pauses between ballots and the marks of proposals; different for each member.
    public init(
        member: Int,
        joins: Bool = false,
        laneCount: Int,
        seed: UInt64,
        rules: MembershipRules = MembershipRules(),
        options: Options = Options()
    ) {
        self.member = member
        knowledge = MembershipKnowledge(member: member, joins: joins)
        self.laneCount = laneCount
        self.rules = rules
        self.options = options
        chance = seed
    }

    /// When ``Event/tick`` is wanted.
    public var deadline: ContinuousClock.Instant? {
        switch phase {
        case .balloting(let ballot):
            let enough = ballot.began + options.gathering
            return min(ballot.ends, max(enough, nextBallot ?? enough))
        case .waiting: return mayBallot ? nextBallot : nil
        default: return nil
        }
    }

    /// Who has nothing of the run yet does not ask for votes: it could not go on.
    private var mayBallot: Bool { !isCoordinated && knowledge.current != nil && !knowledge.joins }

    /// The generation in which this member works; nil while it does not.
    public var working: GenerationView? {
        if case .working(let view) = phase { view } else { nil }
    }

    /// Takes an event and decides.
    public mutating func handle(_ event: Event, now: ContinuousClock.Instant) -> [Effect] {
        switch event {
        case .announced(let proposal): return announced(proposal, now)
        case .opened(let number):
            // Whoever meets has accepted: with all of them here it has taken effect, whatever was promised since.
            knowledge.confirm(number)
            guard case .opening(let proposal) = phase, proposal.view.number == number, promised <= number
            else { return [.abandon(number)] }
            phase = .working(proposal.view)
            parkedFor = nil
            return [.enter(number)]
        case .openFailed(let number, let missing, let reason):
            guard case .opening(let proposal) = phase, proposal.view.number == number else { return [] }
            for other in missing { knowledge.missed[other, default: 0] += 1 }
            return wait(because: reason, now)
        case .lost(let number, _, let reason):
            guard case .working(let view) = phase, view.number == number else { return [] }
            return wait(because: reason, now)
        case .committed:
            knowledge.joins = false
            fruitless = 0
            return []
        case .coordinator(let isPresent):
            guard isPresent != isCoordinated else { return [] }
            isCoordinated = isPresent
            if isPresent {
                if case .balloting = phase { phase = .waiting }
                nextBallot = nil
            } else if case .waiting = phase {
                schedule(after: .zero, now)
            }
            return []
        case .ended(let other, let words):
            learn(other, words)
            // The others may not share a host with it.
            let told = MembershipMessage.left(member: other, words)
            return peers.map { .send(to: $0, told) } + hurry(now)
        case .received(let sender, let message): return received(message, from: sender, now)
        case .tick: return tick(now)
        }
    }

    // MARK: Proposals

    private mutating func announced(
        _ proposal: GenerationProposal,
        _ now: ContinuousClock.Instant
    ) -> [Effect] {
        let number = proposal.view.number
        // The same one again, by another way.
        if knowledge.candidates.contains(proposal.view) || knowledge.confirmed == proposal.view { return [] }
        if number <= promised {
            let reason = "generation \(promised) was promised to others"
            return [.refuse(proposal.view, promised: promised, reason: reason)]
        }
        // What is refused is refused for ever: the coordinator may count on it.
        (promised, promisedTo) = (number, nil)
        return consider(proposal) { .refuse(proposal.view, promised: number, reason: $0) }
    }

    private mutating func consider(
        _ proposal: GenerationProposal,
        otherwise refusal: (String) -> Effect?
    ) -> [Effect] {
        let number = proposal.view.number
        if let reason = rules.objection(proposal, knowledge, laneCount) {
            return refusal(reason).map { [$0] } ?? []
        }
        var effects: [Effect] = []
        switch phase {
        case .opening(let old): effects.append(.abandon(old.view.number))
        case .working(let old): effects.append(.abandon(old.number))
        default: break
        }
        promised = max(promised, number)
        knowledge.accept(proposal)
        phase = .opening(proposal)
        return effects + [.record(proposal), .open(proposal)]
    }

    // MARK: Ballots

    private var peers: [Int] {
        let known = [knowledge.confirmed].compactMap { $0 } + knowledge.candidates
        return known.reduce(into: Set<Int>()) { $0.formUnion($1.ids) }
            .subtracting([member]).subtracting(knowledge.left.keys).sorted()
    }

    private mutating func wait(because reason: String, _ now: ContinuousClock.Instant) -> [Effect] {
        phase = .waiting
        cause = reason
        if isCoordinated { nextBallot = nil } else { schedule(after: .zero, now) }
        return []
    }

    /// Chooses the time of this member's next ballot: those with lower numbers first, and later after each in vain.
    private mutating func schedule(after pause: Duration, _ now: ContinuousClock.Instant) {
        let order = peers.count { $0 < member }
        let doubled = options.patience * Int(1 << min(fruitless, 6))
        let base = min(options.longestPause, doubled) + options.stagger * order + pause
        nextBallot = now + base + base * Double(random() % 1024) / 2048
    }

    private mutating func hurry(_ now: ContinuousClock.Instant) -> [Effect] {
        guard case .waiting = phase, !isCoordinated else { return [] }
        fruitless = 0
        schedule(after: .zero, now)
        return []
    }

    private mutating func tick(_ now: ContinuousClock.Instant) -> [Effect] {
        switch phase {
        case .waiting:
            guard mayBallot, let nextBallot, now >= nextBallot else { return [] }
            return begin(now)
        case .balloting(let ballot): return count(ballot, now)
        default: return []
        }
    }

    private mutating func begin(_ now: ContinuousClock.Instant) -> [Effect] {
        let number = max(promised, knowledge.newest, highestSeen) + 1
        promised = number
        promisedTo = member
        let ballot = Ballot(
            ballot: MembershipRules.Ballot(
                number: number,
                mark: random(),
                laneCount: laneCount,
                reason: cause
            ),
            votes: [member: knowledge],
            asked: Set(peers),
            began: now,
            ends: now + options.ballotLimit
        )
        nextBallot = nil
        phase = .balloting(ballot)
        let effects = peers.map {
            Effect.send(to: $0, .prepare(number: number, newest: knowledge.newest))
        }
        return effects + (peers.isEmpty ? count(ballot, now) : [])
    }

    private mutating func count(_ ballot: Ballot, _ now: ContinuousClock.Instant) -> [Effect] {
        let isComplete = ballot.asked.isSubset(of: ballot.votes.keys)
        guard isComplete || now >= ballot.began + options.gathering else { return [] }
        switch rules.elect(ballot.ballot, ballot.votes) {
        case .proposal(let proposal) where proposal.view.ids.contains(member):
            phase = .waiting
            let opened = consider(proposal) { _ in nil }
            guard !opened.isEmpty else { return pause(now) }
            let others = proposal.view.ids.subtracting([member]).sorted()
            return others.map { .send(to: $0, .propose(proposal)) } + opened
        case .proposal:
            guard now >= ballot.ends || isComplete else {
                nextBallot = ballot.ends
                return []
            }
            return pause(now)
        case .insufficient(let reason):
            guard now >= ballot.ends || isComplete else {
                nextBallot = ballot.ends
                return []
            }
            let news = parkedFor == reason ? [] : [Effect.park(reason)]
            parkedFor = reason
            return pause(now) + news
        }
    }

    private mutating func pause(_ now: ContinuousClock.Instant) -> [Effect] {
        phase = .waiting
        fruitless += 1
        schedule(after: .zero, now)
        return []
    }

    // MARK: What others say

    private mutating func received(
        _ message: MembershipMessage,
        from sender: Int,
        _ now: ContinuousClock.Instant
    ) -> [Effect] {
        switch message {
        case .prepare(let number, let newest):
            highestSeen = max(highestSeen, number)
            if let confirmed = knowledge.confirmed, !confirmed.ids.contains(sender), newest < confirmed.number
            {
                return [.send(to: sender, .outdated(number: number, newest: confirmed))]
            }
            if isCoordinated { return [.send(to: sender, .coordinated(number: number))] }
            guard rules.mayPromise(number, promised) else {
                return [.send(to: sender, .refuse(number: number, promised: promised))]
            }
            promised = number
            promisedTo = sender
            var effects: [Effect] = []
            switch phase {
            case .opening(let proposal):
                effects.append(.abandon(proposal.view.number))
                phase = .waiting
                schedule(after: options.ballotLimit, now)
            case .waiting, .balloting:
                phase = .waiting
                schedule(after: options.ballotLimit, now)
            default: break
            }
            return effects + [.send(to: sender, .promise(number: number, knowledge))]
        case .promise(let number, let vote):
            guard case .balloting(var ballot) = phase, ballot.ballot.number == number else { return [] }
            ballot.votes[sender] = vote
            highestSeen = max(highestSeen, vote.left.values.joined().map(\.number).max() ?? 0)
            phase = .balloting(ballot)
            return count(ballot, now)
        case .refuse(let number, let other):
            highestSeen = max(highestSeen, other)
            guard case .balloting(let ballot) = phase, ballot.ballot.number == number else { return [] }
            return pause(now)
        case .coordinated(let number):
            guard case .balloting(let ballot) = phase, ballot.ballot.number == number else { return [] }
            phase = .waiting
            schedule(after: options.coordinatedPause, now)
            return []
        case .outdated(_, let newest):
            guard newest.number > knowledge.newest, !newest.ids.contains(member) else { return [] }
            phase = .outcast
            return [.park("the others went on as generation \(newest.number) without this member")]
        case .propose(let proposal):
            guard proposal.view.number == promised, promisedTo == sender else { return [] }
            return consider(proposal) { _ in nil }
        case .left(let other, let words):
            learn(other, words)
            return hurry(now)
        }
    }

    private mutating func learn(_ other: Int, _ words: [GenerationView]) {
        guard other != member else { return }
        knowledge.left[other] = words
        highestSeen = max(highestSeen, words.map(\.number).max() ?? 0)
    }

    private mutating func random() -> UInt64 {
        chance &+= 0x9E37_79B9_7F4A_7C15
        var z = chance
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}
