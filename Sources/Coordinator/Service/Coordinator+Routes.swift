internal import Basics
internal import ClusterFile
internal import Logging
internal import Remote
internal import Wire

// Between hosts: how they reach each other, and the relay connections for those that can't.
extension Coordinator {
    /// Finds out, away from this thread, how the hosts of a run that starts reach each other.
    func findRoutes(between names: Set<String>) {
        routes = []
        if names.count > 1 { search(names, new: names) }
    }

    /// Finds out how a host that comes while a run is on reaches the others; its trainers enter when that is known.
    func findRoutes(of name: String) {
        let members = (active?.machine?.members ?? [:]).values.filter(\.isActive).map(\.host)
        let others = Set(members).subtracting([name])
        guard !others.isEmpty else { return }
        feed(.routing)
        search(others.union([name]), new: [name])
    }

    private func search(_ names: Set<String>, new: Set<String>) {
        guard let active else { return }
        guard let hub = madeHub() else { return feed(.routed([], here: [])) }
        let addresses = peerAddresses()
        let sessions = names.compactMap { hosts[$0]?.session }
        let keys = HubKeys(run: active.id, attempt: active.attempt, cluster: workspace.clusterID)
        let find: @Sendable () -> [FoundRoute] = {
            var places: [String: RouteSurvey.Place] = [:]
            var problems: [String] = []
            for session in sessions {
                var place = RouteSurvey.Place(
                    session: session,
                    address: addresses[session.name] ?? "127.0.0.1"
                )
                do {
                    place.hub = try Self.login(of: session)
                } catch {
                    problems.append(session.explained(error).message)
                }
                places[session.name] = place
            }
            var found = RouteSurvey(places: places, new: new, hub: hub, keys: keys).run()
            // Who waits for this machine would like to know why no host stands in for it.
            for index in found.indices where found[index].route.needsCoordinator && !problems.isEmpty {
                found[index].reason += "; " + problems.sorted().joined(separator: "; ")
            }
            return found
        }
        away("routes", find) { [id = active.id, attempt = active.attempt] coordinator, result in
            guard coordinator.active?.id == id, coordinator.active?.attempt == attempt else { return }
            coordinator.found((try? result.get()) ?? [], new: new)
        }
    }

    /// Hosts that are this machine.
    var hostsHere: Set<String> { Set(hosts.filter { $0.value.spec.isLocal }.keys) }

    private func found(_ found: [FoundRoute], new: Set<String>) {
        guard let active else { return }
        routes.removeAll { new.contains($0.route.first) || new.contains($0.route.second) }
        routes += found
        for route in found {
            log("route", route.words, run: active.id)
            tell(active.id, .route(route.event))
        }
        let standing = hub?.hosts ?? []
        for host in relayedHosts.subtracting(standing) { feed(.relay(host: host, isUp: false)) }
        feed(.routed(routes.map(\.told), here: hostsHere))
        keepRelays()
    }

    /// Where other hosts log in on this one, or why they can't.
    ///
    /// - Throws: ``CoordinatorError`` that says why it is no hub; nil = it could never be.
    private static func login(of session: HostSession) throws -> RouteSurvey.Hub? {
        guard let endpoint = session.endpoint, let route = session.route else { return nil }
        let place = try SSHHost.place(of: endpoint)
        guard !place.keys.isEmpty else {
            throw CoordinatorError(
                "\(session.name) is no hub for them: of its key only a fingerprint is known here, which their ssh can't check; "
                    + "coord keys trust \(session.name) pins all of it"
            )
        }
        return RouteSurvey.Hub(place, seen: route)
    }

    /// Hosts of the run that reach another one only over this machine.
    private var relayedHosts: Set<String> {
        Set(routes.map(\.route).filter(\.needsCoordinator).flatMap { [$0.first, $0.second] })
    }

    private func madeHub() -> RelayHub? {
        if let hub { return hub }
        let mailbox = self.mailbox
        do {
            hub = try RelayHub { host, reason in
                mailbox.put(.resume { $0.relayEnded(host, reason) })
            }
        } catch {
            logger.error("no relay: \(error)")
        }
        return hub
    }

    private func relayEnded(_ host: String, _ reason: String) {
        guard active != nil, relayedHosts.contains(host) else { return }
        log("route", "the relay connection to \(host) is over: \(reason)", run: active?.id, host: host)
        feed(.relay(host: host, isUp: false))
        keepRelays()
    }

    /// Ends the relay connections of a run that is over.
    func endRelays() {
        hub?.hosts.forEach { hub?.remove($0) }
        let hubs = Set(
            routes.compactMap { found -> String? in
                if case .relay(let hub) = found.route.way { hub } else { nil }
            }
        )
        if let active {
            let keys = HubKeys(run: active.id, attempt: active.attempt, cluster: workspace.clusterID)
            for hub in hubs {
                guard let session = hosts[hub]?.session else { continue }
                away("hub-\(hub)", { try keys.dismiss(from: session) }) { coordinator, result in
                    guard case .failure(let error) = result else { return }
                    let why =
                        "the run's keys are still in authorized_keys: \(coordinator.explained(error).message)"
                    coordinator.log("route", why, run: keys.run, host: hub)
                }
            }
        }
        routes = []
    }

    /// Makes the relay connections that the run needs and that don't stand, again and again until they do.
    func keepRelays() {
        guard active != nil, let hub = madeHub() else { return }
        for host in relayedHosts.subtracting(hub.hosts) where relaying[host] == nil {
            relaying[host] = .milliseconds(200)
            relay(host, over: hub)
        }
    }

    private func relay(_ host: String, over hub: RelayHub) {
        guard active != nil, relayedHosts.contains(host), let session = hosts[host]?.session else {
            relaying[host] = nil
            return
        }
        away("relay-\(host)", { try hub.connect(session) }) { coordinator, result in
            switch result {
            case .success:
                coordinator.relaying[host] = nil
                coordinator.log("route", "the relay connection stands", host: host)
                coordinator.feed(.relay(host: host, isUp: true))
            case .failure:
                // The host's own session says what is wrong; this one only tries again.
                let delay = coordinator.relaying[host] ?? .milliseconds(200)
                coordinator.relaying[host] = min(delay * 2, .seconds(5))
                coordinator.after(delay) { $0.relay(host, over: hub) }
            }
        }
    }
}
