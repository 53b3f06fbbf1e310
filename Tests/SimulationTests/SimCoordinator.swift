import Basics
import Wire

@testable import Coordinator

/// The coordinator's process: `RunMachine` with connections to agents, and what the registry keeps of it.
final class SimCoordinator {
    static let run: RunID = {
        guard let run = RunID("20261121-101502-k3f9a") else { preconditionFailure("bad run id") }
        return run
    }()

    unowned(unsafe) let world: World
    private(set) var isAlive = true
    private var machine: RunMachine?
    /// In the registry: the highest number announced, the newest plan, and what was heard of each host.
    private var announced = 0
    private var registered: GenerationPlan?
    private var kept: Succession
    /// Reports that came before there was a machine.
    private var early: [(member: Int, report: TrainerReport)] = []
    private var cursors: [Int]
    private var instances: [Int]
    /// The plan in force, as this process knows it.
    private var plan: GenerationPlan?
    /// Which connection to a host is up; 0 = none.
    private var sessions: [Int]
    private var nextSession = 1
    private var life = 1
    private var asked: Set<Int> = []
    private var isStreaming: [Bool]
    private var secrets: SplitMix

    private var node: Int { world.shape.coordinatorHost }

    init(in world: World) {
        self.world = world
        kept = world.harness.succession
        let count = world.shape.hosts
        cursors = Array(repeating: 0, count: count)
        instances = Array(repeating: 0, count: count)
        sessions = (1...count).map { $0 }
        nextSession = count + 1
        isStreaming = Array(repeating: false, count: count)
        secrets = SplitMix(world.chance.next())
        machine = RunMachine(
            run: Self.run,
            attempt: 1,
            laneCount: world.shape.laneCount,
            hosts: world.shape.placement.map { "h\($0)" },
            anchors: (0..<count).map { "h\($0)" },
            succession: world.harness.succession,
            makeSecret: secretMaker()
        )
    }

    private func secretMaker() -> @Sendable () -> WireSecret {
        // The machine is a value that is copied: what it draws from must not be copied with it.
        let source = SecretSource(secrets.next())
        return { source.next() }
    }

    func begin() {
        for member in world.trainers.indices {
            world.after(world.random(0...200_000)) { [self] in
                feed(.listening(member: member, address: "m\(member)"))
            }
        }
    }

    // MARK: The machine

    private func feed(_ event: RunMachine.Event) {
        guard isAlive, var machine else { return }
        let actions = machine.handle(event, now: world.now)
        self.machine = machine
        kept = machine.succession
        for action in actions { perform(action) }
        if let deadline = machine.deadline {
            let parts = (deadline - world.now).components
            let wait = parts.seconds * 1_000_000 + parts.attoseconds / 1_000_000_000_000 + 1
            let mine = life
            world.after(wait) { [self] in if life == mine { feed(.tick) } }
        }
    }

    private func perform(_ action: RunMachine.Action) {
        switch action {
        case .announce(let plan, let reason):
            world.note("coordinator: generation \(plan.number) of \(plan.members.map(\.member)), \(reason)")
            announce(plan)
        case .adopt(let plan, _):
            world.note("coordinator adopts generation \(plan.number)")
            announce(plan)
        case .park(let reason): world.note("coordinator waits: \(reason)")
        case .expel(let member, let reason):
            world.note("coordinator expels \(member): \(reason)")
            request(world.trainers[member].host) { $0.expel(member) }
        case .start(let host): startAgain(on: host)
        case .note(let words): world.note("coordinator: \(words)")
        case .finish: world.verdict = "finished"
        case .interrupt(let reason):
            world.note("coordinator: interrupted, \(reason)")
            world.verdict = "interrupted"
        case .fail(let message, _): world.verdict = "failed: \(message)"
        }
    }

    /// As `Coordinator.startAgain`: on a host that can be reached and has a lane for it.
    private func startAgain(on name: String) {
        guard let machine, let host = sessions.indices.first(where: { "h\($0)" == name }) else { return }
        guard sessions[host] != 0 else { return feed(.lacks(host: name, isReachable: false)) }
        let active = machine.members.values.filter(\.isActive)
        guard active.count < world.shape.laneCount,
            active.count(where: { $0.host == name }) < workers(of: host)
        else { return }
        start(on: host, isBack: true)
    }

