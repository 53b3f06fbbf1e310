internal import Basics
internal import Collectives
internal import Dispatch
internal import Synchronization
internal import Wire

/// Carries out what a ``MembershipMachine`` decides: talks to the other members, and says which generation to open.
///
/// Plans come from the agent and from other members; what passes the machine goes into the ``CommandBox``, from where
/// ``NetworkExchange`` takes it.
final class MembershipDesk: Sendable {
    private struct State {
        var machine: MembershipMachine
        /// Every plan that was seen, by its proposal: addresses and secrets of those who may be talked to.
        var plans: [Council.Key: GenerationPlan] = [:]
        /// Since when nobody coordinates; nil while somebody does.
        var aloneSince: ContinuousClock.Instant?
        /// True when members of the newest generation meet only through the coordinator's machine.
        var needsCoordinator: Bool {
            guard let newest = plans.values.max(by: { $0.number < $1.number }) else { return false }
            let hosts = Set(newest.members.map(\.host))
            return newest.routes.contains {
                $0.needsCoordinator && hosts.contains($0.first) && hosts.contains($0.second)
            }
        }
        /// What ``MembershipMachine/handle(_:now:)`` said about the generation that was just opened.
        var entered: Int?
    }

    private let start: TrainerStart
    private let commands: CommandBox
    private let report: @Sendable (TrainerReport) -> Void
    private let state: Mutex<State>
    /// Effects of one event are carried out before those of the next.
    private let order = Mutex(())
    private let changed = DispatchSemaphore(value: 0)
    private let council = Mutex<Council?>(nil)

