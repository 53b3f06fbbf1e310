internal import Basics
internal import Wire

// Pairs of hosts that meet by way of this machine, and what happens while such a way is missing.
extension RunMachine {
    /// How long members wait for a host whose relay connection is gone, while another host still answers.
    static let relayPatience = Duration.seconds(60)

    func isRelayed(_ one: Int, _ other: Int) -> Bool {
        guard let one = members[one]?.host, let other = members[other]?.host else { return false }
        let pair = PeerRoute(one, other, .direct)
        return routes.contains { route in
            guard case .relay = route.way else { return false }
            return route.first == pair.first && route.second == pair.second
        }
    }

    /// Hosts that members work on and whose relay connection to this machine is missing.
    var missingRelays: Set<String> {
        let working = Set(members.values.filter { $0.address != nil }.map(\.host))
        let needed = routes.filter {
            $0.needsCoordinator && working.contains($0.first) && working.contains($0.second)
        }
        return unrelayed.intersection(needed.flatMap { [$0.first, $0.second] })
    }

    /// True when no host that works has all the relay connections that it needs.
    var isWithoutRelays: Bool {
        let missing = missingRelays
        return members.values.allSatisfy { $0.address == nil || missing.contains($0.host) }
    }

    /// Lets members wait for hosts whose relay connection is missing; gives those hosts up when that takes too long.
    mutating func waitForRelays(_ missing: Set<String>) -> [Action] {
        let deadline = relayDeadline ?? now + Self.relayPatience
        relayDeadline = deadline
        relinkAt = deadline
        guard now >= deadline else { return [] }
        // With nobody left to go on, waiting costs nothing.
        guard !isWithoutRelays else {
            relayDeadline = now + Self.relayPatience
            relinkAt = relayDeadline
            return []
        }
        relayDeadline = nil
        let reason = "no relay connection to \(missing.sorted().joined(separator: ", "))"
        let gone = members.filter { missing.contains($0.value.host) && $0.value.address != nil }.keys.sorted()
        for number in gone {
            members[number]?.state = .gone(reason: reason)
            members[number]?.lanes = LaneSet()
        }
        lastLoss = reason
        return gone.map { .expel(member: $0, reason: reason) } + next("lost: \(reason)")
    }
}
