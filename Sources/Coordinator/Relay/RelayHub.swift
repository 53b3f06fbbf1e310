internal import Basics
internal import Wire

/// Where relayed links of the hosts meet on this machine.
///
/// Each host has one SSH connection for it, beside those for control, events and chunks; one thread hands frames from
/// one to the other. It sees what passes and can break it, but can't forge it: members prove the run's secret.
final class RelayHub: Sendable {
    private let loop: RelayLoop

    /// - Parameter ended: told of a host whose connection is over, with the reason; must not block.
    init(ended: @escaping @Sendable (String, String) -> Void) throws {
        loop = try RelayLoop(
            name: "relay-hub",
            decide: { target, from in
                target.host == from ? .refuse("a host needs no relay to itself") : .forward(to: target.host)
            },
            ended: ended
        )
    }

    /// Makes the host's connection; blocks.
    ///
    /// - Throws: ``LostConnection``, ``CoordinatorError``, `RemoteError`, `FrameError`.
    func connect(_ session: HostSession) throws {
        let client = try session.openClient()
        try client.call(.relay(peer: relayOverCoordinator, host: session.name), timeout: 20_000)
        loop.add(try client.channel.duplicateSocket(), as: session.name, role: .first)
    }

    /// The hosts whose connection stands.
    var hosts: Set<String> { loop.names }

    /// Ends a host's connection.
    func remove(_ host: String) { loop.remove(host) }
}
