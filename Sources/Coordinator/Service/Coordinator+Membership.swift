internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Wire

// Hosts that come and go while a run is on.
extension Coordinator {
    /// Starts trainers on a host for the run that is on, as many as there are lanes for.
    ///
    /// They load the data while the others go on, and enter between two steps with the state that one of those gives.
    /// - Returns: why the host can't help; nil when it does or will.
    @discardableResult
    func join(_ name: String) -> CoordinatorError? {
        guard let active, let machine = active.machine, !active.isFinishing, let entry = hosts[name],
            entry.phase == .ready, let status = entry.status
        else { return nil }
        guard !machine.members.values.contains(where: { $0.host == name && $0.isActive }) else { return nil }
        guard let kernels = status.kernels, kernels >= active.record.kernels else {
            return CoordinatorError(
                "\(name) has kernels up to \(status.kernels?.rawValue ?? "none"), run \(active.id) needs "
                    + active.record.kernels.rawValue,
                hint: "it can take part in the next run",
                exitCode: .badInput
            )
        }
        guard room > 0 else {
            return CoordinatorError(
                "\(name) stays idle: all \(active.record.spec.unitWords) of run \(active.id) have a worker",
                hint: "give the next run more lanes"
            )
        }
        let count = min(room, entry.spec.workers)
        if machine.generation > 0 {
            start(count, on: name)
        } else {
            // Nobody has the state yet that those who join are given.
            for _ in 0..<count { feed(.lacks(host: name, isReachable: true)) }
        }
        return nil
    }

    /// A host whose trainers are gone helps again, after its rest.
    func joinAfterRest(_ name: String) {
        guard let active, let cooldown = active.machine?.cooldown else { return }
        let rest = cooldown.end(name, at: .now) - .now
        guard rest > .zero else {
            join(name)
            return
        }
        log("membership", cooldown.words(name, at: .now), run: active.id, host: name)
        after(rest) { coordinator in
            guard coordinator.active?.id == active.id, coordinator.active?.attempt == active.attempt else {
                return
            }
            coordinator.join(name)
        }
    }

    /// Starts a trainer in the place of one that a host lost.
    func startAgain(on name: String) {
        guard let active, let machine = active.machine, !active.isFinishing, !active.left.contains(name),
            let entry = hosts[name]
        else { return }
        guard entry.phase == .ready else { return feed(.lacks(host: name, isReachable: false)) }
        let working = machine.members.values.count { $0.host == name && $0.isActive }
        guard room > 0, working < entry.spec.workers else { return }
        start(1, on: name, isBack: true)
    }

    /// For how many more workers the run has lanes.
    private var room: Int {
        guard let active, let machine = active.machine else { return 0 }
        return active.record.spec.unitCount - machine.members.values.count(where: \.isActive)
    }

    /// Starts trainers that join the run that is on.
    private func start(_ count: Int, on name: String, isBack: Bool = false) {
        guard let active, let machine = active.machine, let entry = hosts[name] else { return }
        let first = machine.nextMember
        let starts = (0..<count).map { offset in
            trainerStart(member: first + offset, on: entry, of: active, joins: true)
        }
        self.active?.hosts.insert(name)
        if !isBack { findRoutes(of: name) }
        for start in starts { feed(.joining(member: start.member, host: name, isBack: isBack)) }
        log("membership", "\(name) comes with \(starts.count) trainers", run: active.id, host: name)
        start(starts, on: name, of: active, needs: [active.record.dataset]) { coordinator, error in
            coordinator.log("membership", "\(name) can't join: \(error.message)", run: active.id, host: name)
            coordinator.tell(active.id, .note("\(name) can't join: \(error.message)"))
            for start in starts {
                coordinator.feed(.exited(member: start.member, end: ProcessEnd(.exited(1))))
                if isBack { coordinator.feed(.lacks(host: name, isReachable: false)) }
            }
        }
    }