    /// As `Coordinator.joinAfterRest`: a host with a new agent helps again.
    private func joinAfterRest(_ host: Int) {
        guard let rest = machine.map({ $0.cooldown.end("h\(host)", at: world.now) - world.now }) else {
            return
        }
        let mine = life
        world.after(max(0, Int64(rest / .microseconds(1)))) { [self] in
            guard life == mine, let machine, sessions[host] != 0 else { return }
            let room = world.shape.laneCount - machine.members.values.count(where: \.isActive)
            let count = min(room, workers(of: host))
            guard count > 0 else { return }
            feed(.routing)
            for _ in 0..<count { start(on: host) }
            world.after(world.random(10_000...400_000)) { [self] in
                if life == mine { feed(.routed([], here: [])) }
            }
        }
    }

    private func start(on host: Int, isBack: Bool = false) {
        guard let machine, world.verdict == nil else { return }
        let member = machine.nextMember
        guard member == world.trainers.count else {
            return world.fail("number \(member) is given to a second process, or one is left out")
        }
        world.note("member \(member) is started on host \(host)")
        world.trainers.append(
            SimTrainer(member, host: host, in: world, seed: world.chance.next(), joins: true)
        )
        feed(.joining(member: member, host: "h\(host)", isBack: isBack))
        let mine = life
        request(
            host,
            orElse: { [self] in
                guard life == mine else { return }
                feed(.exited(member: member, end: ProcessEnd(.exited(1))))
                if isBack { feed(.lacks(host: "h\(host)", isReachable: false)) }
            }
        ) { $0.start(member) }
    }

    private func workers(of host: Int) -> Int { world.shape.placement.count { $0 == host } }

    /// As `Coordinator.joining(in:)`.
    private func joining(in generation: Int) -> [Int] {
        guard let machine, let plan, plan.number == generation else { return [] }
        return plan.members.map(\.member).filter { machine.members[$0]?.joins == true }
    }

    /// Brings something to those who join in a generation, as `Coordinator.hand` and `supply`.
    private func hand(_ generation: Int, after wait: World.Time, _ give: @escaping (SimTrainer) -> Void) {
        let mine = life
        world.after(wait) { [self] in
            guard life == mine else { return }
            for member in joining(in: generation) {
                request(
                    world.trainers[member].host,
                    orElse: { [self] in
                        guard life == mine, joining(in: generation).contains(member) else { return }
                        feed(.unsupplied(member: member, reason: "it could not be given the state"))
                    }
                ) { [world] agent in
                    guard agent.isAlive else { return }
                    let trainer = world.trainers[member]
                    trainer.act { give(trainer) }
                }
            }
        }
    }

    private func announce(_ plan: GenerationPlan) {
        announced = max(announced, plan.number)
        registered = plan
        self.plan = plan
        for host in sessions.indices { request(host) { $0.announce(plan) } }
    }

    /// Asks something of an agent; it waits in the connection while the way is cut, and is gone with it.
    private func request(
        _ host: Int,
        orElse failed: @escaping () -> Void = {},
        _ body: @escaping (SimAgent) -> Void
    ) {
        let session = sessions[host]
        guard isAlive else { return }
        guard session != 0 else { return failed() }
        deliver(host, session, failed, body)
    }

    private func deliver(
        _ host: Int,
        _ session: Int,
        _ failed: @escaping () -> Void,
        _ body: @escaping (SimAgent) -> Void
    ) {
        world.after(world.latency) { [self] in
            guard sessions[host] == session else { return failed() }
            if world.isOpen(node, host) {
                body(world.agents[host])
            } else {
                deliver(host, session, failed, body)
            }
        }
    }

    // MARK: Events

    /// Brings what an agent has kept, in order.
    func stream(from host: Int) {
        guard isAlive, sessions[host] != 0, !isStreaming[host] else { return }
        guard cursors[host] < world.agents[host].spool.count else { return }
        isStreaming[host] = true
        let (session, mine) = (sessions[host], life)
        world.after(world.latency) { [self] in
            guard life == mine else { return }
            isStreaming[host] = false
            guard isAlive, sessions[host] == session else { return }
            if world.isOpen(host, node) {
                let event = world.agents[host].spool[cursors[host]]
                cursors[host] += 1
                heard(event.member, event.report)
            }
            stream(from: host)
        }
    }

