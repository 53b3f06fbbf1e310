internal import Basics

/// What the system's ssh client makes of a name: the answer of `ssh -G`.
///
/// libssh's own reading of `~/.ssh/config` ignores half of it and lets a file's `Port` override ours.
struct SSHConfig: Sendable, Equatable {
    var hostName: String?
    var port: UInt16?
    var user: String?
    /// Key files, best first, not expanded yet.
    var identities: [String] = []
    /// Offer no other key of the agent than those of `identities`.
    var identitiesOnly = false
    /// The agent's socket, `none`, `SSH_AUTH_SOCK` or a variable; nil = the environment's.
    var identityAgent: String?
    /// The name under which the host's key is known, instead of its address.
    var hostKeyAlias: String?
    /// The person's own known hosts, then the machine's; only ever read.
    var knownHosts: [String] = []
    /// How often a waiting connection says that it is alive; unit: seconds; 0 = the file does not say.
    var serverAliveInterval = 0
    /// How many of those may stay without an answer.
    var serverAliveCountMax = 3
    var proxyJump: String?
    var proxyCommand: String?
    var proxyPassesDescriptor = false
    /// True when only the system's client could go that way, and there is none.
    var needsClient = false

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
            case "identityfile": if value != "none" { identities.append(value) }
            case "identitiesonly": identitiesOnly = value == "yes"
            case "identityagent": identityAgent = value
            case "hostkeyalias": hostKeyAlias = value
            case "userknownhostsfile": knownHosts = Self.paths(value) + knownHosts
            case "globalknownhostsfile": knownHosts += Self.paths(value)
            case "serveraliveinterval": serverAliveInterval = Int(value) ?? 0
            case "serveralivecountmax": serverAliveCountMax = Int(value) ?? 3
            case "proxyjump": proxyJump = value == "none" ? nil : value
            case "proxycommand": proxyCommand = value == "none" ? nil : value
            case "proxyusefdpass": proxyPassesDescriptor = value == "yes"
            default: break
            }
        }
    }

    /// Several absolute paths in one line, without quotes: a space before a `/` or `~` begins the next.
    private static func paths(_ text: String) -> [String] {
        var paths: [String] = []
        for word in text.split(separator: " ") {
            if paths.isEmpty || word.hasPrefix("/") || word.hasPrefix("~") || word == "none" {
                paths.append(String(word))
            } else {
                paths[paths.count - 1] += " " + word
            }
        }
        return paths.filter { $0 != "none" }
    }
}
