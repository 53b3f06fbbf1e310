internal import Basics
public import ClusterFile
public import ContentStore
public import Remote
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A worker program that was built for one kind of machine.
struct WorkerBinary: Sendable {
    var path: String
    var digest: Digest
    var size: ByteCount
}

/// The folder of a cluster file and what coord keeps beside it: `artifacts/`, `keys/`.
public final class Workspace: Sendable {
    /// The folder, absolute.
    public let directory: String
    /// Names this cluster on every host: random, made once.
    public let clusterID: String
    /// The account that rented pods belong to.
    public let pods = PodAccount()
    private let workers = Mutex<[String: WorkerBinary]>([:])
    private let kept = Mutex<Digest?>(nil)

    /// Opens the folder of a cluster file, and makes `artifacts/` there when it is new.
    ///
    /// - Throws: ``FileError`` when it can't be written.
    public init(directory: String) throws {
        self.directory = Files.resolved(directory)
        let artifacts = self.directory + "/artifacts"
        try Files.createDirectory(artifacts)
        let path = artifacts + "/cluster-id"
        if let text = try? Files.readText(path) {
            clusterID = String(text.prefix { $0 != "\n" })
        } else {
            clusterID = Digest.hex(Sealing.randomBytes(6))
            try Files.writeAtomically(clusterID + "\n", to: path)
        }
    }

    /// `artifacts/`.
    public var artifacts: String { directory + "/artifacts" }
    /// The content store's folder.
    public var storePath: String { artifacts + "/store" }
    /// The registry's file.
    public var registryPath: String { artifacts + "/registry.sqlite" }
    /// What the last preflight measured.
    var measuredPath: String { artifacts + "/measured.json" }
    /// Held by the coordinator while it lives.
    var lockPath: String { artifacts + "/coordinator.lock" }
    /// What the coordinator prints.
    public var logPath: String { artifacts + "/coordinator.log" }
    /// The pinned host keys.
    public var knownHosts: String { directory + "/keys/known_hosts" }

    /// Where the coordinator listens: a short path, since a socket's may have 107 bytes only.
    public var socketPath: String {
        let base = Machine.environment("XDG_RUNTIME_DIR") ?? "/tmp"
        return "\(base)/coord-\(getuid())/\(clusterID).sock"
    }

    /// Refuses a socket's folder that another user made or may enter: whoever can write there could answer for us.
    func checkSocketFolder() throws {
        let folder = Files.parent(socketPath)
        guard Files.isPrivateDirectory(folder) else {
            throw CoordinatorError(
                "\(folder) is not a private folder of yours",
                hint: "remove it, or set XDG_RUNTIME_DIR to a private folder",
                exitCode: .cannotWrite
            )
        }
    }

    /// A path of the cluster file: relative to its folder, `~/` at home.
    public func path(_ path: String) -> String {
        if path.hasPrefix("/") { return path }
        if path.hasPrefix("~/") { return Machine.home + path.dropFirst() }
        return directory + "/" + path
    }

    /// The agent's folder on a host, as its shell sees it.
    func agentFolder(of spec: HostSpec) -> String { (spec.directory ?? "~/.coord") + "/" + clusterID }

    /// Where and how a host of the cluster file answers SSH; of a pod the provider is asked, and this blocks.
    ///
    /// - Throws: ``PodError``.
    /// - Cost: nothing; for a pod, with a key for the provider's API, one request of 10 s at most.
    public func endpoint(_ spec: HostSpec) throws -> SSHEndpoint {
        let place = try pods.place(of: spec)
        return SSHEndpoint(
            name: spec.name,
            address: place?.address ?? spec.address,
            port: place?.port ?? spec.port.flatMap { UInt16(exactly: $0) },
            user: spec.user ?? place?.user,
            identity: spec.identity.map { path($0) },
            knownHosts: knownHosts,
            hostKeyFingerprint: spec.hostKey,
            // Pods come and go at the same addresses, and change theirs: a key belongs to the pod.
            hostKeyAlias: spec.pod.map { "runpod-\($0)" }
        )
    }

    /// Opens the content store.
    public func openStore() throws -> ChunkStore { try ChunkStore(directory: storePath) }

    /// The worker program for a kind of machine; nil = this one's.
    ///
    /// - Throws: ``CoordinatorError`` when it was not built.
    func worker(_ triple: String?) throws -> WorkerBinary {
        let triple = triple ?? Self.ownTriple
        if let known = workers.withLock({ $0[triple] }) { return known }
        let path = try program("coord-worker", triple: triple)
        let binary = WorkerBinary(
            path: path,
            digest: Digest(of: try Files.read(path)),
            size: ByteCount(try Files.size(path))
        )
        workers.withLock { $0[triple] = binary }
        return binary
    }

    /// The worker program of the run that is on: hosts that have it stay with it.
    var runWorker: Digest? {
        get { kept.withLock(\.self) }
        set { kept.withLock { $0 = newValue } }
    }

    /// Looks at the programs anew: they may have been built again.
    func forgetWorkers() { workers.withLock { $0 = [:] } }

    /// Finds a program for hosts: in `$COORD_WORKERS`, in `artifacts/workers/` here, and above our own program.
    func program(_ name: String, triple: String? = nil) throws -> String {
        let triple = triple ?? Self.ownTriple
        var folders = [artifacts + "/workers"]
        if let given = Machine.environment("COORD_WORKERS") { folders.insert(given, at: 0) }
        var above = Files.parent(Machine.executable)
        while above != "/" && above != "." {
            folders.append(above + "/artifacts/workers")
            above = Files.parent(above)
        }
        for folder in folders where Files.kind("\(folder)/\(triple)/\(name)") == .file {
            return Files.resolved("\(folder)/\(triple)/\(name)")
        }
        throw CoordinatorError(
            "no \(name) for \(triple): looked for \(folders[0])/\(triple)/\(name)",
            hint: "build it on such a machine: scripts/build-worker",
            exitCode: .badInput
        )
    }

    /// The kinds of machines that a worker can be built for.
    static let triples = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]

    private static var ownTriple: String {
        #if arch(x86_64)
        "x86_64-unknown-linux-gnu"
        #else
        "aarch64-unknown-linux-gnu"
        #endif
    }
}
