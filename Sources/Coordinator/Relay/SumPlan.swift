internal import Basics
internal import Wire

/// Which members add up the gradients where some hosts meet only over a third one.
///
/// Exchanged directly, a pair that is relayed sends its bytes twice over somebody's ssh. When all of a step's values are
/// added up at a host that every other one reaches in one way, each host sends its part once and gets the sum once, and nothing but
/// digests is relayed between the others (`hub-reduce`).
enum SumPlan {
    /// The members that own segments; empty = all of them do.
    ///
    /// - Parameters:
    ///   - members: number and host.
    ///   - here: hosts that are the coordinator's own machine, where relays without a hub meet.
    static func owners(
        _ members: [(member: Int, host: String)],
        routes: [PeerRoute],
        here: Set<String>
    ) -> [Int] {
        let hosts = Set(members.map(\.host))
        let twice = routes.filter {
            hosts.contains($0.first) && hosts.contains($0.second) && isTwice($0, here)
        }
        guard !twice.isEmpty else { return [] }
        let ends = Set(twice.flatMap { [$0.first, $0.second] })
        return members.filter { !ends.contains($0.host) }.map(\.member)
    }

    /// True when the bytes between two hosts cross ssh twice.
    private static func isTwice(_ route: PeerRoute, _ here: Set<String>) -> Bool {
        switch route.way {
        case .direct, .dialled: false
        case .relay(nil): !here.contains(route.first) && !here.contains(route.second)
        case .relay(let hub?): route.first != hub && route.second != hub
        }
    }
}
