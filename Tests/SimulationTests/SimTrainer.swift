import Basics
import Wire

@testable import Collectives

/// A generation at one member: its links, and the operation that is exchanged.
final class SimGroup {
    let proposal: GenerationProposal
    let rank: Int
    /// What the members said of themselves when they met.
    var states: [Int: MemberState] = [:]
    var isRunning = false
    var operation: UInt64 = 0
    var ledger: OperationLedger
    var isComputed = false
    /// The sums of the segments, by owner.
    var sums: [UInt64?]
    /// What came for the own segment, by member.
    var contributed: [UInt64]
    /// Frames of an operation that has not begun here.
    var early: [SimFrame] = []
    var readies = 0
    var hasCommitted = false
    var watch: SilenceWatch
    var lateness: LatenessWatch

    var view: GenerationView { proposal.view }
    var count: Int { proposal.view.members.count }

    init(_ proposal: GenerationProposal, rank: Int, state: MemberState, now: ContinuousClock.Instant) {
        self.proposal = proposal
        self.rank = rank
        let count = proposal.view.members.count
        sums = Array(repeating: nil, count: count)
        contributed = Array(repeating: 0, count: count)
        ledger = OperationLedger(
            rank: rank,
            shape: OperationShape(elements: 0, width: 0),
            subtreeCounts: [1],
            laneCounts: [1],
            owners: [true]
        )
        watch = SilenceWatch(members: count, limit: .seconds(1), now: now)
        lateness = LatenessWatch(now: now)
        states[rank] = state
    }
}

/// A trainer process: the membership machine, what it knows of the operations, and its group.
final class SimTrainer {
    /// How long the members of a generation have to meet.
    private static let meetingLimit: World.Time = 10_000_000

    let member: Int
    let host: Int
    unowned(unsafe) let world: World
    var machine: MembershipMachine
    var state = MemberState()
    /// The content of the retained result.
    var retained: UInt64 = 0
    var group: SimGroup?
    var isAlive: Bool
    /// False until its agent started it.
    private(set) var isStarted: Bool
    private(set) var began: World.Time = 0
    /// True while a member that came later has no state of the run, as `NetworkExchange.isBehind`.
    private(set) var lacksState: Bool
    /// What a member that joins kept of the operations since where the run stood; nil before it knows that.
    private var backlog: (begins: UInt64, contents: [UInt64])?
    /// What came for those who join in a generation.
    private var standing: (generation: Int, operation: UInt64)?
    private var copy: (generation: Int, state: SimState)?
    /// Its memory does not do for that: it takes part only with the state.
    private let hasRoom: Bool
    /// What was applied so far: it differs when anything differs.
    private var weights: UInt64 = 0
    private(set) var isStopped = false
    private var inbox: [() -> Void] = []
    /// One direction of a link delivers in order.
    private var linkFree: [Int: World.Time] = [:]
    private var tickAt: World.Time?
    private var lastLoss: (generation: Int, member: Int?, isSilent: Bool)?
    /// Plans by their mark that came from the agent.
    private var announced: [UInt64: GenerationPlan] = [:]

    init(_ member: Int, host: Int, in world: World, seed: UInt64, joins: Bool = false) {
        lacksState = joins
        (isAlive, isStarted) = (!joins, !joins)
        hasRoom = !joins || world.happens(80)
        if joins { state = .joining }
        self.member = member
        self.host = host
        self.world = world
        machine = MembershipMachine(
            member: member,
            joins: joins,
            laneCount: world.shape.laneCount,
            seed: seed,
            rules: world.harness.rules
        )
    }

    private var agent: SimAgent { world.agents[host] }

    // MARK: The process

    /// Does something now, or when the process is continued.
    func act(_ body: @escaping () -> Void) {
        guard isAlive else { return }
        if isStopped { inbox.append(body) } else { body() }
    }

    /// Its agent starts it.
    func start() { (isAlive, isStarted, began) = (true, true, world.time) }

    func stop(for duration: World.Time) {
        guard isAlive, !isStopped else { return }
        world.note("member \(member) is stopped")
        isStopped = true
        world.after(duration) { [self] in
            isStopped = false
            world.note("member \(member) continues")
            let waiting = inbox
            inbox = []
            for body in waiting { act(body) }
        }
    }

    func kill(_ end: ProcessEnd = ProcessEnd(.signalled(9))) {
        guard isAlive else { return }
        world.note("member \(member) is ended, \(end)")
        isAlive = false
        let old = group
        group = nil
        if let old { tell(old, .bye, afterDeath: true) }
        world.after(world.random(1_000...30_000)) { [self] in agent.ended(member, end) }
    }

