/// What a host may be used for.
public enum HostRole: String, Hashable, Sendable, Codable, CaseIterable {
    /// Runs trainers.
    case train
    /// Runs `coord-serve`.
    case serve
}

/// Whether a host's agent is to come back after a reboot.
public enum BootChoice: String, Hashable, Sendable, Codable, CaseIterable {
    /// Nothing outside the host's folder is touched; `coord up` brings the agent back.
    case off = "none"
    /// A systemd user unit with lingering, or a crontab line, starts it.
    case auto
}

/// One machine of the cluster, with the file's `defaults` filled in.
public struct HostSpec: Hashable, Sendable {
    /// The key under `hosts:`.
    public var name: String
    /// `local` for this machine; else a host name, an address or a name from `~/.ssh/config`.
    ///
    /// Empty for a pod of which only the provider knows where it is.
    public var address: String
    /// The SSH port; nil leaves it to `~/.ssh/config`, then 22.
    public var port: Int?
    /// The user to log in as; nil leaves it to `~/.ssh/config`, then the user's own name.
    public var user: String?
    /// The private key's path, as seen from the working folder; nil means the usual keys and the SSH agent.
    public var identity: String?
    /// The host's own folder for everything of coord; nil means `~/.coord`.
    public var directory: String?
    /// What the host may be used for.
    public var roles: Set<HostRole> = [.train, .serve]
    /// Trainers on the host; 0 for one that only serves.
    public var workers: Int = 1
    /// CPU threads for each trainer; nil means the host's cores over its workers.
    public var threads: Int?
    /// GPUs that may be used; nil means all.
    public var gpus: Int?
    /// True for a host that may be stopped when idle.
    public var rented: Bool = false
    /// The command that stops a rented host, run on the host by its own shell.
    public var stop: String?
    /// How long a rented host may be without work before it is stopped.
    public var idleStop: Duration = .seconds(600)
    /// True for a rented host that is stopped in the end even with checkpoints that nobody else has.
    public var stopsUnsaved: Bool = false
    /// How long an agent without work waits for word from the coordinator before it ends.
    public var lease: Duration = .seconds(86_400)
    /// Whether the agent is to come back after a reboot.
    public var boot: BootChoice = .off
    /// What an hour costs, in the user's currency.
    public var pricePerHour: Double?
    /// What the host draws under load; unit: watts.
    public var watts: Double?
    /// The host key that is expected: `SHA256:…` or a line such as `ssh-ed25519 AAAA…`.
    public var hostKey: String?
    /// The address, and perhaps the port, that the host's workers listen on for one another.
    public var listen: String?
    /// An `address:port` at which other hosts can dial this one.
    public var peer: String?
    /// The Python interpreter on the host.
    public var python: String?
    /// RunPod's id of a rented pod, by which its API tells where the pod is.
    public var pod: String?

    /// A host with everything else at its default.
    public init(name: String, address: String) {
        self.name = name
        self.address = address
    }

    /// Where the host is, for people: its address, or `pod ID`.
    public var place: String { address.isEmpty ? "pod \(pod ?? "")" : address }
    /// True when the host is this machine, reached without SSH.
    public var isLocal: Bool { address == "local" }
    /// True when trainers run on the host.
    public var trains: Bool { roles.contains(.train) && workers > 0 }
    /// True when the host may serve.
    public var serves: Bool { roles.contains(.serve) }
}
