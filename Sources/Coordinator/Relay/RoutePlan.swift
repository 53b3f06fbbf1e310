internal import Basics
internal import Wire

/// Who could dial whom, as the hosts tried it.
struct ReachMatrix: Sendable, Equatable {
    /// One try.
    enum Answer: Sendable, Equatable {
        case reached(ProbeResult)
        case failed(String)
    }

    private var answers: [String: [String: Answer]] = [:]

    /// What `one` found when it tried `other`; nil when it could not be asked.
    subscript(one: String, other: String) -> Answer? {
        get { answers[one]?[other] }
        set { answers[one, default: [:]][other] = newValue }
    }

    fileprivate func reaches(_ one: String, _ other: String) -> Bool {
        if case .reached = self[one, other] { true } else { false }
    }
    fileprivate func measured(_ one: String, _ other: String) -> ProbeResult? {
        if case .reached(let result) = self[one, other] { result } else { nil }
    }
    fileprivate func problem(_ one: String, _ other: String) -> String? {
        if case .failed(let problem) = self[one, other] { problem } else { nil }
    }
}

/// Which way each pair of hosts takes; decided from what was tried, and nothing else.
enum RoutePlan {
    /// Direct where either side can dial the other; over this machine where none can.
    ///
    /// A pair of which nobody could be asked is taken to be direct: the trainers find out, as they did before.
    static func decide(hosts: [String], _ matrix: ReachMatrix) -> [FoundRoute] {
        let names = Set(hosts).sorted()
        return names.indices.flatMap { index in
            names[(index + 1)...].map { pair(names[index], $0, matrix) }
        }
    }

    /// Sends pairs that would go over this machine over a host instead that both reach by SSH.
    ///
    /// - Parameter reach: for each host that might be the hub, in order of preference, the others that log in there.
    static func overHubs(_ found: [FoundRoute], _ reach: [(hub: String, from: Set<String>)]) -> [FoundRoute] {
        found.map { found in
            let route = found.route
            let hub = reach.first { hub, from in
                [route.first, route.second].allSatisfy { $0 == hub || from.contains($0) }
            }
            guard route.needsCoordinator, let hub else { return found }
            return FoundRoute(
                PeerRoute(route.first, route.second, .relay(hub: hub.hub)),
                reason: found.reason
            )
        }
    }

    private static func pair(_ one: String, _ other: String, _ matrix: ReachMatrix) -> FoundRoute {
        let there = matrix.reaches(one, other)
        let back = matrix.reaches(other, one)
        let measured = matrix.measured(one, other) ?? matrix.measured(other, one)
        if there && back {
            return FoundRoute(PeerRoute(one, other, .direct), measured: measured)
        }
        let problems = [(one, other), (other, one)].compactMap { from, to in
            matrix.problem(from, to).map { "\(from) to \(to): \($0)" }
        }
        if there != back, !problems.isEmpty {
            return FoundRoute(
                PeerRoute(one, other, .dialled(by: there ? one : other)),
                measured: measured,
                reason: problems.joined(separator: "; ")
            )
        }
        guard !there, !problems.isEmpty else {
            return FoundRoute(PeerRoute(one, other, .direct), measured: measured)
        }
        return FoundRoute(
            PeerRoute(one, other, .relay(hub: nil)),
            reason: problems.joined(separator: "; ")
        )
    }
}

/// A route with what was measured on it.
struct FoundRoute: Sendable, Equatable {
    var route: PeerRoute
    /// What was measured; nil when nobody could.
    var measured: ProbeResult?
    /// Why it is not simply direct.
    var reason: String

    init(_ route: PeerRoute, measured: ProbeResult? = nil, reason: String = "") {
        self.route = route
        self.measured = measured
        self.reason = reason
    }

    /// For the members of a run.
    var told: PeerRoute {
        PeerRoute(
            route.first,
            route.second,
            route.way,
            roundTrip: measured?.roundTrip,
            bytesPerSecond: measured?.bytesPerSecond
        )
    }

    /// For people: what goes which way, how well, and what follows.
    var words: String {
        let pair = "\(route.first) and \(route.second)"
        let how: String
        switch route.way {
        case .direct: how = "\(pair): direct"
        case .dialled(let host): how = "\(pair): direct, only \(host) can dial (\(reason))"
        case .relay(nil): how = "\(pair): over this machine, they pause while it is away (\(reason))"
        case .relay(let hub?): how = "\(pair): over \(hub) (\(reason))"
        }
        guard let measured else { return how }
        let speed = ByteCount(Int64(measured.bytesPerSecond))
        return "\(how), \(Self.milliseconds(measured.roundTrip)) ms round trip, \(speed)/s"
    }

    /// For commands.
    var event: RouteEvent {
        let (way, by): (String, String?) =
            switch route.way {
            case .direct: ("direct", nil)
            case .dialled(let host): ("one way", host)
            case .relay(let hub): ("relay", hub)
            }
        return RouteEvent(
            first: route.first,
            second: route.second,
            way: way,
            by: by,
            pausesWithoutThisMachine: route.needsCoordinator,
            roundTrip: measured?.roundTrip,
            bytesPerSecond: measured?.bytesPerSecond,
            detail: words
        )
    }

    private static func milliseconds(_ seconds: Double) -> String {
        let hundredths = Int((seconds * 100_000).rounded())
        let rest = hundredths % 100
        return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
    }
}