    /// An event for the membership machine.
    func feed(_ event: MembershipMachine.Event) {
        let effects = machine.handle(event, now: world.now)
        for effect in effects { perform(effect) }
        armTick()
    }

    private func armTick() {
        guard let deadline = machine.deadline else { return }
        let parts = (deadline - world.now).components
        let wait = max(0, parts.seconds * 1_000_000 + parts.attoseconds / 1_000_000_000_000 + 1)
        let due = world.time + wait
        if let tickAt, tickAt >= world.time, tickAt <= due { return }
        tickAt = due
        world.after(wait) { [self] in
            if tickAt == due { tickAt = nil }
            act { self.feed(.tick) }
        }
    }

    private func perform(_ effect: MembershipMachine.Effect) {
        switch effect {
        case .send(let other, let message):
            let to = world.trainers[other]
            world.post(from: host, to: to.host) { [member] in
                to.act { to.feed(.received(from: member, message)) }
            }
        case .record(let proposal):
            if announced[proposal.view.mark] != nil {
                agent.report(member, .opening(generation: proposal.view.number, mark: proposal.view.mark))
            } else {
                agent.accepted(member, proposal)
            }
        case .open(let proposal): open(proposal)
        case .abandon(let number): if group?.view.number == number { leave() }
        case .enter: enter()
        case .refuse(let view, let promised, let reason):
            world.note("member \(member) refuses \(view.number): \(reason)")
            agent.report(
                member,
                .refused(generation: view.number, mark: view.mark, promised: promised, reason: reason)
            )
        case .park(let reason): world.note("member \(member) waits: \(reason)")
        }
    }

    func received(_ plan: GenerationPlan) {
        announced[plan.view.mark] = plan
        guard plan.members.contains(where: { $0.member == member }), let basis = plan.basis else { return }
        feed(.announced(GenerationProposal(view: plan.view, basis: basis, reason: "")))
    }

    // MARK: Meeting

    private func open(_ proposal: GenerationProposal) {
        leave()
        guard let rank = proposal.view.members.firstIndex(where: { $0.member == member }) else { return }
        world.note("member \(member) opens \(proposal.view.number) of \(proposal.view.ids.sorted())")
        let group = SimGroup(proposal, rank: rank, state: state, now: world.now)
        self.group = group
        lastLoss = nil
        knock(group)
        world.after(Self.meetingLimit) { [self] in
            act {
                guard self.group === group, !group.isRunning else { return }
                let missing = group.view.members.indices.filter { group.states[$0] == nil }
                    .map { group.view.members[$0].member }
                self.broke(group, lost: missing.first, isSilent: false, failedToOpen: missing)
            }
        }
        lookOut(group)
        meet(group)
    }

    /// Looks for those who will never come, as `Lookout` does: whose process is stopped or who can't be reached.
    private func lookOut(_ group: SimGroup) {
        world.after(1_100_000) { [self] in
            act {
                guard self.group === group, !group.isRunning else { return }
                let missing = group.view.members.indices.filter { group.states[$0] == nil }
                    .map { group.view.members[$0].member }
                let silent = missing.filter { member in
                    let other = self.world.trainers[member]
                    return other.isStopped || !self.world.isOpen(other.host, self.host)
                        || !self.world.isOpen(self.host, other.host)
                }
                if let first = silent.first {
                    self.broke(group, lost: first, isSilent: true, failedToOpen: silent)
                } else {
                    self.lookOut(group)
                }
            }
        }
    }

    /// Says who it is to those who have not answered, again and again.
    private func knock(_ group: SimGroup) {
        guard isAlive, self.group === group, !group.isRunning else { return }
        for rank in group.view.members.indices where rank != group.rank && group.states[rank] == nil {
            send(group, .hello(group.states[group.rank] ?? state), to: rank)
        }
        world.after(100_000) { [self] in act { self.knock(group) } }
    }

    private func meet(_ group: SimGroup) {
        guard !group.isRunning, group.states.count == group.count else { return }
        let states = group.view.members.indices.map { group.states[$0] ?? MemberState() }
        do {
            let decided = try Resolution.decide(rank: group.rank, states: states)
            if decided.resolution == .commitReady { commit(state.committed) }
            state = decided.state
            agent.report(member, .confirmed(generation: group.view.number, mark: group.view.mark))
            feed(.opened(group.view.number))
        } catch {
            world.fail("member \(member) in generation \(group.view.number): \(error.message)")
        }
    }

