internal import Basics
internal import Glibc

/// An endpoint whose alias, port, user and keys are known.
struct ResolvedEndpoint: Sendable {
    /// The host's name in the cluster file, also for a jump on the way to it.
    var host: String
    /// What messages call it: the cluster file's name, or `jump X of NAME`.
    var name: String
    var address: String
    var port: UInt16
    var user: String
    /// Key files to try, best first; an explicit one is the only one.
    var identities: [String] = []
    var hasExplicitIdentity = false
    /// Offer those of the agent's keys only whose public part is in `identities`.
    var identitiesOnly = false
    /// The agent's socket; nil = no agent.
    var agentSocket: String?
    /// How its key is called in files of known hosts.
    var knownAs: String
    /// The person's own files of known hosts: read, never written.
    var knownHostsElsewhere: [String] = []
    var keepalive = SSHKeepalive()
    /// A command whose standard input and output are the connection; nil = TCP.
    var proxyCommand: String?
    /// True for a host on the way to another.
    var isJump = false

    /// `user@address:port`, for messages.
    var login: String { "\(user)@\(place)" }
    /// `address:port`, for messages.
    var place: String { address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)" }
    /// The command a person would try.
    var command: String { "ssh -p \(port) \(user)@\(address)" }

    /// Who runs this program.
    static var ownName: String {
        getpwuid(getuid()).map { String(cString: $0.pointee.pw_name) } ?? Machine.environment("USER")
            ?? "root"
    }
}

/// How a connection that waits is kept, and when it is given up.
struct SSHKeepalive: Sendable, Equatable {
    /// How often a silent other side is asked whether it is there.
    var interval = Duration.seconds(15)
    /// How long it may be silent, although it was asked.
    var patience = Duration.seconds(60)

    /// What ServerAliveInterval and ServerAliveCountMax ask for; 0 seconds = our own.
    init(seconds: Int = 0, count: Int = 3) {
        guard seconds > 0 else { return }
        interval = .seconds(min(seconds, 3600))
        patience = interval * max(1, min(count, 100)) + .seconds(1)
    }
}
