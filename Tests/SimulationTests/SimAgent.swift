import Basics
import Wire

@testable import Collectives

/// An agent: what it keeps of its trainers, and what the coordinator is told in order.
final class SimAgent {
    let host: Int
    unowned(unsafe) let world: World
    var isAlive = true
    /// Rises with each agent on the host.
    private(set) var instance = 0
    /// Reports that outlive the agent, in order.
    private(set) var spool: [(member: Int, report: TrainerReport)] = []
    private(set) var newest: GenerationPlan?
    private(set) var ends: [Int: ProcessEnd] = [:]
    private var words: [Int: [GenerationView]] = [:]
    private(set) var isCoordinated = true
    /// Since when nobody coordinates.
    private var aloneSince: World.Time?

    init(_ host: Int, in world: World) {
        self.host = host
        self.world = world
    }

    var members: [SimTrainer] { world.trainers.filter { $0.host == host && $0.isStarted } }

    func report(_ member: Int, _ report: TrainerReport) {
        guard isAlive else { return }
        spool.append((member, report))
        world.coordinator.stream(from: host)
    }

    /// A trainer says what it is about to open, before it does.
    func accepted(_ member: Int, _ proposal: GenerationProposal) {
        words[member, default: []].append(proposal.view)
        let plan = world.plan(of: proposal)
        keep(plan)
        report(member, .accepted(plan, reason: proposal.reason))
    }

    private func keep(_ plan: GenerationPlan) {
        if plan.number > newest?.number ?? 0 { newest = plan }
    }

    func announce(_ plan: GenerationPlan) {
        guard isAlive else { return }
        keep(plan)
        for trainer in members where plan.members.contains(where: { $0.member == trainer.member }) {
            words[trainer.member, default: []].append(plan.view)
            trainer.act { trainer.received(plan) }
        }
    }

    /// Starts a trainer that joins; it loads the data, and says when it listens.
    func start(_ member: Int) {
        guard isAlive else { return }
        let trainer = world.trainers[member]
        trainer.start()
        trainer.feed(.coordinator(isPresent: isCoordinated))
        world.after(world.random(50_000...800_000)) { [self] in
            trainer.act {
                self.report(
                    member,
                    .listening(address: "m\(member)", trainingSamples: 0, stepsPerEpoch: 0)
                )
            }
        }
        giveUpWithoutState(trainer)
    }

    /// A trainer that keeps the others waiting for its state ends when nobody coordinates for long, as
    /// `NetworkExchange.giveUpAlone` has it.
    private func giveUpWithoutState(_ trainer: SimTrainer) {
        world.after(500_000) { [self] in
            guard trainer.isAlive, trainer.lacksState else { return }
            if let aloneSince, world.time - aloneSince > 10_000_000, trainer.waitsForCoordinator,
                !trainer.isStopped
            {
                report(trainer.member, .failed(message: "nobody brings the state", hint: nil))
                return trainer.kill(ProcessEnd(.exited(1)))
            }
            giveUpWithoutState(trainer)
        }
    }

    func expel(_ member: Int) {
        guard isAlive, world.trainers[member].host == host else { return }
        world.trainers[member].kill()
    }

    /// A trainer ended: its own agent has its last words.
    func ended(_ member: Int, _ end: ProcessEnd) {
        guard isAlive, ends[member] == nil else { return }
        ends[member] = end
        report(member, .exited(end))
        let said = words[member] ?? []
        for trainer in members where trainer.member != member {
            trainer.act { trainer.feed(.ended(member: member, said)) }
        }
        // Without a coordinator nobody else can tell the others; they may hear it late, or not at all.
        for wait in [0, 1_000_000, 3_000_000, 8_000_000, 20_000_000] as [World.Time] {
            world.after(wait) { [self] in
                guard isAlive else { return }
                for other in world.trainers where other.host != host {
                    world.post(from: host, to: other.host) {
                        other.act { other.feed(.received(from: member, .left(member: member, said))) }
                    }
                }
            }
        }
    }

    /// The machine goes down, and its processes with it.
    func crash(for duration: World.Time?) {
        guard isAlive else { return }
        world.note("host \(host) is down")
        for trainer in members { trainer.kill() }
        isAlive = false
        world.coordinator.disconnected(host)
        guard let duration else { return }
        world.after(duration) { [self] in
            world.note("host \(host) is up again")
            isAlive = true
            instance += 1
            newest = nil
            ends = [:]
            world.coordinator.connect(host)
        }
    }

    func coordinated(_ isPresent: Bool) {
        guard isAlive else { return }
        isCoordinated = isPresent
        aloneSince = isPresent ? nil : aloneSince ?? world.time
        for trainer in members { trainer.act { trainer.feed(.coordinator(isPresent: isPresent)) } }
    }
}

extension World {
    /// A generation that members made, as it is reported.
    func plan(of proposal: GenerationProposal) -> GenerationPlan {
        GenerationPlan(
            run: SimCoordinator.run,
            attempt: 1,
            number: proposal.view.number,
            members: proposal.view.members.map {
                GenerationPlan.Member(
                    member: $0.member,
                    host: "h\(trainers[$0.member].host)",
                    address: "m\($0.member)",
                    lanes: $0.lanes
                )
            },
            writers: [],
            secret: WireSecret([]),
            basis: proposal.basis
        )
    }
}