    private func enter() {
        guard let group else { return }
        world.note("member \(member) works in \(group.view.number), operation \(state.committed)")
        group.isRunning = true
        group.operation = state.committed
        group.watch = SilenceWatch(members: group.count, limit: .seconds(1), now: world.now)
        if lacksState, !world.harness.waitsForState { didCatchUp(group.view.number) }
        let plan = announced[group.view.mark]
        if plan?.joiners.contains(member) == true, !lacksState {
            agent.report(member, .caughtUp(generation: group.view.number))
        }
        let givers = group.view.members.indices.filter { group.states[$0]?.isJoining != true }
        let giver = givers.first { group.view.members[$0].member == plan?.giver } ?? givers.first
        if givers.count < group.count, giver == group.rank { give(group.view.number) }
        begin(group)
        hear()
        look(group)
    }

    // MARK: Joining

    /// Copies the state for those who join, as `NetworkExchange.take(state:)`.
    private func give(_ generation: Int) {
        world.note("member \(member) gives the state in generation \(generation)")
        let copy = world.keep(SimState(operation: state.committed, weights: weights))
        agent.report(member, .standing(generation: generation, "\(state.committed)"))
        world.after(world.random(5_000...300_000)) { [self] in
            act { self.agent.report(self.member, .state(generation: generation, manifest: digest(copy))) }
        }
    }

    /// Where the run stands has come, for those who join in a generation; as `CommandBox` keeps it.
    func put(standing operation: UInt64, _ generation: Int) {
        world.note("member \(member) hears that generation \(generation) stands at \(operation)")
        guard generation >= standing?.generation ?? 0 else { return }
        standing = (generation, operation)
        hear()
    }

    /// The state that belongs to it has come.
    func put(state: SimState, _ generation: Int) {
        world.note("member \(member) gets the state of generation \(generation)")
        guard generation >= copy?.generation ?? 0 else { return }
        copy = (generation, state)
        hear()
    }

    /// Takes part once it is known where the run stands, and applies what it kept since to the state once that is here.
    private func hear() {
        guard lacksState, let group, group.isRunning else { return }
        let number = group.view.number
        if backlog == nil, let standing, standing.generation == number {
            guard standing.operation == state.committed else {
                return world.fail("member \(member) joins at \(state.committed), not \(standing.operation)")
            }
            backlog = (standing.operation, [])
            if hasRoom { compute(group) }
        }
        guard let backlog, let copy, copy.generation == number else { return }
        guard copy.state.operation == backlog.begins else {
            return world.fail("member \(member) was given the state of another operation")
        }
        weights = backlog.contents.reduce(copy.state.weights, SimState.apply)
        didCatchUp(number)
        if !hasRoom { compute(group) }
    }

    private func didCatchUp(_ generation: Int) {
        world.note("member \(member) has caught up in \(generation)")
        lacksState = false
        backlog = nil
        feed(.committed(generation))
        agent.report(member, .caughtUp(generation: generation))
    }

    /// True while the others can't go on without something that only a coordinator brings.
    var waitsForCoordinator: Bool {
        lacksState && (group?.isRunning ?? false) && (backlog == nil || !hasRoom)
    }

    /// Applies the result of an operation, or keeps it.
    private func commit(_ operation: UInt64) {
        world.commits(member, operation, retained)
        if lacksState {
            backlog?.contents.append(retained)
        } else {
            weights = SimState.apply(weights, retained)
        }
    }

    // MARK: An operation

    private func begin(_ group: SimGroup) {
        let view = group.view
        let subtrees = view.members.map { $0.lanes.subtrees(laneCount: world.shape.laneCount).count }
        group.ledger = OperationLedger(
            rank: group.rank,
            shape: OperationShape(elements: 16 * group.count, width: 1),
            subtreeCounts: subtrees,
            laneCounts: view.members.map(\.lanes.count),
            owners: Array(repeating: true, count: group.count)
        )
        group.isComputed = false
        group.readies = 0
        group.sums = Array(repeating: nil, count: group.count)
        group.contributed = Array(repeating: 0, count: group.count)
        let early = group.early
        group.early = []
        for frame in early { take(frame, group) }
        if lacksState, backlog == nil || !hasRoom { return }
        compute(group)
    }

    /// Computes this member's lanes of an operation.
    private func compute(_ group: SimGroup) {
        let operation = group.operation
        // Now and then a lane takes long, and the others may take it over.
        let takes = world.happens(2) ? world.random(500_000...6_000_000) : world.random(20_000...250_000)
        world.after(takes) { [self] in
            act {
                guard self.group === group, group.operation == operation, !group.isComputed else { return }
                let lanes = group.view.members[group.rank].lanes.count
                if lanes > 0, self.world.happens(10) {
                    let pace = LanePace(threads: 1, lanes: lanes, seconds: Double(takes) * 1e-6)
                    self.agent.report(self.member, .pace(generation: group.view.number, pace))
                }
                self.contribute(group)
            }
        }
    }

