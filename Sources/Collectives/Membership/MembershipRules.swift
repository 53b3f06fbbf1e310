public import Basics

/// What a member knows of the generations of its attempt; whoever asks for its vote is told all of it.
public struct MembershipKnowledge: Codable, Hashable, Sendable {
    /// Who knows this.
    public var member: Int
    /// True while the member has nothing of the run: it can't be behind the others.
    public var joins: Bool
    /// The newest generation of which the member knows that all of its members accepted it, or the run's first.
    public var confirmed: GenerationView?
    /// What the member accepted after that, in rising order of numbers: it may have taken effect.
    public var candidates: [GenerationView] = []
    /// Members whose end is proven, with all that they had accepted.
    public var left: [Int: [GenerationView]] = [:]
    /// How often a member could not be met since `confirmed`.
    public var missed: [Int: Int] = [:]

    /// Nothing.
    public init(member: Int, joins: Bool) {
        self.member = member
        self.joins = joins
    }

    /// The number of the newest generation known.
    public var newest: Int { max(confirmed?.number ?? 0, candidates.last?.number ?? 0) }
    /// The generation in which members have their lanes now.
    var current: GenerationView? { candidates.last ?? confirmed }

    /// Notes a proposal that the member accepts: from now on it may take effect.
    mutating func accept(_ proposal: GenerationProposal) {
        // Whoever proposed knew this one to have taken effect, or to be the run's first.
        let base = proposal.basis.follows.first?.view ?? proposal.view
        if base.number > confirmed?.number ?? 0 { confirm(base) }
        if proposal.view != base { candidates.append(proposal.view) }
    }
    /// All members of that generation accepted it.
    mutating func confirm(_ number: Int) {
        guard let view = candidates.first(where: { $0.number == number }) else { return }
        confirm(view)
    }
    private mutating func confirm(_ view: GenerationView) {
        confirmed = view
        candidates.removeAll { $0.number <= view.number }
        missed = [:]
    }
}

/// A generation that somebody wants to begin.
public struct GenerationProposal: Codable, Hashable, Sendable {
    /// Who its members are.
    public var view: GenerationView
    /// What it is built on.
    public var basis: GenerationBasis
    /// For people.
    public var reason: String

    /// All fields.
    public init(view: GenerationView, basis: GenerationBasis, reason: String) {
        self.view = view
        self.basis = basis
        self.reason = reason
    }
}

/// The decisions that keep a run one run, each a function of what is known.
///
/// They are values so that the simulator can put a wrong one in the place of each and show that it notices.
public struct MembershipRules: Sendable {
    /// What came of counting votes.
    public enum Outcome: Hashable, Sendable {
        /// These may go on.
        case proposal(GenerationProposal)
        /// They may not, and why.
        case insufficient(String)
    }

    /// Whether a number may still be promised: only one that is above all promised before.
    public var mayPromise: @Sendable (_ number: Int, _ promised: Int) -> Bool
    /// Counts the votes for a new generation.
    public var elect: @Sendable (_ ballot: Ballot, _ votes: [Int: MembershipKnowledge]) -> Outcome
    /// Why a member must refuse a proposal; nil = it may open it.
    public var objection:
        @Sendable (_ proposal: GenerationProposal, _ knowledge: MembershipKnowledge, _ laneCount: Int) ->
            String?

    /// A proposer's number, and what it marks its proposal with.
    public struct Ballot: Hashable, Sendable {
        /// Above all numbers that it has seen.
        public var number: Int
        /// Random.
        public var mark: UInt64
        /// L.
        public var laneCount: Int
        /// Why there is a ballot.
        public var reason: String
        /// All fields.
        public init(number: Int, mark: UInt64, laneCount: Int, reason: String) {
            self.number = number
            self.mark = mark
            self.laneCount = laneCount
            self.reason = reason
        }
    }

    /// The rules, or others in their place.
    public init(
        mayPromise: @escaping @Sendable (Int, Int) -> Bool = MembershipRules.promise,
        elect: @escaping @Sendable (Ballot, [Int: MembershipKnowledge]) -> Outcome = {
            MembershipRules.count($0, $1)
        },
        objection: @escaping @Sendable (GenerationProposal, MembershipKnowledge, Int) -> String? = {
            MembershipRules.object($0, $1, $2)
        }
    ) {
        self.mayPromise = mayPromise
        self.elect = elect
        self.objection = objection
    }

    /// A number is promised once, and none below it afterwards.
    public static func promise(_ number: Int, _ promised: Int) -> Bool { number > promised }

    /// Members that were missed in so many openings are left out, where the others suffice.
    static let patience = 2

