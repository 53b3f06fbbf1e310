internal import Basics
internal import ContentStore
internal import Coordinator
internal import Remote
internal import Synchronization
internal import Wire

#if canImport(Glibc)
internal import Glibc
#endif

/// `coord-bench push`: seconds from files on the disk to chunks that were verified in the stores of hosts.
///
/// The hosts are sshds that somebody else started; worker and agents are brought there before the clock starts.
/// The clock covers what `scp` does too: connecting, reading, sending. `Benchmarks/push-vs-scp.py` runs both by turns.
enum PushSuite {
    private struct Options {
        var path = ""
        var key = ""
        var knownHosts = ""
        var worker = ""
        /// `ADDRESS:PORT:FOLDER` of each host.
        var hosts: [(address: String, port: UInt16, root: String)] = []
        /// A folder whose manifest the hosts have from a push before.
        var base: String?
        var user = "root"
        /// A folder for a store of ours into which the first host's manifest is fetched afterwards.
        var pull: String?
        /// Leave the stores as they are at the end.
        var keeps = false
    }

    private static let cluster = "bench"

    static func run(_ arguments: [String]) throws {
        // A connection that ends is an error of a write, not the end of this program.
        signal(SIGPIPE, SIG_IGN)
        var options = Options()
        var rest = arguments[...]
        while let word = rest.popFirst() {
            switch word {
            case "--key": options.key = rest.popFirst() ?? ""
            case "--known-hosts": options.knownHosts = rest.popFirst() ?? ""
            case "--worker": options.worker = rest.popFirst() ?? ""
            case "--base": options.base = rest.popFirst()
            case "--user": options.user = rest.popFirst() ?? ""
            case "--pull": options.pull = rest.popFirst()
            case "--keep": options.keeps = true
            case "--host":
                let parts = (rest.popFirst() ?? "").split(separator: ":").map(String.init)
                guard parts.count == 3, let port = UInt16(parts[1]) else { return usage() }
                options.hosts.append((parts[0], port, parts[2]))
            default: options.path = word
            }
        }
        guard !options.path.isEmpty, !options.hosts.isEmpty, !options.worker.isEmpty else { return usage() }
        for (number, host) in options.hosts.enumerated() {
            let ssh = connection(number, options)
            let program = "\(host.root)/coord-worker"
            if try !ssh.run("cmp -s \(options.worker) \(program)").exit.isSuccess {
                let sent = try ssh.run(
                    "mkdir -p \(host.root) && cat > \(program) && chmod 755 \(program)",
                    input: try Files.read(options.worker),
                    silence: .seconds(60)
                )
                guard sent.exit.isSuccess else { fatalProblem(sent.errorText) }
            }
            let started = try ssh.run("\(program) start --directory \(host.root)/agent --cluster \(cluster)")
            guard started.exit.isSuccess else { fatalProblem(started.errorText) }
            ssh.close()
        }
        let bases = try options.base.map { [try FileTree($0, kind: "files").manifest.encoded()] } ?? []
        try measure(options, bases)
        for (number, host) in options.hosts.enumerated() where !options.keeps {
            let ssh = connection(number, options)
            let link = link(ssh, host.root)
            try link.with { try $0.endAgent() }
            link.close()
            ssh.close()
        }
        // The threads of closed connections may still be ending, and must not meet what `exit` takes down.
        fflush(nil)
        _exit(0)
    }

    private static func measure(_ options: Options, _ bases: [[UInt8]]) throws {
        let begin = Machine.monotonicSeconds
        let tree = try FileTree(listing: options.path, kind: "files")
        let results = Mutex<(onTheLine: Int64, connections: Int, failure: String?)>((0, 1, nil))
        let ends = Mutex<[Double]>([])
        let hosts = options.hosts.indices.map { connection($0, options) }
        let links = zip(hosts, options.hosts).map { link($0, $1.root) }
        try ChunkTransfer.push(scanning: tree, bases: bases, to: links) { _, result in
            switch result {
            case .success(let state):
                results.withLock { results in
                    results.onTheLine += state.onTheLine
                    results.connections = max(results.connections, state.connections)
                }
            case .failure(let error): results.withLock { $0.failure = "\(error)" }
            }
            ends.withLock { $0.append(Machine.monotonicSeconds - begin) }
        }
        let seconds = Machine.monotonicSeconds - begin
        let (onTheLine, connections, failure) = results.withLock { $0 }
        if let failure { fatalProblem(failure) }
        let name = Digest(of: tree.manifest.encoded())
        var pulled = ""
        if let folder = options.pull {
            let begin = Machine.monotonicSeconds
            let store = try ChunkStore(directory: folder)
            let state = try ChunkTransfer.pull(name, from: links[0], into: store)
            let seconds = Machine.monotonicSeconds - begin
            pulled = "\"pull_seconds\":\(seconds),\"pull_connections\":\(state.connections),"
        }
        for link in links { link.close() }
        for host in hosts { host.close() }
        // Not in the time: whoever took the chunks has verified each of them.
        var problems = 0
        for host in options.hosts where Files.kind("\(host.root)/agent/store") == .directory {
            problems += try ChunkStore(directory: "\(host.root)/agent/store").verify(name).count
        }
        print(
            "{\"suite\":\"push\",\"hosts\":\(options.hosts.count),\"files\":\(tree.manifest.files.count),"
                + "\"bytes\":\(tree.manifest.size),\"seconds\":\(seconds),"
                + "\"first_host_seconds\":\(ends.withLock { $0.min() ?? 0 }),"
                + "\"connections\":\(connections),\(pulled)\"on_the_line\":\(onTheLine),\"problems\":\(problems),\"manifest\":\"\(name)\"}"
        )
    }

    private static func connection(_ number: Int, _ options: Options) -> SSHHost {
        let host = options.hosts[number]
        return SSHHost(
            SSHEndpoint(
                name: "host-\(number)",
                address: host.address,
                port: host.port,
                user: options.user,
                identity: options.key,
                knownHosts: options.knownHosts
            ),
            policy: .acceptNew
        )
    }

    private static func link(_ ssh: SSHHost, _ root: String) -> BulkLink {
        BulkLink(host: ssh.name) {
            let socket = try ssh.openStream(BulkLink.bridge("\(root)/coord-worker", "\(root)/agent"))
            return try AgentClient(
                channel: .afterSentinel(socket: socket, timeoutMilliseconds: 20_000),
                host: ssh.name,
                cluster: cluster
            )
        }
    }

    private static func fatalProblem(_ text: String) -> Never {
        FileDescriptorOutput.error("coord-bench: error: \(text)\n")
        exit(1)
    }

    private static func usage() {
        print(
            "usage: coord-bench push PATH --key FILE --known-hosts FILE --worker FILE "
                + "--host ADDRESS:PORT:FOLDER... [--base FOLDER] [--pull FOLDER] [--user NAME] [--keep]"
        )
    }
}

private enum FileDescriptorOutput {
    static func error(_ text: String) {
        _ = Array(text.utf8).withUnsafeBytes { write(2, $0.baseAddress, $0.count) }
    }
}
