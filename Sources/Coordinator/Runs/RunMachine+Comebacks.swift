internal import Basics
internal import Wire

// A trainer that was killed on a host that lives is started again, and joins as any other that comes.
extension RunMachine {
    /// A trainer that is to be started in the place of one that was lost.
    struct Comeback: Hashable, Sendable {
        var host: String
        /// Nil while the host can't be reached.
        var at: ContinuousClock.Instant?
    }

    /// Whether another trainer makes sense in the place of one that ended so.
    ///
    /// One that says why it ends has a reason that stays; one that the kernel took for its memory needs that memory again.
    static func mayComeBack(_ end: ProcessEnd) -> Bool { end.signal != nil && end.cause == nil }

    /// Notes a loss, and plans for another trainer on that host where one makes sense.
    mutating func missed(on host: String, mayComeBack: Bool) -> [Action] {
        guard generation > 0, !isOver else { return [] }
        cooldown.lost(host, at: now)
        guard mayComeBack, !isFixed else { return [] }
        comebacks.append(Comeback(host: host, at: cooldown.end(host, at: now)))
        return [.note(cooldown.words(host, at: now))]
    }

    /// Notes that a host has fewer trainers than it should.
    mutating func lacks(_ host: String, isReachable: Bool) -> [Action] {
        guard !isFixed else { return [] }
        comebacks.append(Comeback(host: host, at: isReachable ? now + Cooldown.first : nil))
        return []
    }

    /// Begins without members that could not be started; others are started in their place when their host answers.
    mutating func giveUpUnstarted(_ numbers: [Int], isReachable: Bool, reason: String) -> [Action] {
        var actions: [Action] = []
        for number in numbers {
            guard generation == 0, let member = members[number], member.state == .starting else { continue }
            unstarted.insert(number)
            // Its number stays its own: it may live after all.
            succession.started(number, on: member.host)
            actions += lacks(member.host, isReachable: isReachable) + lose(number, reason: reason)
        }
        return actions
    }

    /// Ends a trainer that was started after all, though the others did not wait for it.
    mutating func dismissUnstarted(_ number: Int) -> [Action] {
        guard unstarted.contains(number), dismissed.insert(number).inserted else { return [] }
        return [.expel(member: number, reason: "the others began without it")]
    }

    /// Starts whom it is time to start.
    mutating func startComebacks() -> [Action] {
        let due = comebacks.filter { $0.at.map { $0 <= now } ?? false }
        guard !due.isEmpty else { return [] }
        // Somebody must be at work to give the state, and something be left to do.
        let isEnding = members.values.contains { $0.state == .finished }
        guard generation > 0, parkedFor == nil, !isEnding else {
            for index in comebacks.indices where due.contains(comebacks[index]) {
                comebacks[index].at = isEnding ? nil : now + .seconds(1)
            }
            return []
        }
        comebacks.removeAll(where: due.contains)
        return due.map { .start(host: $0.host) }
    }

    /// A host that could not be told to start a trainer answers again.
    mutating func resumeComebacks(on host: String) {
        for index in comebacks.indices where comebacks[index].host == host && comebacks[index].at == nil {
            comebacks[index].at = cooldown.end(host, at: now)
        }
    }
}
