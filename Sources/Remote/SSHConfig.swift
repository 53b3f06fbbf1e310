internal import Basics
internal import Glibc

/// What the system's ssh client makes of a name: the answer of `ssh -G`.
///
/// libssh's own reading of `~/.ssh/config` ignores half of it and lets a file's `Port` override ours.
struct SSHConfig: Sendable, Equatable {
    var hostName: String?
    var port: UInt16?
    var user: String?
    var identities: [String] = []
    var proxyJump: String?
    var proxyCommand: String?

    /// Reads lines of `key value`, keys in lower case.
    init(output: String) {
        for line in output.split(whereSeparator: \.isNewline) {
            let parts = line.split(separator: " ", maxSplits: 1)
            guard parts.count == 2 else { continue }
            let value = String(parts[1])
            switch parts[0].lowercased() {
            case "hostname": hostName = value
            case "port": port = UInt16(value)
            case "user": user = value
            case "identityfile": identities.append(value)
            case "proxyjump": proxyJump = value == "none" ? nil : value
            case "proxycommand": proxyCommand = value == "none" ? nil : value
            default: break
            }
        }
    }

    /// Asks the system's client; nil when there is none or it refuses the name.
    static func ask(_ alias: String, client: String = "/usr/bin/ssh") -> SSHConfig? {
        guard Files.kind(client) == .file, !alias.hasPrefix("-"),
            let answer = try? ChildProcess.run([client, "-G", alias]), answer.exit.isSuccess
        else { return nil }
        return SSHConfig(output: String(decoding: answer.output, as: UTF8.self))
    }

    /// `~/…` under the home folder.
    static func expand(_ path: String) -> String {
        guard path.hasPrefix("~/"), let home = getenv("HOME").map({ String(cString: $0) }) else {
            return path
        }
        return home + path.dropFirst(1)
    }
}

extension SSHEndpoint {
    /// Fills in what the cluster file leaves open.
    ///
    /// Explicit values win over `~/.ssh/config`; an address with user, port and key asks nobody.
    func resolved(config: (String) -> SSHConfig? = { SSHConfig.ask($0) }) -> ResolvedEndpoint {
        let isComplete = user != nil && port != nil && identity != nil && Dialer.isNumeric(address)
        let answer = isComplete ? nil : config(address)
        let own =
            getenv("USER").map { String(cString: $0) }
            ?? getpwuid(getuid()).map { String(cString: $0.pointee.pw_name) }
        let defaults = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"]
        let others = answer.map { $0.identities.isEmpty ? defaults : $0.identities } ?? defaults
        return ResolvedEndpoint(
            name: name,
            address: answer?.hostName ?? address,
            port: port ?? answer?.port ?? 22,
            user: user ?? answer?.user ?? own ?? "root",
            identities: (identity.map { [$0] } ?? others).map(SSHConfig.expand),
            hasExplicitIdentity: identity != nil,
            proxyJump: answer?.proxyJump
        )
    }
}
