internal import Basics
internal import Collectives
internal import Training
internal import Wire

/// The exchange of a run over the network: a ``Collectives/Group`` for each generation of members.
///
/// A generation that breaks is left at once; the next one is waited for (the coordinator names it), and what was
/// ready there is committed or computed again, as the members agree when they meet.
final class NetworkExchange: GradientExchange {
    private let start: TrainerStart
    private let laneCount: Int
    private let endpoint: Endpoint
    private let commands: CommandBox
    private let desk: MembershipDesk
    /// The generation in which something was committed last.
    private var committed = 0
    private let report: @Sendable (TrainerReport) -> Void
    private var group: Group?
    private var plan: GenerationPlan?
    private var memberState: MemberState
    /// A loss that was told and to which no generation has answered.
    private var unheard: TrainerReport?
    /// Keeps a state in the host's store, and reads one from there.
    private let keep: @Sendable (StateCopy) throws -> Digest
    private let read: @Sendable (Digest) throws -> CheckpointState
    /// True while this member takes part without the run's state.
    private var isBehind = false
    private var arrival: StateArrival?

    /// What values lost on their way; nil while they travel exactly.
    private let feedback: ErrorFeedback?
    private let options: Group.Options
    /// A drill: until then no link carries anything.
    private var silentUntil: ContinuousClock.Instant?
    /// Over the links of generations that are over.
    private var bytesBefore = 0
    /// How long a member that joins waits for its state without a coordinator.
    private static let stateAlone = Duration.seconds(10)

    private(set) var lanes = LaneSet()

    /// True when somebody joined in this generation and this member gives the state.
    private(set) var wantsState = false

    /// - Parameters:
    ///   - committed: operations that the checkpoint we begin with has behind it.
    ///   - keep: puts a state into the host's store and gives its manifest.
    ///   - read: reads one from there.
    ///   - buckets: how the model's gradient is cut.
    init(
        start: TrainerStart,
        endpoint: Endpoint,
        commands: CommandBox,
        desk: MembershipDesk,
        committed: UInt64,
        report: @escaping @Sendable (TrainerReport) -> Void,
        keep: @escaping @Sendable (StateCopy) throws -> Digest,
        read: @escaping @Sendable (Digest) throws -> CheckpointState,
        buckets: [Range<Int>]
    ) {
        self.start = start
        laneCount = start.record.spec.lanes
        self.endpoint = endpoint
        self.commands = commands
        self.desk = desk
        self.report = report
        self.keep = keep
        self.read = read
        let codec = PayloadCodec(start.record.spec.exchangeInForce)
        var options = Group.Options()
        options.codec = codec
        options.combines = start.record.spec.exchangeInForce.kind != .sync
        options.buckets = buckets
        self.options = options
        feedback = codec == .exact ? nil : ErrorFeedback(codec: codec)
        memberState = start.joins ? .joining : MemberState(committed: committed)
    }

    /// True when this member speaks for its generation.
    var isFirst: Bool { plan?.members.first?.member == start.member }
    /// True when this member writes checkpoints.
    var isWriter: Bool { plan?.writers.contains(start.member) ?? false }

    /// Waits for the first generation and joins it.
    func join() throws {
        _ = try enterNextGeneration()
    }

    /// Joins a run in progress: enters a generation with the others, and learns where the run stands.
    ///
    /// From then on this member takes part without lanes; the state comes meanwhile, see ``takeState(waits:)``.
    /// - Returns: where the run stands, as the member that gives the state wrote it.
    func joinLate() throws -> String {
        isBehind = true
        while true {
            if group == nil { _ = try enterNextGeneration() }
            let number = plan?.number ?? 0
            let standing = try commands.wait(for: \.standing, of: number) { try giveUpAlone() }
            if let standing { return standing }
            leaveBehind()
        }
    }

    /// The others wait for this member's part: without the state it only holds them up.
    private func giveUpAlone() throws {
        guard desk.alone > Self.stateAlone else { return }
        throw AgentError(
            "the coordinator is away, and nobody else brings the state of the run",
            hint: "the others go on without this trainer; coord up HOST brings it in again"
        )
    }

    private func leaveBehind() {
        commands.onInterrupt(nil)
        group?.close()
        bytesBefore += group?.counters.bytesSent ?? 0
        group = nil
        arrival = nil
    }

    func takeState(waits: Bool) throws -> CheckpointState? {
        let number = plan?.number ?? 0
        if arrival == nil {
            var manifest = commands.latest(\.state, of: number)
            if waits, manifest == nil {
                manifest = try commands.wait(for: \.state, of: number) { try giveUpAlone() }
                guard manifest != nil else {
                    leaveBehind()
                    throw Overtaken()
                }
            }
            arrival = manifest.map { manifest in StateArrival { [read] in try read(manifest) } }
        }
        return try arrival?.take(waits: waits)
    }