    /// Decides who goes on, from what all who promised the ballot's number said.
    ///
    /// The newest generation that took effect counts, and each that was proposed after it, unless one of its members
    /// has not accepted it and now never will. The new members belong to all of those, and are a quorum of each:
    /// whatever took effect has a member among them that knows.
    ///
    /// - Parameters:
    ///   - votes: what each that promised knows, the proposer's own included.
    ///   - isQuorum: replaced in the simulator only.
    public static func count(
        _ ballot: Ballot,
        _ votes: [Int: MembershipKnowledge],
        isQuorum: (GenerationView, Set<Int>, Set<Int>) -> Bool = { $0.isQuorum($1, left: $2) }
    ) -> Outcome {
        let follows = followed(votes)
        guard let base = follows.first?.view else { return .insufficient("no generation has begun") }
        // What somebody agreed to before it died may have a number that those who vote have not promised yet.
        if let newest = follows.last?.view.number, newest >= ballot.number {
            return .insufficient("generation \(newest) was proposed, and number \(ballot.number) is below it")
        }
        let left = Set(votes.values.flatMap(\.left.keys))
        let bodies = follows.filter { !$0.isVoid }.map(\.view)
        // Who has nothing of the run yet can only be brought in by a coordinator.
        let able = bodies.reduce(base.ids.intersection(votes.keys)) { $0.intersection($1.ids) }
            .subtracting(left).filter { votes[$0]?.joins == false }
        guard !able.isEmpty, bodies.allSatisfy({ isQuorum($0, able, left) }) else {
            return .insufficient(shortage(bodies, able, left))
        }
        var members = able
        if let worst = mostMissed(votes, among: able) {
            let rest = able.subtracting([worst])
            if !rest.isEmpty, bodies.allSatisfy({ isQuorum($0, rest, left) }) { members = rest }
        }
        let ids = members.sorted()
        let newest = bodies.last ?? base
        let held = ids.map { id in newest.members.first { $0.member == id }?.lanes ?? LaneSet() }
        let lanes = LanePlanner.reassign(held: held, laneCount: ballot.laneCount)
        let view = GenerationView(
            number: ballot.number,
            mark: ballot.mark,
            members: zip(ids, lanes).map { GenerationView.Member(member: $0, lanes: $1) }
        )
        let lost = base.ids.subtracting(members).sorted().map { id in
            left.contains(id) ? "member \(id) ended" : "member \(id) does not answer"
        }
        let why = ([ballot.reason] + lost).joined(separator: "; ")
        return .proposal(
            GenerationProposal(
                view: view,
                basis: GenerationBasis(mark: ballot.mark, follows: follows, left: left.sorted()),
                reason: why
            )
        )
    }

    /// The generations that a new one must reckon with, in rising order of numbers.
    static func followed(_ votes: [Int: MembershipKnowledge]) -> [GenerationBasis.Followed] {
        guard let base = votes.values.compactMap(\.confirmed).max(by: { $0.number < $1.number }) else {
            return []
        }
        let words = votes.values.reduce(into: [Int: [GenerationView]]()) { all, vote in
            all.merge(vote.left) { one, _ in one }
        }
        let known = votes.values.flatMap(\.candidates) + words.values.joined()
        let proposed = Set(known.filter { $0.number > base.number })
        let ordered = proposed.sorted { ($0.number, $0.mark) < ($1.number, $1.mark) }
        return [GenerationBasis.Followed(base)]
            + ordered.map { view in
                let isVoid = view.ids.contains { member in
                    // Who promised the ballot's number, or is dead, accepts nothing below it any more.
                    if let said = words[member] { return !said.contains(view) }
                    return votes[member].map { !$0.candidates.contains(view) } ?? false
                }
                return GenerationBasis.Followed(view, isVoid: isVoid)
            }
    }

    private static func mostMissed(_ votes: [Int: MembershipKnowledge], among able: Set<Int>) -> Int? {
        var counts: [Int: Int] = [:]
        for vote in votes.values {
            for (member, count) in vote.missed { counts[member, default: 0] += count }
        }
        let worst = counts.filter { able.contains($0.key) && $0.value >= patience }
            .max { ($0.value, $0.key) < ($1.value, $1.key) }
        return worst?.key
    }

    private static func shortage(_ bodies: [GenerationView], _ able: Set<Int>, _ left: Set<Int>) -> String {
        guard let body = bodies.first(where: { !$0.isQuorum(able, left: left) }) else { return "no quorum" }
        let counted = Set(body.counted(left: left).map(\.member))
        let missing = counted.subtracting(able).sorted().map(String.init).joined(separator: ", ")
        return
            "\(able.intersection(counted).count) of \(counted.count) members of generation \(body.number) are"
            + " here, which is no majority; waits for member \(missing) or the coordinator"
    }

    /// Why a member may not accept a proposed generation.
    ///
    /// The proposal must know of all that the member accepted and be a quorum of each, the member must not be behind
    /// any, and each lane belongs to one member.
    public static func object(
        _ proposal: GenerationProposal,
        _ knowledge: MembershipKnowledge,
        _ laneCount: Int
    ) -> String? {
        let number = proposal.view.number
        guard number > knowledge.newest else {
            return "generation \(knowledge.newest) is known here, \(number) is not newer"
        }
        let follows = proposal.basis.follows
        let oldest = follows.first?.view.number ?? 0
        let known = (knowledge.confirmed.map { [$0] } ?? []) + knowledge.candidates
        for view in known where view.number >= oldest && !follows.contains(where: { $0.view == view }) {
            // Another one with that number took effect, so this one never did; whoever joins can't be behind.
            if knowledge.joins, view.number == oldest { continue }
            return "generation \(number) was made without knowing of generation \(view.number)"
        }
        guard proposal.basis.admits(proposal.view.ids) else {
            return "the members of generation \(number) are no quorum of those before"
        }
        let since = knowledge.confirmed?.number ?? 0
        if !knowledge.joins, let other = proposal.basis.without(knowledge.member, since: since) {
            return "generation \(other.number) may have gone on without this member"
        }
        do {
            _ = try LaneTree(laneCount: laneCount, lanes: proposal.view.members.map(\.lanes))
        } catch {
            return error.message
        }
        return nil
    }
}