    init(
        start: TrainerStart,
        endpoint: Endpoint,
        commands: CommandBox,
        report: @escaping @Sendable (TrainerReport) -> Void
    ) {
        self.start = start
        self.commands = commands
        self.report = report
        let seed = Sealing.randomBytes(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        state = Mutex(
            State(
                machine: MembershipMachine(
                    member: start.member,
                    joins: start.joins,
                    laneCount: start.record.spec.lanes,
                    seed: seed
                )
            )
        )
        let council = Council(endpoint: endpoint, run: start.run) { [weak self] sender, bytes in
            guard let message = try? MessageCoding.decode(MembershipMessage.self, from: bytes) else { return }
            self?.handle(.received(from: sender, message))
        }
        self.council.withLock { $0 = council }
        OSThread.start(name: "membership") { [weak self] in
            while let desk = self { desk.waitForDeadline() }
        }
    }

    // MARK: What happens

    /// The coordinator's plan, as the agent passes it on.
    func announced(_ plan: GenerationPlan) {
        guard let basis = plan.basis else { return commands.put(plan) }
        learn(plan)
        handle(.announced(GenerationProposal(view: plan.view, basis: basis, reason: "")))
    }

    /// A generation's links stand.
    ///
    /// - Returns: false when it must not be used, since another one was promised meanwhile.
    func opened(_ number: Int) -> Bool {
        let isRuled = state.withLock { state in
            state.entered = nil
            return state.plans.keys.contains { $0.number == number }
        }
        // A coordinator of an earlier build says nothing of what went before, and decides alone.
        guard isRuled else { return true }
        handle(.opened(number))
        return state.withLock { $0.entered == number }
    }

    /// Tells what became of a generation, or who is there.
    func handle(_ event: MembershipMachine.Event) {
        order.withLock { _ in
            let effects = state.withLock { state -> [MembershipMachine.Effect] in
                if case .coordinator(let isPresent) = event {
                    // Who meets the others only through the coordinator's machine waits for it.
                    if !isPresent, state.needsCoordinator { return [] }
                    state.aloneSince = isPresent ? nil : state.aloneSince ?? .now
                }
                return state.machine.handle(event, now: .now)
            }
            for effect in effects { perform(effect) }
        }
        changed.signal()
    }

    /// How long nobody has coordinated.
    var alone: Duration {
        state.withLock { $0.aloneSince.map { ContinuousClock.now - $0 } ?? .zero }
    }

    private func waitForDeadline() {
        let deadline = state.withLock { $0.machine.deadline }
        let wait = deadline.map { ($0 - .now) / .milliseconds(1) } ?? 60_000
        if changed.wait(timeout: .now() + .milliseconds(max(1, Int(wait)))) == .timedOut, deadline != nil {
            handle(.tick)
        }
    }

    // MARK: What to do

    private func perform(_ effect: MembershipMachine.Effect) {
        switch effect {
        case .send(let member, let message): send(message, to: member)
        case .record(let proposal):
            guard known(proposal.view) == nil else {
                return report(.opening(generation: proposal.view.number, mark: proposal.view.mark))
            }
            guard let plan = plan(of: proposal) else { return }
            learn(plan)
            // The secret follows from that of the members' last generation: it need not lie on a disk.
            var told = plan
            told.secret = WireSecret([])
            report(.accepted(told, reason: proposal.reason))
        case .open(let proposal): if let plan = known(proposal.view) { commands.put(plan) }
        case .abandon(let number): commands.abandon(number)
        case .enter(let number): state.withLock { $0.entered = number }
        case .refuse(let view, let promised, let reason):
            report(.refused(generation: view.number, mark: view.mark, promised: promised, reason: reason))
        case .park(let reason): report(.parked(reason: reason))
        }
    }

    private func send(_ message: MembershipMessage, to member: Int) {
        // The oldest generation that both were told of is the one whose secret the other surely has.
        let (knowledge, plans) = state.withLock { ($0.machine.knowledge, $0.plans) }
        let views = [knowledge.confirmed].compactMap { $0 } + knowledge.candidates
        let shared = views.first {
            $0.ids.contains(member) && $0.ids.contains(start.member) && plans[$0.key] != nil
        }
        guard let key = shared?.key, let plan = plans[key],
            let address = plan.members.first(where: { $0.member == member })?.address,
            let bytes = try? MessageCoding.encode(message)
        else { return }
        council.withLock { $0 }?.send(bytes, from: start.member, to: address, proving: key)
    }

    /// Whether nothing comes from a member of a plan for so long as silence is borne there; blocks that long.
    ///
    /// One that this host can't dial is never found silent: others look after it.
    func isSilent(_ member: GenerationPlan.Member, in plan: GenerationPlan) -> Bool {
        guard let host = plan.members.first(where: { $0.member == start.member })?.host else { return false }
        if case .dialled(let dialler) = plan.way(between: host, and: member.host), dialler != host {
            return false
        }
        guard let council = council.withLock({ $0 }) else { return false }
        return council.isSilent(
            at: member.address,
            for: plan.silenceLimit,
            asking: plan.view.key,
            from: start.member
        )
    }

    // MARK: Plans

    private func known(_ view: GenerationView) -> GenerationPlan? { state.withLock { $0.plans[view.key] } }

    private func learn(_ plan: GenerationPlan) {
        guard !plan.secret.bytes.isEmpty else { return }
        state.withLock { state in
            state.plans[plan.view.key] = plan
            if state.plans.count > 16 {
                let oldest = state.plans.keys.min { $0.number < $1.number }
                if let oldest { state.plans[oldest] = nil }
            }
        }
        council.withLock { $0 }?.learn(plan.view.key, secret: Redacted(plan.secret.bytes))
    }

    /// The plan of a generation that the members make: who they are was known before.
    private func plan(of proposal: GenerationProposal) -> GenerationPlan? {
        let bases = proposal.basis.follows.compactMap { known($0.view) }
        guard let base = bases.first else { return nil }
        let members = proposal.view.members.compactMap { member -> GenerationPlan.Member? in
            guard var known = bases.lazy.compactMap({ $0.members.first { $0.member == member.member } }).first
            else { return nil }
            known.lanes = member.lanes
            return known
        }
        guard members.count == proposal.view.members.count else { return nil }
        let second = members.first { $0.host != members[0].host } ?? members.dropFirst().first
        return GenerationPlan(
            run: start.run,
            attempt: start.attempt,
            number: proposal.view.number,
            members: members,
            writers: [members[0].member] + (second.map { [$0.member] } ?? []),
            secret: WireSecret(Self.secret(of: proposal.view, after: base)),
            routes: base.routes,
            owners: base.owners.filter { proposal.view.ids.contains($0) },
            basis: proposal.basis
        )
    }

    /// A secret that the members of the generation before can find out, and nobody else.
    static func secret(of view: GenerationView, after base: GenerationPlan) -> [UInt8] {
        var writer = ByteWriter()
        writer.write("coord generation")
        writer.write(UInt64(view.number))
        writer.write(view.mark)
        for member in view.members {
            writer.write(UInt64(member.member))
            writer.write(member.lanes.bits)
        }
        return Sealing.authenticationCode(for: writer.bytes, key: Redacted(base.secret.bytes))
    }
}

extension GenerationView {
    /// What its secret is known under.
    var key: Council.Key { Council.Key(number: number, mark: mark) }
}
