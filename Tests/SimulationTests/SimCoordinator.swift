import Basics
import Wire

@testable import Coordinator

/// The coordinator's process: `RunMachine` with connections to agents, and what the registry keeps of it.
final class SimCoordinator {
    static let run: RunID = {
        guard let run = RunID("20261121-101502-k3f9a") else { preconditionFailure("bad run id") }
        return run
    }()

    unowned let world: World
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
        case .finish: world.verdict = "finished"
        case .interrupt(let reason):
            world.note("coordinator: interrupted, \(reason)")
            world.verdict = "interrupted"
        case .fail(let message, _): world.verdict = "failed: \(message)"
        }
    }

    private func announce(_ plan: GenerationPlan) {
        announced = max(announced, plan.number)
        registered = plan
        self.plan = plan
        for host in sessions.indices { request(host) { $0.announce(plan) } }
    }

    /// Asks something of an agent; it waits in the connection while the way is cut, and is gone with it.
    private func request(_ host: Int, _ body: @escaping (SimAgent) -> Void) {
        let session = sessions[host]
        guard isAlive, session != 0 else { return }
        deliver(host, session, body)
    }

    private func deliver(_ host: Int, _ session: Int, _ body: @escaping (SimAgent) -> Void) {
        world.after(world.latency) { [self] in
            guard sessions[host] == session else { return }
            if world.isOpen(node, host) { body(world.agents[host]) } else { deliver(host, session, body) }
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
        let living = agent.members.filter(\.isAlive).reduce(into: [:]) { $0[$1.member] = "m\($1.member)" }
        feed(.returned(host: "h\(host)", members: living))
        if let plan { request(host) { $0.announce(plan) } }
        guard let machine else { return }
        for trainer in agent.members {
            if isNew {
                feed(.exited(member: trainer.member, end: ProcessEnd(.signalled(9))))
            } else if trainer.isAlive, machine.parkedFor == nil,
                machine.members[trainer.member]?.isActive == false
            {
                request(host) { $0.expel(trainer.member) }
            }
        }
    }

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
                        end: agent.ends[trainer.member]
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
            if world.agents[host].instance != 0 {
                for trainer in world.agents[host].members where !trainer.isAlive {
                    feed(.exited(member: trainer.member, end: ProcessEnd(.signalled(9))))
                }
            }
            instances[host] = world.agents[host].instance
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
