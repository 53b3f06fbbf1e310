internal import Basics
internal import Collectives
internal import Dispatch
internal import Synchronization
internal import Wire

// What trainers must know to go on while nobody coordinates.
extension RunSupervisor {
    /// Looks whether a coordinator is there, and tells the trainers when that changed.
    ///
    /// - Parameter isHeard: it has just said something.
    func lookForCoordinator(isHeard: Bool = false) {
        let told = state.withLock { state -> (isPresent: Bool, channels: [FrameChannel])? in
            if isHeard { state.heard = .now }
            let isPresent =
                !state.listeners.isEmpty && ContinuousClock.now - state.heard < Self.coordinatorPatience
            guard isPresent != state.isCoordinated else { return nil }
            state.isCoordinated = isPresent
            let living = state.runs.values.flatMap(\.trainers.values).filter { $0.end == nil }
            return (isPresent, living.map(\.channel))
        }
        // A trainer that just died can't be told; its end is reported by itself.
        for channel in told?.channels ?? [] {
            try? channel.send(TrainerCommand.coordinator(isPresent: told?.isPresent ?? true))
        }
    }

    /// Tells the other members that a trainer of this host ended, and what it had agreed to open.
    ///
    /// With a coordinator there it tells them; without one a host that stays silent could not be told from a dead one.
    func tellOthers(_ start: TrainerStart) {
        let (channels, words, plan) = state.withLock { state in
            let run = state.runs[start.run]
            let here = (run?.trainers ?? [:]).values.filter {
                $0.end == nil && $0.start.attempt == start.attempt
            }
            let words = run?.trainers[start.member]?.generations ?? []
            return (here.map(\.channel), words, run?.announced)
        }
        for channel in channels {
            // A trainer that just died can't be told; its end is reported by itself.
            try? channel.send(TrainerCommand.ended(member: start.member, plans: words))
        }
        guard let plan, plan.attempt == start.attempt else { return }
        let message = MembershipMessage.left(member: start.member, words)
        guard let bytes = try? MessageCoding.encode(message) else { return }
        OSThread.start(name: "last-words") { [self] in
            let never = DispatchSemaphore(value: 0)
            var passed = 0.0
            for moment in Self.newsOfEnd {
                _ = never.wait(timeout: .now() + (moment - passed))
                passed = moment
                guard state.withLock({ !$0.isCoordinated }) else { continue }
                for member in plan.members where address(of: member.member, in: plan.run) == nil {
                    Council.send(
                        bytes,
                        of: plan.run,
                        from: start.member,
                        to: member.address,
                        proving: plan.view.key,
                        secret: Redacted(plan.secret.bytes)
                    )
                }
            }
        }
    }
}
