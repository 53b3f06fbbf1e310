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
        /// Ways to hubs, by run and hub.
        var hubs: [RunID: [String: HubDialer]] = [:]
    }

    /// What the streams' loop asks while this object is still being made.
    private final class Book: Sendable {
        let state = Mutex(State())
        let runs: RunSupervisor
        init(_ runs: RunSupervisor) { self.runs = runs }

        func decide(_ target: RelayTarget) -> RelayLoop.Verdict {
            let (name, probe) = state.withLock { ($0.name, $0.probe?.address) }
            // A hub has relay connections of that name; elsewhere there is none, and the stream is refused.
            guard target.host == name else { return .forward(to: target.host) }
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
                    through: via(hub, to: member.host, from: host)
                )
            } catch {
                // The trainers report that they can't meet, and the coordinator tries again.
                logger.error("no port for \(target): \(error)", metadata: ["run": "\(plan.run)"])
            }
        }
        return seen
    }

    /// The relay connection that leads to a host: the hub's own are named after the hosts at their other ends.
    private func via(_ hub: String?, to other: String, from host: String) -> String {
        guard let hub else { return relayOverCoordinator }
        return hub == host ? other : hub
    }

    /// Makes a way to a hub, in place of one that was there; blocks until it stands.
    ///
    /// - Throws: ``AgentError`` with ssh's words.
    func open(_ access: HubAccess, for run: RunID, folder: String, as host: String) throws {
        let dialer = HubDialer(access, folder: folder + "/hub-" + access.hub)
        let old = book.state.withLock { state in
            state.name = host
            defer { state.hubs[run, default: [:]][access.hub] = dialer }
            return state.hubs[run]?[access.hub]
        }
        old?.close()
        do {
            try dialer.open { [loop, hub = access.hub] in loop.add($0, as: hub, role: .first) }
        } catch {
            _ = book.state.withLock { $0.hubs[run]?.removeValue(forKey: access.hub) }
            throw error
        }
    }

    /// Ends the ports and ways of a run that is over.
    func forget(_ run: RunID) {
        let hubs = book.state.withLock { $0.hubs.removeValue(forKey: run) ?? [:] }
        for dialer in hubs.values { dialer.close() }
        loop.stopListening { target in
            if case .trainer(run, _) = target.place { true } else { false }
        }
    }

    /// Streams for measurements lead to this listener from now on.
    func measure(with listener: ProbeListener) { book.state.withLock { $0.probe = listener } }

    /// Tries places, directly or through a relay.
    func probe(_ targets: [ProbeTarget], from host: String) -> [ProbeResult] {
        let dialled = targets.map { target -> (target: ProbeTarget, address: String?) in
            if let address = target.address { return (target, address) }
            let place = RelayTarget(host: target.host, place: .probe)
            return (
                target, try? loop.listen(for: place, through: via(target.hub, to: target.host, from: host))
            )
        }
        defer { loop.stopListening { $0.place == .probe } }
        return Prober.run(dialled)
    }
}