    private func contribute(_ group: SimGroup) {
        state.begin()
        group.isComputed = true
        let lanes = group.view.members[group.rank].lanes
        if !lanes.isEmpty, weights != world.weights(after: group.operation) {
            return world.fail("member \(member) computes lanes without the state of the run")
        }
        let subtrees = lanes.subtrees(laneCount: world.shape.laneCount)
        for rank in group.view.members.indices where rank != group.rank {
            if !lanes.isEmpty { send(group, .part(.laneValues, value: 0), to: rank) }
            for subtree in subtrees {
                let value = subtree.lanes.reduce(UInt64(0)) { $0 &+ token(group.operation, $1) }
                send(group, .part(.contribution, value: value), to: rank)
            }
        }
        advance(group)
    }

    private func advance(_ group: SimGroup) {
        guard group.isRunning, group.isComputed else { return }
        while group.ledger.ask({ $0.summablePiece }) != nil {
            let own = group.view.members[group.rank].lanes.lanes
                .reduce(UInt64(0)) { $0 &+ token(group.operation, $1) }
            let sum = group.contributed.reduce(own, &+)
            group.sums[group.rank] = sum
            group.ledger.summed()
            for rank in group.view.members.indices where rank != group.rank {
                send(group, .part(.result, value: sum), to: rank)
            }
        }
        if group.ledger.ask({ $0.readyDigests[group.rank] == nil && $0.isComplete }) {
            let expected = (0..<world.shape.laneCount).reduce(UInt64(0)) { $0 &+ token(group.operation, $1) }
            if let wrong = group.sums.firstIndex(where: { $0 != expected }) {
                world.fail(
                    "a lane was lost or counted twice in operation \(group.operation), segment \(wrong)"
                )
                return
            }
            // With lossy sums a result depends on who exchanged it, so the generation belongs to the content.
            retained = expected &+ group.operation &* 31 &+ group.view.mark
            state.becomeReady(digest(retained))
            _ = group.ledger.ready(group.rank, digest(retained))
            group.readies += 1
            for rank in group.view.members.indices where rank != group.rank {
                send(group, .ready(retained), to: rank)
            }
        }
        conclude(group)
    }

    private func conclude(_ group: SimGroup) {
        switch group.ledger.ask({ world.harness.verdict($0, group.readies) }) {
        case .open: return
        case .diverged(let ranks): world.fail("ranks \(ranks) hold other results of \(group.operation)")
        case .commit:
            guard state.retained != nil else { return }
            commit(group.operation)
            state.commit()
            if !group.hasCommitted, !lacksState {
                group.hasCommitted = true
                feed(.committed(group.view.number))
            }
            guard self.group === group else { return }
            group.operation += 1
            begin(group)
        }
    }

    // MARK: Links

    private func send(_ group: SimGroup, _ body: SimFrame.Body, to rank: Int, afterDeath: Bool = false) {
        guard isAlive || afterDeath else { return }
        let frame = SimFrame(
            generation: group.view.number,
            mark: group.view.mark,
            sender: member,
            operation: group.operation,
            body: body
        )
        let other = world.trainers[group.view.members[rank].member]
        let due = max(linkFree[other.member] ?? 0, world.time + world.latency)
        linkFree[other.member] = due
        deliver(frame, to: other, group, at: due)
    }

    /// A stream holds back what can't go now, until the link is given up.
    private func deliver(_ frame: SimFrame, to other: SimTrainer, _ group: SimGroup, at due: World.Time) {
        world.after(due - world.time) { [self] in
            if world.isOpen(host, other.host) {
                other.act { other.arrived(frame) }
            } else if self.group === group {
                let later = max(linkFree[other.member] ?? 0, world.time + 200_000)
                linkFree[other.member] = later
                deliver(frame, to: other, group, at: later)
            }
        }
    }

    private func tell(_ group: SimGroup, _ body: SimFrame.Body, afterDeath: Bool = false) {
        for rank in group.view.members.indices where rank != group.rank {
            send(group, body, to: rank, afterDeath: afterDeath)
        }
    }

