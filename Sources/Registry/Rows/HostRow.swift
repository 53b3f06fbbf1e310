public import Basics

/// What the coordinator last knew about a host.
public struct HostRow: Hashable, Sendable, Codable {
    /// The host's name in the cluster file.
    public var name: String
    /// Where it answers; `local` for this machine.
    public var address: String
    /// Which life of its agent this is; nil before the first contact.
    public var instance: String?
    /// SHA-256 of the worker binary there.
    public var worker: Digest?
    /// The best kernel set of its CPU.
    public var kernels: KernelSet?
    /// Cores; 0 when not known.
    public var cores: Int
    /// Memory; 0 when not known.
    public var memory: ByteCount
    /// When it last answered; Unix seconds.
    public var lastSeen: Double?
    /// What it is doing, in the coordinator's words.
    public var phase: String
    /// What a look at its machine found, as the coordinator's JSON; nil before the first look.
    public var facts: String?

    /// All fields.
    public init(
        name: String,
        address: String,
        instance: String? = nil,
        worker: Digest? = nil,
        kernels: KernelSet? = nil,
        cores: Int = 0,
        memory: ByteCount = ByteCount(0),
        lastSeen: Double? = nil,
        phase: String,
        facts: String? = nil
    ) {
        self.name = name
        self.address = address
        self.instance = instance
        self.worker = worker
        self.kernels = kernels
        self.cores = cores
        self.memory = memory
        self.lastSeen = lastSeen
        self.phase = phase
        self.facts = facts
    }
}
