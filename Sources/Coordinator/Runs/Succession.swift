internal import Basics
internal import Wire

/// What a new generation of a run must reckon with: those before it that may still be at work somewhere.
///
/// The coordinator's half of the rule that keeps a run one run: it begins a generation only with a quorum of each of
/// those, so whoever it can't reach is none. See `docs/concepts/membership.md`.
struct Succession: Sendable {
    /// As the registry keeps it.
    struct Kept: Codable, Hashable, Sendable {
        var attempt: Int
        var follows: [GenerationBasis.Followed]
        var left: Set<Int>
        var accepted: [UInt64: Set<Int>]
        var hosts: [Int: String]
        /// Nil in what older builds wrote.
        var ended: Set<Int>?
    }

    typealias QuorumRule = @Sendable (GenerationView, Set<Int>, Set<Int>) -> Bool

    /// The newest generation that took effect, or the first one, and all that were proposed after it.
    private(set) var follows: [GenerationBasis.Followed] = []
    /// Members whose end was reported by their own agent, or declared by a person.
    private(set) var left: Set<Int> = []
    /// Those of them whose process is over: they accept nothing more, and all that they had accepted was reported before.
    private var ended: Set<Int> = []
    /// Where members are.
    private(set) var hosts: [Int: String] = [:]
    /// Who reported that it accepted a proposal, by the proposal's mark.
    private var accepted: [UInt64: Set<Int>] = [:]
    /// Replaced in the simulator only.
    private let isQuorum: QuorumRule

    init(isQuorum: @escaping QuorumRule = { $0.isQuorum($1, left: $2) }) { self.isQuorum = isQuorum }

    /// Goes on from what the registry kept.
    mutating func take(_ kept: Kept) {
        (follows, left, accepted, hosts) = (kept.follows, kept.left, kept.accepted, kept.hosts)
        ended = kept.ended ?? []
    }

    /// For the registry.
    func kept(attempt: Int) -> Kept {
        Kept(attempt: attempt, follows: follows, left: left, accepted: accepted, hosts: hosts, ended: ended)
    }

    /// A member that nobody has heard of yet is started: no other process gets its number.
    mutating func started(_ member: Int, on host: String) { hosts[member] = host }

    /// A generation that was proposed, by whomever.
    mutating func proposed(_ plan: GenerationPlan) {
        // Who was dead already when it became known never accepted it.
        defer { for member in ended { vowed(member) { _ in true } } }
        for member in plan.members { hosts[member.member] = member.host }
        left.formUnion(plan.basis?.left ?? [])
        let known = plan.basis?.follows ?? []
        for entry in known where entry.view.number > follows.first?.view.number ?? 0 || follows.isEmpty {
            if let index = follows.firstIndex(where: { $0.view == entry.view }) {
                // That a member has vowed never to accept it is true for ever.
                follows[index].isVoid = follows[index].isVoid || entry.isVoid
            } else {
                follows.append(entry)
            }
        }
        let view = plan.view
        guard follows.isEmpty || view.number > follows.first?.view.number ?? 0,
            !follows.contains(where: { $0.view == view })
        else { return }
        follows.append(GenerationBasis.Followed(view))
        follows.sort { ($0.view.number, $0.view.mark) < ($1.view.number, $1.view.mark) }
    }

    /// Whether a report changes what the next generation must reckon with.
    static func heeds(_ report: TrainerReport) -> Bool {
        switch report {
        case .accepted, .opening, .refused, .confirmed, .exited, .finished: true
        default: false
        }
    }

    /// What a trainer reported, in the order in which it did.
    ///
    /// The registry keeps this beside the report itself: a coordinator that is killed forgets nothing of it.
    mutating func note(_ report: TrainerReport, of member: Int) {
        switch report {
        case .accepted(let plan, _):
            proposed(plan)
            accepted(plan.view.mark, by: member)
            vowed(member) { $0.number <= plan.number }
        case .opening(let number, let mark):
            accepted(mark, by: member)
            vowed(member) { $0.number <= number }
        case .refused(_, let mark, let promised, _):
            // The highest number may be promised to another member, whose proposal this one can still accept.
            vowed(member) { $0.number < promised || $0.mark == mark }
        case .confirmed(let number, let mark): confirmed(number, mark: mark)
        case .exited:
            left(member)
            ended.insert(member)
            vowed(member) { _ in true }
        case .finished: left(member)
        default: break
        }
    }

    /// A member will never accept what it has not accepted yet of these; all that it had accepted was reported before.
    private mutating func vowed(_ member: Int, never isRefused: (GenerationView) -> Bool) {
        for index in follows.indices.dropFirst() {
            let view = follows[index].view
            guard isRefused(view), view.ids.contains(member) else { continue }
            if accepted[view.mark]?.contains(member) != true { follows[index].isVoid = true }
        }
    }

    private mutating func accepted(_ mark: UInt64, by member: Int) {
        guard let view = follows.first(where: { $0.view.mark == mark })?.view else { return }
        accepted[mark, default: []].insert(member)
        if accepted[mark]?.isSuperset(of: view.ids) == true { confirmed(view.number, mark: mark) }
    }

    /// All members of a generation had accepted it: those before it are over.
    mutating func confirmed(_ number: Int, mark: UInt64) {
        guard let entry = follows.first(where: { $0.view.number == number && $0.view.mark == mark }) else {
            return
        }
        follows.removeAll { $0.view.number <= number }
        follows.insert(GenerationBasis.Followed(entry.view), at: 0)
        let marks = Set(follows.map(\.view.mark))
        accepted = accepted.filter { marks.contains($0.key) }
    }

    /// A member's end is certain, and all that it had accepted is known.
    mutating func left(_ member: Int) { left.insert(member) }

    /// Tells whether a proposal is known.
    func knows(_ view: GenerationView) -> Bool { follows.contains { $0.view == view } }

    /// The newest number that was ever proposed.
    var newest: Int { follows.last?.view.number ?? 0 }

    /// What a generation with that mark is built on.
    func basis(mark: UInt64) -> GenerationBasis {
        GenerationBasis(mark: mark, follows: follows, left: left.sorted())
    }

    /// The host that a member is on, for people.
    func host(of member: Int) -> String { hosts[member] ?? "member \(member)" }

    /// Those of whom a generation in force may still consist, though nobody here has heard of them.
    func unheard(besides members: Set<Int>) -> Set<Int> {
        basis(mark: 0).bodies.reduce(into: Set<Int>()) { $0.formUnion($1.ids) }
            .subtracting(left).subtracting(members)
    }

    /// Why these members may not go on alone; nil when they may.
    func shortage(of members: Set<Int>) -> String? {
        let bodies = follows.filter { !$0.isVoid }.map(\.view)
        guard let body = bodies.first(where: { !isQuorum($0, members, left) }) else { return nil }
        let having = body.counted(left: left)
        let counted = Set(having.map(\.member))
        let missing = Set(counted.subtracting(members).map(host(of:))).sorted().joined(separator: ", ")
        let here = counted.intersection(members).count
        let isHalf = 2 * here == counted.count
        let rule = isHalf ? "half, and lane 0 is not among them" : "no majority"
        let holder = having.first { $0.lanes.contains(0) }.map { host(of: $0.member) }
        let lane = isHalf ? holder.map { " (lane 0 is on \($0))" } ?? "" : ""
        return "\(missing)\(lane) can't be reached and may go on without this machine: "
            + "\(here) of \(counted.count) workers are \(rule); waits until it is back, or until "
            + "coord down \(missing.split(separator: ",").first ?? "HOST") says that it is gone for good"
    }
}
