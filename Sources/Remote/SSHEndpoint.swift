internal import Basics

/// Where a host answers SSH and how we prove who we are.
public struct SSHEndpoint: Sendable, Hashable {
    /// The host's name in the cluster file.
    public var name: String
    /// A DNS name, an IP address, or an alias of `~/.ssh/config`.
    public var address: String
    /// The port; nil = what `~/.ssh/config` says, else 22.
    public var port: UInt16?
    /// The login name; nil = what `~/.ssh/config` says, else ours.
    public var user: String?
    /// The private key file, the only key that is offered; nil = the agent's keys and `~/.ssh/config`'s, as ssh itself.
    public var identity: String?
    /// The file with the host keys that we trust.
    public var knownHosts: String
    /// Pins the host's key, whatever files say: `SHA256:…`, or a line such as `ssh-ed25519 AAAA…`.
    public var hostKeyFingerprint: String?
    /// How the host is called in files of known hosts; nil = what `~/.ssh/config` says, else its address and port.
    public var hostKeyAlias: String?
    /// The ssh configuration to read; nil = the person's own and the machine's.
    public var configFile: String?

    /// Describes an endpoint.
    public init(
        name: String,
        address: String,
        port: UInt16? = nil,
        user: String? = nil,
        identity: String? = nil,
        knownHosts: String = "keys/known_hosts",
        hostKeyFingerprint: String? = nil,
        hostKeyAlias: String? = nil,
        configFile: String? = nil
    ) {
        self.name = name
        self.address = address
        self.port = port
        self.user = user
        self.identity = identity
        self.knownHosts = knownHosts
        self.hostKeyFingerprint = hostKeyFingerprint
        self.hostKeyAlias = hostKeyAlias
        self.configFile = configFile
    }
}

/// How we come to a host, by the ssh configuration.
public struct SSHPlace: Sendable, Equatable {
    /// Its address or name, as it is dialled in the end.
    public var address: String
    /// Its port there.
    public var port: UInt16
    /// False when a jump or a command carries us: others may not come there by this address.
    public var isDirect: Bool
    /// The host's keys that are trusted.
    public var keys: [HostKey]

    /// All fields.
    public init(address: String, port: UInt16, isDirect: Bool, keys: [HostKey]) {
        self.address = address
        self.port = port
        self.isDirect = isDirect
        self.keys = keys
    }
}

/// What to do about a host whose key was never seen.
public enum HostKeyPolicy: Sendable {
    /// Refuse it.
    case strict
    /// Trust it now and from now on: its key is appended to the known hosts.
    case acceptNew
    /// Show the fingerprint to a person; true = as `acceptNew`.
    case ask(@Sendable (HostKeyQuestion) -> Bool)
}

/// What a person is asked about an unknown host.
public struct HostKeyQuestion: Sendable, Equatable {
    /// The host's name in the cluster file.
    public var host: String
    /// What shows the key: the host, or a jump on the way to it.
    public var station: String
    /// Its address and port.
    public var address: String
    /// The key that it showed.
    public var key: HostKey
}

/// How long each phase of connecting may take.
public struct SSHTimeouts: Sendable {
    /// Turning the name into addresses.
    public var resolve: Duration
    /// Opening the TCP connection.
    public var connect: Duration
    /// Agreeing on keys; slow hosts take seconds.
    public var handshake: Duration
    /// Proving who we are.
    public var authenticate: Duration
    /// Opening a channel and starting a command.
    public var open: Duration

    /// Patient enough for a loaded host at the other end of the world.
    public init(
        resolve: Duration = .seconds(10),
        connect: Duration = .seconds(10),
        handshake: Duration = .seconds(20),
        authenticate: Duration = .seconds(20),
        open: Duration = .seconds(20)
    ) {
        self.resolve = resolve
        self.connect = connect
        self.handshake = handshake
        self.authenticate = authenticate
        self.open = open
    }
}
