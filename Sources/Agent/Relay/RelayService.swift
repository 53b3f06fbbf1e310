internal import Basics
internal import Logging
internal import Synchronization
internal import Wire

/// The host's part in relayed links: ports here that lead to trainers elsewhere, and streams from elsewhere that lead to
/// trainers here, and to nothing else.
final class RelayService: Sendable {
    private struct State {
        /// What the cluster calls this host.
        var name = ""
        var probe: ProbeListener?
    }

    /// What the streams' loop asks while this object is still being made.
    private final class Book: Sendable {
        let state = Mutex(State())
        let runs: RunSupervisor
        init(_ runs: RunSupervisor) { self.runs = runs }

        func decide(_ target: RelayTarget) -> RelayLoop.Verdict {
            let (name, probe) = state.withLock { ($0.name, $0.probe?.address) }
            guard target.host == name else { return .refuse("this is \(name), not \(target.host)") }
            switch target.place {
            case .trainer(let run, let member):
                guard let address = runs.address(of: member, in: run) else {
                    return .refuse("\(name) has no trainer \(member) of run \(run) that listens")
                }
                return .dial(address)
            case .probe: return probe.map { .dial($0) } ?? .refuse("\(name) does not measure now")
            }
        }
    }

    private let book: Book
    private let loop: RelayLoop
    private let logger: Logger

    init(runs: RunSupervisor, logger: Logger) throws {
        let book = Book(runs)
        self.book = book
        self.logger = logger
        loop = try RelayLoop(
            name: "relay",
            decide: { target, _ in book.decide(target) },
            ended: { name, reason in logger.info("the relay connection to \(name) is over: \(reason)") }
        )
    }

    /// Takes a connection that carries streams from now on.
    func take(_ socket: Int32, from peer: String, as host: String) {
        book.state.withLock { $0.name = host }
        loop.add(socket, as: peer, role: .second)
    }

    /// The plan as trainers on `host` see it: who can't be dialled stands behind a port of ours.
    func seen(_ plan: GenerationPlan, from host: String) -> GenerationPlan {
        var seen = plan
        for (index, member) in plan.members.enumerated() where member.host != host {
            guard case .relay(let hub) = plan.way(between: host, and: member.host) else { continue }
            let target = RelayTarget(host: member.host, place: .trainer(plan.run, member: member.member))
            do {
                seen.members[index].address = try loop.listen(
                    for: target,
                    through: hub ?? relayOverCoordinator
                )
            } catch {
                // The trainers report that they can't meet, and the coordinator tries again.
                logger.error("no port for \(target): \(error)", metadata: ["run": "\(plan.run)"])
            }
        }
        return seen
    }

    /// Ends the ports of a run that is over.
    func forget(_ run: RunID) {
        loop.stopListening { target in
            if case .trainer(run, _) = target.place { true } else { false }
        }
    }

    /// Streams for measurements lead to this listener from now on.
    func measure(with listener: ProbeListener) { book.state.withLock { $0.probe = listener } }

    /// Tries places, directly or through a relay.
    func probe(_ targets: [ProbeTarget]) -> [ProbeResult] {
        let dialled = targets.map { target -> (target: ProbeTarget, address: String?) in
            if let address = target.address { return (target, address) }
            let place = RelayTarget(host: target.host, place: .probe)
            return (target, try? loop.listen(for: place, through: target.hub ?? relayOverCoordinator))
        }
        defer { loop.stopListening { $0.place == .probe } }
        return Prober.run(dialled)
    }
}
