internal import Basics
internal import CSSH
internal import Dispatch
internal import Synchronization

/// Asks what `~/.ssh/config` says of a name, anew for each connection.
///
/// Connections that are made at the same moment share one answer: a `Match exec` may be slow, or do something.
final class SSHConfigSource: Sendable {
    /// What is asked.
    struct Query: Hashable, Sendable {
        /// The name as a person would type it.
        var alias: String
        /// What is known already: `Match user`, and the tokens of paths, depend on it.
        var user: String?
        var port: UInt16?
        /// The configuration file instead of the usual two.
        var file: String?
    }

    private final class Flight: Sendable {
        let landed = DispatchGroup()
        let result = Mutex<Result<SSHConfig?, any Error>?>(nil)
        let sharers = Mutex(0)
    }

    /// The system's client.
    static let shared = SSHConfigSource(client: "/usr/bin/ssh")

    private let client: String
    private let flights = Mutex<[Query: Flight]>([:])

    /// - Parameter client: the ssh program; when there is none, libssh reads the file itself.
    init(client: String) { self.client = client }

    /// Asks, or waits for the answer to the same question that is on its way.
    ///
    /// - Returns: nil when there is nobody to ask and no file.
    /// - Throws: ``RemoteError`` `.badClientConfiguration`, `.timedOut`.
    func ask(_ query: Query, for name: String, timeout: Duration) throws -> SSHConfig? {
        let (flight, isOurs) = flights.withLock { flights in
            if let flight = flights[query] {
                flight.sharers.withLock { $0 += 1 }
                return (flight, false)
            }
            let flight = Flight()
            flight.landed.enter()
            flights[query] = flight
            return (flight, true)
        }
        if isOurs {
            let result = Result { try answer(query, name, timeout) }
            flight.result.withLock { $0 = result }
            flights.withLock { $0[query] = nil }
            flight.landed.leave()
            return try result.get()
        }
        let milliseconds = Int(timeout.components.seconds * 1000) + 1000
        _ = flight.landed.wait(timeout: .now() + .milliseconds(milliseconds))
        guard let result = flight.result.withLock({ $0 }) else { throw late(query, name) }
        return try result.get()
    }

    /// How many wait for somebody else's answer to a question; for tests.
    func sharers(of query: Query) -> Int {
        flights.withLock { $0[query]?.sharers.withLock { $0 } ?? 0 }
    }

    private func answer(_ query: Query, _ name: String, _ timeout: Duration) throws -> SSHConfig? {
        guard Files.kind(client) == .file else { return Self.parse(query) }
        var words = [client, "-G"]
        if let file = query.file { words += ["-F", file] }
        if let user = query.user { words += ["-l", user] }
        if let port = query.port { words += ["-p", String(port)] }
        words += ["--", query.alias]
        // A host of its own for its deadline: what a `Match exec` started is ended with it.
        let machine = LocalHost(name: "ssh -G")
        let result: CommandResult
        do {
            result = try machine.run("exec " + ShellQuoting.quote(words), input: [], timeout: timeout)
        } catch let error as RemoteError where error.code == .timedOut {
            throw late(query, name)
        }
        guard result.exit.isSuccess else {
            throw RemoteError(
                host: name,
                phase: .resolve,
                code: .badClientConfiguration,
                message: "ssh does not accept its configuration for \(query.alias): "
                    + SSHSession.printable(result.errorText),
                hint: "correct it until `ssh -G \(query.alias)` prints settings"
            )
        }
        return SSHConfig(output: result.text)
    }

    private func late(_ query: Query, _ name: String) -> RemoteError {
        RemoteError(
            host: name,
            phase: .resolve,
            code: .timedOut,
            message: "`ssh -G \(query.alias)` did not answer in time (phase resolve)",
            hint: "look for a slow `Match exec` in ~/.ssh/config"
        )
    }

    /// libssh's own parser, for machines without the client.
    ///
    /// It knows no IdentitiesOnly, HostKeyAlias and ServerAlive, the first IdentityFile only, refuses names with `_`, and
    /// makes of a ProxyJump the command of a client that is not there; ``SSHRoute`` names that one.
    private static func parse(_ query: Query) -> SSHConfig? {
        guard let session = ssh_new() else { return nil }
        defer { ssh_free(session) }
        guard query.alias.withCString({ ssh_options_set(session, SSH_OPTIONS_HOST, $0) }) == SSH_OK,
            ssh_options_parse_config(session, query.file) == SSH_OK
        else { return nil }
        var config = SSHConfig(output: "")
        config.hostName = text(session, SSH_OPTIONS_HOST)
        config.user = text(session, SSH_OPTIONS_USER)
        config.proxyCommand = text(session, SSH_OPTIONS_PROXYCOMMAND)
        // The only way to see the ProxyJump that became this.
        config.needsClient = config.proxyCommand?.hasPrefix("ssh ") == true
        if let identity = text(session, SSH_OPTIONS_IDENTITY), !identity.hasPrefix("%d/") {
            config.identities = [identity]
        }
        var port: UInt32 = 0
        // 0 stands for "not said", which its own default of 22 would hide.
        if ssh_options_get_port(session, &port) == SSH_OK, port != 22 { config.port = UInt16(port) }
        return config
    }

    private static func text(_ session: ssh_session, _ option: ssh_options_e) -> String? {
        var value: UnsafeMutablePointer<CChar>?
        guard ssh_options_get(session, option, &value) == SSH_OK, let value else { return nil }
        defer { ssh_string_free_char(value) }
        return String(cString: value)
    }
}
