import Basics

@testable import Collectives
@testable import Coordinator

/// One schedule of faults: what happens to a cluster for half a minute, and what must hold then and afterwards.
enum Schedule {
    struct Outcome {
        var violation: String?
        var committed: Int
        var events: Int
        var trace: [String]
    }

    static func play(seed: UInt64, harness: Harness = Harness(), isTracing: Bool = false) -> Outcome {
        let world = World(seed: seed, harness: harness, isTracing: isTracing)
        world.coordinator.begin()
        world.coordinator.watch()
        let faults = Int(world.random(1...6))
        for _ in 0..<faults {
            world.after(world.random(300_000...20_000_000)) { strike(world) }
        }
        world.run(until: 24_000_000)
        // The faults are over; the coordinator is away a little longer now and then.
        world.heal()
        world.lossPercent = 0
        let isAlone = world.happens(50)
        if isAlone { world.coordinator.crash(for: 600_000_000) }
        world.run(until: 34_000_000)
        if isAlone, world.violation == nil { goesOnAlone(world) }
        world.coordinator.restart()
        world.run(until: world.time + 12_000_000)
        if world.violation == nil { goesOn(world) }
        let outcome = Outcome(
            violation: world.violation,
            committed: world.committed.count,
            events: world.events,
            trace: world.trace
        )
        for trainer in world.trainers { trainer.isAlive = false }
        return outcome
    }

    private static func strike(_ world: World) {
        let trainer = world.trainers[Int(world.chance.next() % UInt64(world.trainers.count))]
        let other = world.trainers[Int(world.chance.next() % UInt64(world.trainers.count))]
        let lasts =
            world.happens(30) ? world.random(100_000...1_500_000) : world.random(1_500_000...18_000_000)
        switch world.chance.next() % 10 {
        case 0, 1: trainer.kill()
        case 2: trainer.stop(for: world.happens(50) ? 500_000 : 5_000_000)
        case 3, 4: partition(world, lasts)
        case 5:
            let (from, to) = (trainer.host, other.host)
            guard from != to else { return trainer.kill() }
            world.note("cut \(from) → \(to) for \(lasts)")
            world.cut(from, to, by: 1)
            world.after(lasts) { world.cut(from, to, by: -1) }
        case 6:
            world.note("the link \(trainer.member) - \(other.member) ends")
            trainer.act { trainer.linkBreaks(to: other.member) }
            other.act { other.linkBreaks(to: trainer.member) }
        case 7, 8: world.coordinator.crash(for: lasts)
        default:
            let isForEver = world.happens(20)
            world.agents[trainer.host].crash(for: isForEver ? nil : lasts)
        }
    }

    private static func partition(_ world: World, _ lasts: World.Time) {
        let nodes = world.shape.hosts + 1
        var side = (0..<nodes).map { _ in world.happens(50) }
        // A coordinator without a machine of its own is where its host is.
        if world.shape.coordinatorHost == 0 { side[nodes - 1] = side[0] }
        let pairs = (0..<nodes).flatMap { a in
            (0..<nodes).compactMap { b in side[a] != side[b] ? (a, b) : nil }
        }
        world.note("partition \(side.map { $0 ? 1 : 0 }) for \(lasts)")
        for (a, b) in pairs { world.cut(a, b, by: 1) }
        world.after(lasts) {
            world.note("the partition heals")
            for (a, b) in pairs { world.cut(a, b, by: -1) }
        }
    }

    /// Everybody who lives can talk to everybody: the run goes on, or it is over.
    private static func goesOn(_ world: World) {
        guard world.verdict == nil else { return }
        // A host that never came back may go on for all we know, until a person says that it does not.
        guard world.agents.allSatisfy(\.isAlive), world.trainers.contains(where: \.isAlive) else { return }
        if !world.commitsSomething(within: 40_000_000), world.violation == nil, world.verdict == nil {
            world.fail("nothing was committed for 40 s, with everybody in reach")
        }
        // Now and then it is also waited until whoever came back has caught up.
        guard world.happens(10) else { return }
        let begin = world.time
        world.run(until: begin + 30_000_000)
        guard world.verdict == nil, world.violation == nil else { return }
        if let late = world.trainers.first(where: { $0.isAlive && $0.lacksState && $0.began < begin }) {
            world.fail("member \(late.member) joined, and has nothing of the run 30 s later")
        }
    }

    /// Without a coordinator those go on who are a quorum of the last generation that committed something.
    private static func goesOnAlone(_ world: World) {
        let living = world.trainers.filter { $0.isAlive }
        guard world.agents.allSatisfy(\.isAlive) else { return }
        let last = living.compactMap(\.machine.knowledge.confirmed).max { $0.number < $1.number }
        guard let last else { return }
        // Only those count whom nothing newer can have replaced.
        guard living.allSatisfy({ $0.machine.knowledge.candidates.isEmpty }) else { return }
        let here = Set(living.filter { $0.machine.knowledge.confirmed == last }.map(\.member))
        guard last.isQuorum(here) else { return }
        if !world.commitsSomething(within: 40_000_000), world.violation == nil {
            world.fail(
                "members \(here.sorted()) are a quorum of generation \(last.number) and did nothing for 40 s"
            )
        }
    }
}
