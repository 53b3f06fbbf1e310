internal import Basics

/// The way to a host: the jumps in order, the host last.
struct SSHRoute: Sendable {
    var stations: [ResolvedEndpoint]

    /// The host itself.
    var target: ResolvedEndpoint { stations[stations.count - 1] }

    /// More jumps than this are taken for a circle.
    private static let limit = 8

    /// Resolves an endpoint and every jump on the way to it, each as ssh itself reads it.
    ///
    /// Explicit values win over `~/.ssh/config`.
    ///
    /// - Throws: ``RemoteError`` of the phase `resolve`.
    /// - Cost: one `ssh -G` a station.
    static func resolve(
        _ endpoint: SSHEndpoint,
        source: SSHConfigSource = .shared,
        timeout: Duration = .seconds(10)
    ) throws -> SSHRoute {
        try resolve(
            endpoint.name,
            config: { try source.ask($0, for: endpoint.name, timeout: timeout) },
            endpoint: endpoint
        )
    }

    /// The same with the answers given.
    static func resolve(
        _ name: String,
        config: @escaping (SSHConfigSource.Query) throws -> SSHConfig?,
        endpoint: SSHEndpoint
    ) throws -> SSHRoute {
        let first = Station(
            alias: endpoint.address,
            user: endpoint.user,
            port: endpoint.port,
            identity: endpoint.identity,
            hostKeyAlias: endpoint.hostKeyAlias,
            isJump: false
        )
        let resolver = Resolver(host: name, file: endpoint.configFile, config: config)
        return SSHRoute(stations: try resolver.resolve(first, jumps: nil, behind: []))
    }

    /// A place on the way, as a person writes it.
    struct Station: Equatable {
        var alias: String
        var user: String?
        var port: UInt16?
        var identity: String?
        var hostKeyAlias: String?
        var isJump = true
    }

    /// Reads `[user@]host[:port]` or `ssh://…`; nil when it makes no sense.
    static func station(_ text: some StringProtocol) -> Station? {
        var rest = Substring(text)
        if rest.hasPrefix("ssh://") { rest = rest.dropFirst(6) }
        while rest.last == "/" { rest.removeLast() }
        var station = Station(alias: "")
        if let at = rest.lastIndex(of: "@") {
            station.user = String(rest[..<at])
            rest = rest[rest.index(after: at)...]
        }
        if rest.hasPrefix("["), let end = rest.firstIndex(of: "]") {
            station.alias = String(rest[rest.index(after: rest.startIndex)..<end])
            rest = rest[rest.index(after: end)...]
        } else if rest.filter({ $0 == ":" }).count == 1, let colon = rest.firstIndex(of: ":") {
            station.alias = String(rest[..<colon])
            rest = rest[colon...]
        } else {
            station.alias = String(rest)
            rest = ""
        }
        if rest.hasPrefix(":") {
            guard let port = UInt16(rest.dropFirst()), port > 0 else { return nil }
            station.port = port
        } else if !rest.isEmpty {
            return nil
        }
        return station.alias.isEmpty ? nil : station
    }

    private struct Resolver {
        var host: String
        var file: String?
        var config: (SSHConfigSource.Query) throws -> SSHConfig?

        /// - Parameters:
        ///   - jumps: the way to the station, when the one behind it names all of it.
        ///   - behind: the stations that wait for this one.
        func resolve(_ station: Station, jumps: [Station]?, behind: [Station]) throws -> [ResolvedEndpoint] {
            try check(station, behind)
            let query = SSHConfigSource.Query(
                alias: station.alias,
                user: station.user,
                port: station.port,
                file: file
            )
            let answer = try config(query)
            var endpoint = merge(station, answer)
            var way = jumps
            if way == nil, let text = answer?.proxyJump {
                way = try text.split(separator: ",").map { part in
                    guard let jump = SSHRoute.station(part) else {
                        throw failure("ProxyJump of \(station.alias) makes no sense: \(text)")
                    }
                    return jump
                }
            }
            // As ssh does: the last jump is told the others, the first one asks its own configuration.
            if let way, let last = way.last {
                let others = way.dropLast()
                let jumps = others.isEmpty ? nil : Array(others)
                return try resolve(last, jumps: jumps, behind: behind + [station]) + [endpoint]
            }
            if let command = answer?.proxyCommand {
                endpoint.proxyCommand = try proxy(command, endpoint, station.alias, answer)
            }
            return [endpoint]
        }