    func didCatchUp() {
        guard let plan else { return }
        isBehind = false
        arrival = nil
        committed = plan.number
        desk.handle(.committed(plan.number))
        report(.caughtUp(generation: plan.number))
    }

    /// The number of the generation in force.
    var generation: Int? { plan?.number }

    /// The next operation, as the others count.
    var nextOperation: UInt64? { group?.memberState.committed }

    func take(state: StateCopy) throws {
        wantsState = false
        guard let plan else { return }
        report(.standing(generation: plan.number, state.standing))
        let joiners = (group?.joiners ?? []).map { plan.members[$0].member }
        // The others go on meanwhile.
        OSThread.start(name: "state") { [report, keep] in
            do {
                report(.state(generation: plan.number, manifest: try keep(state)))
            } catch {
                // Whoever joins would wait in vain: the run goes on without them.
                let why = (error as? any ExplainedError)?.message ?? "\(error)"
                for member in joiners {
                    report(
                        .peerLost(
                            generation: plan.number,
                            member: member,
                            isSilent: true,
                            reason: "the state for it could not be kept: \(why)"
                        )
                    )
                }
            }
        }
    }

    func takeMemory(count: Int) -> UnsafeMutableBufferPointer<Float>? { endpoint.memory?.allocate(count) }

    func giveBack(_ memory: UnsafeMutableBufferPointer<Float>) { endpoint.memory?.free(memory) }

    var bytesSent: Int { bytesBefore + (group?.counters.bytesSent ?? 0) }

    /// Leaves the group; the others see the links end.
    func close() {
        commands.onInterrupt(nil)
        group?.close()
        group = nil
    }

    func begin(
        operation: UInt64,
        contributions: [Contribution],
        buckets: [Range<Int>],
        width: Int,
        sum: UnsafeMutableBufferPointer<Float>
    ) -> Bool {
        guard let group, buckets == options.buckets else { return false }
        return group.begin(
            operation: operation,
            contributions: contributions.map { ($0.subtree, $0.values) },
            width: width,
            sum: sum
        )
    }

    func give(buckets: Int) { group?.give(buckets: buckets) }