    private func arrived(_ frame: SimFrame) {
        guard let group, world.harness.accepts(frame, group),
            let rank = group.view.members.firstIndex(where: { $0.member == frame.sender })
        else { return }
        if case .hello(let said) = frame.body {
            if group.states[rank] == nil { group.states[rank] = said }
            if group.isRunning {
                // The other side has not heard our word yet.
                if let own = group.states[group.rank] { send(group, .hello(own), to: rank) }
            } else {
                meet(group)
            }
            return
        }
        if case .bye = frame.body {
            guard group.isRunning else { return }
            // Its last word on the running operation may be here already: that one still completes.
            if group.ledger.ask({ $0.readyDigests[rank] }) == nil || !group.isComputed {
                broke(group, lost: frame.sender, isSilent: false)
            } else {
                world.after(200_000) { [self] in
                    act { self.broke(group, lost: frame.sender, isSilent: false) }
                }
            }
            return
        }
        guard group.isRunning, frame.operation == group.operation else {
            if frame.operation >= group.operation { group.early.append(frame) }
            return
        }
        take(frame, group)
    }

    private func take(_ frame: SimFrame, _ group: SimGroup) {
        guard let rank = group.view.members.firstIndex(where: { $0.member == frame.sender }) else { return }
        guard frame.operation == group.operation else {
            if frame.operation > group.operation { group.early.append(frame) }
            return
        }
        group.watch.heard(rank, at: world.now)
        switch frame.body {
        case .part(let part, let value):
            guard group.ledger.ask({ $0.next(part, from: rank) }) != nil else { return }
            if part == .contribution { group.contributed[rank] &+= value }
            if part == .result { group.sums[rank] = value }
            group.ledger.received(part, from: rank)
        case .ready(let content):
            group.readies += 1
            _ = group.ledger.ready(rank, digest(content))
        case .hello, .bye: return
        }
        advance(group)
    }

    /// Looks for silence, as the group's thread does more often.
    private func look(_ group: SimGroup) {
        guard isAlive, self.group === group, group.isRunning else { return }
        for (rank, peer) in group.view.members.enumerated() where rank != group.rank {
            let other = world.trainers[peer.member]
            let isThere = other.isAlive && !other.isStopped && other.group?.view == group.view
            if isThere, world.isOpen(other.host, host) { group.watch.heard(rank, at: world.now) }
        }
        let awaited = group.isComputed ? group.ledger.ask({ $0.awaited }) : []
        if let silent = group.watch.look(awaited: awaited, at: world.now).first {
            broke(group, lost: group.view.members[silent].member, isSilent: true)
            return
        }
        let late = group.view.members.indices.filter { rank in
            rank != group.rank && !group.view.members[rank].lanes.isEmpty
                && group.ledger.ask({ $0.next(.laneValues, from: rank) }) != nil
        }
        let operation = group.isComputed ? group.operation : nil
        if let waited = group.lateness.look(operation: operation, late: late, at: world.now) {
            agent.report(
                member,
                .late(
                    generation: group.view.number,
                    members: late.map { group.view.members[$0].member },
                    milliseconds: Int(waited / .milliseconds(1))
                )
            )
        }
        world.after(200_000) { [self] in act { self.look(group) } }
    }

    /// The link to another member ends, as by a reset or a frame that fails its checksum.
    func linkBreaks(to other: Int) {
        guard let group, group.isRunning, group.view.ids.contains(other) else { return }
        broke(group, lost: other, isSilent: false)
    }

    private func broke(_ group: SimGroup, lost: Int?, isSilent: Bool, failedToOpen: [Int]? = nil) {
        guard self.group === group else { return }
        let number = group.view.number
        world.note(
            "member \(member) leaves \(number): lost \(lost.map(String.init) ?? "?")\(isSilent ? " (silent)" : "")"
        )
        leave()
        lastLoss = (number, lost, isSilent)
        report(number, patience: 2_000_000)
        if let failedToOpen {
            feed(.openFailed(number, missing: failedToOpen, reason: "not all came"))
        } else {
            feed(.lost(number, member: lost, reason: "lost \(lost ?? -1)"))
        }
    }

    /// Tells a loss until somebody answers.
    private func report(_ number: Int, patience: World.Time) {
        guard isAlive, group == nil, let loss = lastLoss, loss.generation == number else { return }
        agent.report(
            member,
            .peerLost(generation: number, member: loss.member, isSilent: loss.isSilent, reason: "lost")
        )
        world.after(patience) { [self] in
            act { self.report(number, patience: min(patience * 2, 8_000_000)) }
        }
    }

    private func leave() {
        guard let old = group else { return }
        group = nil
        // Who was given nothing yet has nothing, whatever the others counted.
        state = lacksState ? .joining : world.harness.keep(state)
        backlog = nil
        tell(old, .bye)
    }
}

extension OperationLedger {
    /// Answers a question where it is: what asks a property of an object takes a copy of it, five arrays each time.
    fileprivate mutating func ask<Answer>(_ question: (OperationLedger) -> Answer) -> Answer {
        question(self)
    }
}