    private func heard(_ member: Int, _ report: TrainerReport) {
        guard machine != nil else {
            // In one transaction with the event, as in `Coordinator.keep`.
            kept.note(report, of: member)
            early.append((member, report))
            return
        }
        switch report {
        case .peerLost(let generation, let lost, let isSilent, let reason):
            feed(
                .peerLost(
                    reporter: member,
                    generation: generation,
                    member: lost,
                    isSilent: isSilent,
                    reason: reason
                )
            )
        case .listening(let address, _, _): feed(.listening(member: member, address: address))
        case .standing(let generation, let standing):
            let operation = UInt64(standing) ?? 0
            hand(generation, after: 0) { $0.put(standing: operation, generation) }
        case .state(let generation, let manifest):
            let state = world.states[Int(manifest.raw[0]) | Int(manifest.raw[1]) << 8]
            hand(generation, after: world.random(5_000...2_000_000)) { $0.put(state: state, generation) }
        case .caughtUp(let generation): feed(.caughtUp(member: member, generation: generation))
        case .failed(let message, let hint): feed(.failed(member: member, message: message, hint: hint))
        case .exited(let end): feed(.exited(member: member, end: end))
        case .pace(let generation, let pace): feed(.pace(member: member, generation: generation, pace))
        case .late(let generation, let late, let milliseconds):
            let waited = Duration.milliseconds(milliseconds)
            feed(.late(reporter: member, generation: generation, members: late, waited))
        case .accepted(let plan, let reason): feed(.accepted(plan, by: member, reason: reason))
        case .refused(let generation, let mark, let promised, _):
            feed(.refused(member: member, generation: generation, mark: mark, promised: promised))
        case .opening(let generation, let mark):
            feed(.opening(member: member, generation: generation, mark: mark))
        case .confirmed(let generation, let mark): feed(.confirmed(generation: generation, mark: mark))
        default: break
        }
    }

    // MARK: Connections

    /// Looks now and then whether connections that are silent are dead.
    func watch() {
        world.after(1_000_000) { [self] in
            for host in sessions.indices {
                let isUp = world.agents[host].isAlive && world.isOpen(node, host) && world.isOpen(host, node)
                if sessions[host] != 0, !isUp, world.happens(25) { disconnected(host) }
                if sessions[host] == 0, isUp, isAlive { connect(host) }
            }
            watch()
        }
    }

    func disconnected(_ host: Int) {
        guard sessions[host] != 0 else { return }
        sessions[host] = 0
        isStreaming[host] = false
        let agent = world.agents[host]
        world.after(world.random(1_000...2_000_000)) { [self] in
            if sessions[host] == 0 { agent.coordinated(false) }
        }
    }

    func connect(_ host: Int) {
        let mine = life
        world.after(world.random(100_000...800_000)) { [self] in
            let agent = world.agents[host]
            guard isAlive, life == mine, sessions[host] == 0, agent.isAlive, world.isOpen(node, host),
                world.isOpen(host, node)
            else { return }
            sessions[host] = nextSession
            nextSession += 1
            asked.insert(host)
            agent.coordinated(true)
            isBack(host)
            stream(from: host)
        }
    }

    private func isBack(_ host: Int) {
        let agent = world.agents[host]
        let isNew = instances[host] != agent.instance
        guard machine != nil else { return takeUp() }
        instances[host] = agent.instance
        // What an agent that is gone had kept comes first: its trainers' last words are there.
        if isNew {
            while cursors[host] < agent.spool.count {
                let event = agent.spool[cursors[host]]
                cursors[host] += 1
                heard(event.member, event.report)
            }
        }
        feed(returned(agent))
        if let plan { request(host) { $0.announce(plan) } }
        guard isNew else { return }
        for trainer in agent.members { feed(.exited(member: trainer.member, end: Self.agentEnded)) }
        joinAfterRest(host)
    }

    private func returned(_ agent: SimAgent) -> RunMachine.Event {
        let living = agent.members.filter(\.isAlive)
        return .returned(
            host: "h\(agent.host)",
            members: living.reduce(into: [:]) { $0[$1.member] = "m\($1.member)" },
            joining: Set(living.filter(\.lacksState).map(\.member))
        )
    }

    /// What is said of a trainer that its host's new agent knows nothing of.
    private static let agentEnded = ProcessEnd(.signalled(9), cause: "its agent has ended")

    // MARK: Life

    func crash(for duration: World.Time) {
        guard isAlive else { return }
        world.note("the coordinator is killed")
        isAlive = false
        life += 1
        machine = nil
        early = []
        plan = nil
        isStreaming = Array(repeating: false, count: sessions.count)
        for host in sessions.indices where sessions[host] != 0 {
            // The kernel closes its connections, unless the news can't get through.
            let isOpen = world.isOpen(node, host)
            sessions[host] = 0
            world.after(isOpen ? world.latency : world.random(2_000_000...15_000_000)) { [self] in
                if sessions[host] == 0 { world.agents[host].coordinated(false) }
            }
        }
        world.after(duration) { [self] in restart() }
    }