        private func check(_ station: Station, _ behind: [Station]) throws {
            let isNamed = !station.alias.hasPrefix("-") && !station.alias.isEmpty
            guard isNamed, !station.alias.contains(where: { $0.isWhitespace || $0 == "\0" }) else {
                throw failure("\(host): `\(station.alias)` is no name or address of a host")
            }
            let isSeen = behind.contains { $0.alias == station.alias && $0.port == station.port }
            guard !isSeen, behind.count <= SSHRoute.limit else {
                let circle = (behind + [station]).map(\.alias).joined(separator: " → ")
                throw failure(
                    "cannot reach \(host): ProxyJump goes in a circle: \(circle)",
                    "give the jump host `ProxyJump none` in ~/.ssh/config"
                )
            }
        }

        private func merge(_ station: Station, _ answer: SSHConfig?) -> ResolvedEndpoint {
            let address = answer?.hostName ?? station.alias
            let port = station.port ?? answer?.port ?? 22
            let user = station.user ?? answer?.user ?? ResolvedEndpoint.ownName
            let alias = station.hostKeyAlias ?? answer?.hostKeyAlias
            let tokens = SSHTokens(
                alias: station.alias,
                address: address,
                port: port,
                user: user,
                hostKeyAlias: alias
            )
            let defaults = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"]
            let others = answer.map { $0.identities.isEmpty ? defaults : $0.identities } ?? defaults
            var endpoint = ResolvedEndpoint(
                host: host,
                name: station.isJump ? "jump \(station.alias) of \(host)" : host,
                address: address,
                port: port,
                user: user,
                knownAs: alias ?? KnownHosts.name(address: address, port: port)
            )
            endpoint.identities = (station.identity.map { [$0] } ?? others).map(tokens.path)
            endpoint.hasExplicitIdentity = station.identity != nil
            endpoint.identitiesOnly = answer?.identitiesOnly ?? false
            endpoint.agentSocket = agent(answer?.identityAgent, tokens)
            endpoint.knownHostsElsewhere = (answer?.knownHosts ?? []).map(tokens.path)
            if let answer {
                endpoint.keepalive = SSHKeepalive(
                    seconds: answer.serverAliveInterval,
                    count: answer.serverAliveCountMax
                )
            }
            endpoint.isJump = station.isJump
            return endpoint
        }

        private func agent(_ setting: String?, _ tokens: SSHTokens) -> String? {
            switch setting {
            case nil, "SSH_AUTH_SOCK"?: Machine.environment("SSH_AUTH_SOCK")
            case "none"?: nil
            case let name? where name.hasPrefix("$") && !name.hasPrefix("${"):
                Machine.environment(String(name.dropFirst()))
            case let path?: tokens.path(path)
            }
        }

        private func proxy(
            _ command: String,
            _ endpoint: ResolvedEndpoint,
            _ alias: String,
            _ answer: SSHConfig?
        ) throws -> String {
            if answer?.proxyPassesDescriptor == true {
                throw failure(
                    "cannot reach \(endpoint.name): ProxyUseFdpass of \(alias) is not supported",
                    "use a ProxyCommand that carries the bytes itself, or ProxyJump"
                )
            }
            if answer?.needsClient == true {
                throw failure(
                    "cannot reach \(endpoint.name): its ProxyJump can't be read without the OpenSSH client",
                    "install it (`apt-get install openssh-client`)"
                )
            }
            let tokens = SSHTokens(
                alias: alias,
                address: endpoint.address,
                port: endpoint.port,
                user: endpoint.user,
                hostKeyAlias: answer?.hostKeyAlias
            )
            guard let expanded = tokens.command(command) else {
                throw failure(
                    "cannot reach \(endpoint.name): \(endpoint.login) must not go into the ProxyCommand "
                        + "of \(alias): a shell would read it as more than a name"
                )
            }
            return expanded
        }

        private func failure(_ message: String, _ hint: String? = nil) -> RemoteError {
            RemoteError(
                host: host,
                phase: .resolve,
                code: .badClientConfiguration,
                message: message,
                hint: hint ?? "correct ~/.ssh/config or `address:` in the cluster file"
            )
        }
    }
}
