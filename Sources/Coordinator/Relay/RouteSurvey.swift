internal import Basics
internal import Dispatch
internal import Remote
internal import Synchronization
internal import Wire

/// Finds out, by trying, how hosts reach each other: directly if one can dial the other, else over this machine.
///
/// All hosts try all others at once, against a listener that their agents open for it, so it takes about as long as
/// one that does not answer: 2 s.
struct RouteSurvey: Sendable {
    /// A host, and the address that the others would dial.
    struct Place: Sendable {
        var session: HostSession
        var address: String
        /// Where others dial its sshd, if it may be a hub.
        var hub: Hub?
    }

    /// What others need to log in on a host.
    struct Hub: Sendable, Equatable {
        var address: String
        var port: UInt16
        var hostKeys: [HostKey]

        /// Where others come in: as we do when that is by a number and over nothing else; otherwise at the address and the
        /// port by which the host knows itself, for a name or a jump of our configuration means nothing to them.
        init(_ place: SSHPlace, seen route: HostFacts.Route) {
            let isNumber = place.address.utf8.allSatisfy {
                $0 == UInt8(ascii: ".") || (0x30...0x39).contains($0)
            }
            let isOurs = place.isDirect && isNumber
            address = isOurs ? place.address : route.host
            port = isOurs ? place.port : route.port ?? place.port
            hostKeys = place.keys
        }
    }

    let places: [String: Place]
    /// Only pairs with one of these are looked at.
    let new: Set<String>
    let hub: RelayHub

    let keys: HubKeys

    private struct Asked: Sendable {
        var client: AgentClient
        var address: String
        var token: [UInt8]
    }

    /// Blocks until all is known; what can't be found out is left open.
    func run() -> [FoundRoute] {
        let names = places.keys.sorted()
        let asked = each(names) { name -> Asked? in
            guard let place = places[name], let client = try? place.session.openClient(),
                case .routeListening(let address, let token)? = try? client.call(
                    .routeListen(bind: place.address),
                    timeout: 20_000
                )
            else { return nil }
            return Asked(client: client, address: address, token: token)
        }
        var matrix = ReachMatrix()
        let direct = each(names) { name -> [ProbeResult] in
            let others = names.filter { $0 != name && (new.contains(name) || new.contains($0)) }
            return probe(asked[name] ?? nil, others, asked) { other, place in
                ProbeTarget(host: other, address: place.address, token: place.token)
            }
        }
        for (name, results) in direct {
            for result in results {
                matrix[name, result.host] = result.problem.map { .failed($0) } ?? .reached(result)
            }
        }
        var found = RoutePlan.decide(hosts: names, matrix).filter {
            new.contains($0.route.first) || new.contains($0.route.second)
        }
        found = RoutePlan.overHubs(found, openHubs(for: found.map(\.route).filter(\.needsCoordinator), asked))
        let relayed = Set(found.map(\.route).filter(\.needsCoordinator).flatMap { [$0.first, $0.second] })
        _ = each(relayed.sorted()) { name -> Bool in
            guard let place = places[name], !hub.hosts.contains(name) else { return false }
            return (try? hub.connect(place.session)) != nil
        }
        let pairs = found.map(\.route).filter { if case .relay = $0.way { true } else { false } }
        let measured = each(Set(pairs.map(\.first)).sorted()) { name -> [ProbeResult] in
            let ours = pairs.filter { $0.first == name }
            return probe(asked[name] ?? nil, ours.map(\.second), asked) { other, place in
                let way = ours.first { $0.second == other }?.way
                let hub: String? = if case .relay(let hub)? = way { hub } else { nil }
                return ProbeTarget(host: other, address: nil, hub: hub, token: place.token)
            }
        }
        for index in found.indices where pairs.contains(found[index].route) {
            let route = found[index].route
            guard let result = measured[route.first]?.first(where: { $0.host == route.second }) else {
                continue
            }
            if let problem = result.problem {
                found[index].reason += "; relayed: \(problem)"
            } else {
                found[index].measured = result
            }
        }
        for case let place? in asked.values { place.client.channel.close() }
        return found
    }

    /// Lets the hosts of some pairs log in where both can; which hosts got in where.
    private func openHubs(
        for pairs: [PeerRoute],
        _ asked: [String: Asked?]
    ) -> [(hub: String, from: Set<String>)] {
        let needy = Set(pairs.flatMap { [$0.first, $0.second] }).sorted()
        let hubs = places.keys.sorted().filter { places[$0]?.hub != nil }
        guard !needy.isEmpty, !hubs.isEmpty else { return [] }
        // First who sees whose sshd: no key is laid down for nothing.
        let banner = Array("SSH-2.0-".utf8)
        let seen = each(needy) { name -> Set<String> in
            let targets = hubs.filter { $0 != name }.compactMap { hub in
                places[hub]?.hub.map {
                    let shown = $0.address.contains(":") ? "[\($0.address)]" : $0.address
                    return ProbeTarget(
                        host: hub,
                        address: "\(shown):\($0.port)",
                        token: banner,
                        saysNoMore: true
                    )
                }
            }
            guard let asked = asked[name] ?? nil, !targets.isEmpty,
                case .triedRoutes(let results)? = try? asked.client.call(.tryRoutes(targets))
            else { return [] }
            return Set(results.filter { $0.problem == nil }.map(\.host))
        }
        let reach = hubs.map { hub in (hub: hub, from: Set(needy.filter { seen[$0]?.contains(hub) == true }))
        }
        let chosen = Set(
            RoutePlan.overHubs(pairs.map { FoundRoute($0) }, reach).compactMap { found -> String? in
                if case .relay(let hub) = found.route.way { hub } else { nil }
            }
        )
        let used = reach.filter { chosen.contains($0.hub) }
        return used.map { hub, from in
            guard let place = places[hub], let login = place.hub else { return (hub: hub, from: []) }
            let opened = each(from.sorted()) { spoke -> Bool in
                guard let asked = asked[spoke] ?? nil,
                    let access = try? keys.admit(
                        spoke,
                        to: place.session,
                        address: login.address,
                        port: login.port,
                        hostKeys: login.hostKeys
                    )
                else { return false }
                return (try? asked.client.call(.openHub(run: keys.run, access), timeout: 20_000)) != nil
            }
            return (hub: hub, from: from.filter { opened[$0] == true })
        }
    }

    private func probe(
        _ asked: Asked?,
        _ others: [String],
        _ places: [String: Asked?],
        _ target: (String, Asked) -> ProbeTarget
    ) -> [ProbeResult] {
        let targets = others.compactMap { other in (places[other] ?? nil).map { target(other, $0) } }
        guard let asked, !targets.isEmpty,
            case .triedRoutes(let results)? = try? asked.client.call(.tryRoutes(targets))
        else { return [] }
        // Whatever a host says, it speaks of those it was asked about.
        return zip(targets, results).filter { $0.host == $1.host }.map(\.1)
    }

    /// Does something for each name at once; blocks until all is done.
    private func each<Value: Sendable>(
        _ names: [String],
        _ body: @escaping @Sendable (String) -> Value
    ) -> [String: Value] {
        let found = Collected<Value>()
        for name in names {
            OSThread.start(name: "route-\(name)") {
                let value = body(name)
                found.values.withLock { $0[name] = value }
                found.done.signal()
            }
        }
        for _ in names { found.done.wait() }
        return found.values.withLock { $0 }
    }

    private final class Collected<Value: Sendable>: Sendable {
        let values = Mutex<[String: Value]>([:])
        let done = DispatchSemaphore(value: 0)
    }
}