    func abandon() { close() }

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        guard let group, let plan else { preconditionFailure("join() comes first") }
        if let injury = commands.takeInjury() { harm(group, injury) }
        do {
            try group.reduce(
                operation: operation,
                contributions: contributions.map { ($0.subtree, $0.values) },
                laneValues: &laneValues,
                sum: sum,
                feedback: feedback,
                settles: settles
            )
            feedback?.commit()
            // Without the state it has nothing of what was committed.
            if !isBehind, committed < plan.number {
                committed = plan.number
                desk.handle(.committed(plan.number))
            }
            return .committed
        } catch {
            leave(group, of: plan, because: error)
        }
        if isBehind { throw Overtaken() }
        guard try enterNextGeneration() == .commitReady else {
            feedback?.abandon()
            return .retry
        }
        feedback?.commit()
        return .committed
    }

    func hasMoved(lane: Int) -> Bool {
        commands.takes(lane, from: start.member, after: plan?.number ?? 0)
    }

    func moveOn() throws {
        guard let group, let plan else { preconditionFailure("join() comes first") }
        leave(group, of: plan, because: CollectivesError(.aborted, "its lanes were given to others"))
        feedback?.abandon()
        // Nobody has a result of an operation to which this member gave nothing.
        guard try enterNextGeneration() != .commitReady else {
            throw AgentError("an operation was committed without this member's lanes", exitCode: .bug)
        }
    }

    private func harm(_ group: Group, _ injury: Injury) {
        switch injury.kind {
        case .partition:
            let end = ContinuousClock.now + .seconds(injury.seconds)
            silentUntil = end
            endpoint.beSilent(until: end)
            group.injure(.silence(until: end))
        case .corrupt: group.injure(.damage)
        case .kill, .stop, .slow: break  // the agent does these from outside
        }
    }

    private func leave(_ group: Group, of plan: GenerationPlan, because error: CollectivesError) {
        if !isBehind { memberState = group.memberState }
        arrival = nil
        commands.onInterrupt(nil)
        group.close()
        bytesBefore += group.counters.bytesSent
        self.group = nil
        tell(error, of: plan)
    }

    private func tell(_ error: CollectivesError, of plan: GenerationPlan) {
        defer {
            let lost = error.ranks.first.map { plan.members[$0].member }
            desk.handle(.lost(plan.number, member: lost, reason: words(error, of: plan)))
            let missing = error.ranks.map { plan.members[$0].member }
            desk.handle(.openFailed(plan.number, missing: missing, reason: words(error, of: plan)))
        }
        guard commands.newest == plan.number else { return }  // the news came before the loss was felt
        // What the system refuses here is nobody else's doing: when it goes on so, the others go on without this one.
        let isOwn = error.code == .system && error.ranks.isEmpty
        let loss = TrainerReport.peerLost(
            generation: plan.number,
            member: isOwn ? start.member : error.ranks.first.map { plan.members[$0].member },
            isSilent: error.code == .peerSilent,
            reason: error.message
        )
        unheard = loss
        report(loss)
    }

    /// What happened, with hosts in the place of ranks.
    private func words(_ error: CollectivesError, of plan: GenerationPlan) -> String {
        let hosts = Set(error.ranks.map { plan.members[$0].host }).sorted().joined(separator: ", ")
        return hosts.isEmpty ? error.message : "lost \(hosts): \(error.message)"
    }

    /// Waits for the next generation; a loss that nobody answers is told again, ever more rarely.
    private func waitForGeneration() -> GenerationPlan {
        var patience = 2000
        while true {
            if let plan = commands.wait(newerThan: plan?.number ?? 0, milliseconds: patience) {
                unheard = nil
                return plan
            }
            if let unheard { report(unheard) }
            patience = min(patience * 2, 8000)
        }
    }

    /// Waits for a generation newer than the last and opens its links; tries the next one when that fails.
    private func enterNextGeneration() throws -> Resolution {
        while true {
            let plan = waitForGeneration()
            self.plan = plan
            guard let rank = plan.members.firstIndex(where: { $0.member == start.member }) else {
                throw AgentError(
                    "this trainer was expelled from the run",
                    hint: "the others go on without it"
                )
            }
            commands.onInterrupt { [endpoint, run = start.run] in
                endpoint.abandon(generation: UInt32(plan.number), of: run)
            }
            var options = options
            options.silenceLimit = plan.silenceLimit
            if !plan.overlaps { options.buckets = [] }
            options.sites = plan.sites(laneCount: laneCount)
            // A drill: nobody can be met before it is over.
            while let end = silentUntil, ContinuousClock.now < end { commands.rest(until: end) }
            do {
                let group = try Group.open(
                    endpoint: endpoint,
                    run: start.run,
                    generation: UInt32(plan.number),
                    rank: rank,
                    members: plan.members.enumerated().map {
                        Member(rank: $0.offset, address: $0.element.address, lanes: $0.element.lanes)
                    },
                    laneCount: laneCount,
                    secret: Redacted(plan.secret.bytes),
                    state: memberState,
                    deadline: .now + .seconds(10),
                    dials: plan.dialled(from: rank),
                    owners: Set(
                        plan.members.indices.filter { plan.owners.contains(plan.members[$0].member) }
                    ),
                    options: options,
                    isSilent: { [desk] rank in desk.isSilent(plan.members[rank], in: plan) },
                    onWait: { [report, commands] wait in
                        guard commands.newest == plan.number else { return }
                        report(
                            .late(
                                generation: plan.number,
                                members: wait.ranks.map { plan.members[$0].member },
                                milliseconds: Int(wait.duration / .milliseconds(1))
                            )
                        )
                    }
                )
                report(.confirmed(generation: plan.number, mark: plan.view.mark))
                guard desk.opened(plan.number) else {
                    // Nothing was done there: what was known before still holds.
                    commands.onInterrupt(nil)
                    group.close()
                    continue
                }
                commands.onInterrupt { group.abort("a newer generation was announced") }
                self.group = group
                lanes = plan.members[rank].lanes
                let givers = plan.members.indices.filter { !group.joiners.contains($0) }
                let giver = givers.first { plan.members[$0].member == plan.giver } ?? givers.first
                wantsState = !group.joiners.isEmpty && giver == rank
                if commands.newest > plan.number { group.abort("a newer generation was announced") }
                report(.joined(generation: plan.number, repeats: group.resolution == .recompute))
                // That it caught up in a generation before this one was heard by nobody.
                if plan.joiners.contains(start.member), !isBehind {
                    report(.caughtUp(generation: plan.number))
                }
                return group.resolution
            } catch {
                guard error.code != .diverged else { throw error }
                tell(error, of: plan)
            }
        }
    }
}

/// A generation ended before the state of the run had come that belongs to it: joining begins anew.
struct Overtaken: Error {}

extension PayloadCodec {
    /// How the values of a run's contributions travel.
    init(_ exchange: ExchangeSpec) {
        switch exchange.kind {
        case .sync, .powersgd: self = .exact
        case .bf16: self = .bf16
        case .int8, .diloco: self = .int8
        case .topk: self = .topK(fraction: exchange.fraction ?? 1)
        }
    }
}