    func restart() {
        guard !isAlive else { return }
        world.note("the coordinator is back")
        isAlive = true
        life += 1
        asked = []
        for host in sessions.indices { connect(host) }
        let mine = life
        // Hosts that don't answer by then are taken to be unreachable.
        world.after(3_000_000) { [self] in if life == mine, machine == nil { takeUp(isLate: true) } }
    }

    private func takeUp(isLate: Bool = false) {
        guard isAlive, machine == nil, isLate || asked.count == sessions.count else { return }
        let agents = asked.sorted().map { world.agents[$0] }
        // What a host had kept comes first.
        guard
            agents.allSatisfy({ !$0.isAlive || cursors[$0.host] >= $0.spool.count || sessions[$0.host] == 0 })
        else {
            let mine = life
            world.after(10_000) { [self] in if life == mine { takeUp(isLate: isLate) } }
            return
        }
        let told = agents.compactMap(\.newest).max { $0.number < $1.number }
        let newest = world.harness.reconciles ? told : registered
        guard let newest else {
            // Nobody who can be asked knows of one; only hosts that can't be asked may, as in `Coordinator.takeUp`.
            if asked.count == sessions.count {
                for trainer in world.trainers where trainer.isAlive { trainer.kill() }
                world.verdict = "interrupted"
            } else {
                let mine = life
                world.after(1_000_000) { [self] in if life == mine { takeUp(isLate: true) } }
            }
            return
        }
        let trainers = agents.flatMap { agent in
            agent.members.compactMap { trainer -> (host: String, trainer: AgentStatus.Trainer)? in
                // A new agent knows nothing of the trainers of the one before.
                guard agent.instance == 0 || trainer.isAlive else { return nil }
                return (
                    "h\(agent.host)",
                    AgentStatus.Trainer(
                        run: Self.run,
                        attempt: 1,
                        member: trainer.member,
                        pid: trainer.isAlive ? 7 : nil,
                        address: "m\(trainer.member)",
                        isFinished: false,
                        end: agent.ends[trainer.member],
                        joins: trainer.lacksState
                    )
                )
            }
        }
        machine = RunMachine(
            run: Self.run,
            attempt: 1,
            laneCount: world.shape.laneCount,
            trainers: trainers,
            plan: newest,
            announced: announced,
            anchors: (0..<sessions.count).map { "h\($0)" },
            succession: world.harness.reconciles ? kept : world.harness.succession,
            makeSecret: secretMaker()
        )
        plan = newest
        world.note("coordinator takes up generation \(newest.number)")
        for (member, report) in early { heard(member, report) }
        early = []
        for host in sessions.indices { request(host) { $0.announce(newest) } }
        for (_, trainer) in trainers {
            if let end = trainer.end { feed(.exited(member: trainer.member, end: end)) }
        }
        for host in asked.sorted() {
            let agent = world.agents[host]
            // As `Coordinator.missThoseBefore`: what an agent does not know has ended, or never began.
            for trainer in world.trainers where trainer.host == host {
                guard !trainer.isStarted || agent.instance != 0 && !trainer.isAlive else { continue }
                feed(.exited(member: trainer.member, end: Self.agentEnded))
            }
            instances[host] = agent.instance
        }
        for agent in agents { feed(returned(agent)) }
        // As `Coordinator.missTrainersBefore`.
        if let machine,
            machine.members.contains(where: { $0.value.joins && !machine.planned.contains($0.key) })
        {
            feed(.routing)
            feed(.routed([], here: []))
        }
        for host in asked.sorted() where sessions[host] != 0 {
            let working = machine?.members.values.count { $0.host == "h\(host)" && $0.isActive } ?? 0
            for _ in 0..<max(0, workers(of: host) - working) {
                feed(.lacks(host: "h\(host)", isReachable: true))
            }
        }
    }
}

/// Secrets that nobody else draws.
private final class SecretSource: @unchecked Sendable {
    // Safety: the world has one thread.
    private var generator: SplitMix
    init(_ seed: UInt64) { generator = SplitMix(seed) }
    func next() -> WireSecret {
        let number = generator.next()
        return WireSecret((0..<8).map { UInt8(truncatingIfNeeded: number >> UInt64(8 * $0)) })
    }
}