    /// The members of the generation in force that join, and their hosts.
    func joining(in generation: Int) -> [(member: Int, host: String)] {
        guard let active, let plan = active.plan, plan.number == generation else { return [] }
        let waiting = plan.members.filter { active.machine?.members[$0.member]?.joins == true }
        return waiting.map { ($0.member, $0.host) }
    }

    /// Tells the agent of a host that joins something; what joins there is given up when that fails.
    func hand(_ request: AgentRequest, to host: String, of generation: Int) {
        hosts[host]?.session.perform({ try $0.call(request) }, failed: withoutState(host, of: generation))
    }

    /// Without the state a member can't begin, and nobody must wait for it.
    private func withoutState(
        _ host: String,
        of generation: Int
    ) -> @Sendable (any ExplainedError) -> Void {
        { [mailbox, run = active?.id] error in
            mailbox.put(
                .resume { coordinator in
                    guard coordinator.active?.id == run else { return }
                    let why = "\(host) was not given the state: \(error.message)"
                    for (member, place) in coordinator.joining(in: generation) where place == host {
                        coordinator.feed(.unsupplied(member: member, reason: why))
                    }
                }
            )
        }
    }

    /// Brings the state that a member keeps for those who join to their hosts.
    func supply(_ manifest: Digest, of generation: Int, from giver: String) {
        guard let run = active?.id else { return }
        let waiting = joining(in: generation)
        let store = self.store
        for host in Set(waiting.map(\.host)).sorted() {
            let members = waiting.filter { $0.host == host }.map(\.member)
            let failed = withoutState(host, of: generation)
            let hand: @Sendable (Coordinator) -> Void = { coordinator in
                guard coordinator.active?.id == run else { return }
                for member in members {
                    coordinator.hand(
                        .state(run: run, member: member, generation: generation, manifest: manifest),
                        to: host,
                        of: generation
                    )
                }
            }
            if host == giver {
                hand(self)
                continue
            }
            hosts[giver]?.session.transfer(
                { [mailbox] client in
                    try ChunkTransfer.pull(manifest, from: client, into: store)
                    mailbox.put(
                        .resume { coordinator in
                            coordinator.hosts[host]?.session.transfer(
                                { client in
                                    try ChunkTransfer.push(manifest, from: store, to: client)
                                    mailbox.put(.resume(hand))
                                },
                                failed: failed
                            )
                        }
                    )
                },
                failed: failed
            )
        }
    }

    /// Ends a host's part in the run that is on.
    ///
    /// - Throws: ``CoordinatorError`` when nobody would be left to carry the run on.
    func leave(_ name: String) throws {
        guard let active, let machine = active.machine else { return }
        let stays = machine.members.values.contains { $0.isActive && !$0.joins && $0.host != name }
        // One that is only missed counts too: a person's word that it is gone lets the others go on.
        let isMember = machine.members.contains { number, member in
            member.host == name && (member.isActive || !machine.succession.left.contains(number))
        }
        guard isMember else { return }
        guard stays else {
            throw CoordinatorError(
                "\(name) is the only host that trains run \(active.id)",
                hint: "coord run stop ends the run; coord up HOST brings another host in first"
            )
        }
        log("membership", "\(name) leaves", run: active.id, host: name)
        self.active?.left.insert(name)
        feed(.leave(host: name))
        self.active?.hosts.remove(name)
    }
}

extension Coordinator {
    /// A run's hosts in the order in which they should hold lane 0, which goes on when the run is cut into halves.
    ///
    /// Own hosts before rented ones, which somebody else may take away; among them those elsewhere before this
    /// machine, which may be a laptop that is closed.
    func anchors(of names: Set<String>) -> [String] {
        let known = names.compactMap { hosts[$0]?.spec }
        func place(_ spec: HostSpec) -> Int { (spec.rented ? 2 : 0) + (spec.isLocal ? 1 : 0) }
        return known.sorted { (place($0), $0.name) < (place($1), $1.name) }.map(\.name)
    }
}
