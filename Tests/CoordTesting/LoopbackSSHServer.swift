internal import Basics
internal import Dispatch
internal import Glibc
internal import Synchronization

/// A real, private `sshd` on 127.0.0.1 with keys of its own, for tests.
///
/// Everything it needs is in a temporary folder; it ends with ``stop()`` or with this process.
public final class LoopbackSSHServer: Sendable {
    /// What differs from an ordinary server.
    public struct Options: Sendable {
        /// Further lines of `sshd_config`.
        public var configuration: [String] = []
        /// A banner shown before the login.
        public var banner: String?
        /// Further public keys that it accepts, as in `.pub` files.
        public var authorizedKeys: [String] = []
        /// Listen on this port instead of a free one.
        public var port: UInt16?
        /// An ordinary server.
        public init() {}
    }

    /// The server program.
    public static let program = "/usr/sbin/sshd"
    /// True when this machine can run one.
    public static var isAvailable: Bool { Files.kind(program) == .file && getuid() == 0 }
    /// Why tests are skipped when it can't.
    public static let reason = "needs \(program) (apt-get install openssh-server) and root"

    /// Where keys, configuration and log are.
    public let directory: String
    /// The port it listens on.
    public let port: UInt16
    /// A private key that it accepts.
    public var clientKey: String { "\(directory)/client_key" }
    /// A private key that it does not accept.
    public var strangerKey: String { "\(directory)/stranger_key" }
    /// Its own public key's file.
    public var hostKeyFile: String { "\(directory)/host_key.pub" }
    /// The user to log in as: whoever runs the tests.
    public let user: String
    /// Its process id.
    public let pid: Int32

    /// The thread that started the server: its death, also by a crash of this process, is the server's.
    private final class Keeper: @unchecked Sendable {
        // Safety: each property is written before the semaphore that its reader waits for.
        var child: Result<ChildProcess, any Error>?
        let started = DispatchSemaphore(value: 0)
        let mayEnd = DispatchSemaphore(value: 0)
    }

    private let keeper: Keeper
    private let isStopped = Mutex(false)

    /// Starts a server and waits until it listens.
    public init(_ options: Options = Options()) throws {
        user = getpwuid(getuid()).map { String(cString: $0.pointee.pw_name) } ?? "root"
        directory = try Files.makeTemporaryDirectory(prefix: "coord-sshd")
        // sshd insists on its separation folder, which the service's start script makes.
        try Files.createDirectory("/run/sshd", mode: 0o755)
        for name in ["host_key", "client_key", "stranger_key"] { try Self.makeKey("\(directory)/\(name)") }
        let own = try Files.readText("\(directory)/client_key.pub")
        try Files.writeAtomically(
            ([own] + options.authorizedKeys).joined(separator: "\n"),
            to: "\(directory)/authorized_keys",
            mode: 0o600
        )
        var lines = [
            "ListenAddress 127.0.0.1", "HostKey \(directory)/host_key", "PidFile none", "UsePAM no",
            "AuthorizedKeysFile \(directory)/authorized_keys", "StrictModes no", "PermitRootLogin yes",
            "PasswordAuthentication no", "KbdInteractiveAuthentication no", "MaxStartups 100",
        ]
        if let banner = options.banner {
            try Files.writeAtomically(banner, to: "\(directory)/banner")
            lines.append("Banner \(directory)/banner")
        }
        // The first value counts in sshd's configuration.
        lines = options.configuration + lines
        try Files.writeAtomically(lines.joined(separator: "\n") + "\n", to: "\(directory)/sshd_config")
        let log = "\(directory)/log"
        // A free port may be taken before sshd has it: then it ends at once, and we try another.
        for _ in 0..<5 {
            let port = try options.port ?? Self.freePort()
            let keeper = Keeper()
            let command = [
                Self.program, "-D", "-f", "\(directory)/sshd_config", "-p", String(port), "-E", log,
            ]
            Self.startThread {
                keeper.child = Result {
                    try ChildProcess(command, files: [-1, -1, -1], diesWithParent: true)
                }
                keeper.started.signal()
                keeper.mayEnd.wait()
            }
            keeper.started.wait()
            guard let child = try keeper.child?.get() else { continue }
            if Self.waitUntilListening(port, pid: child.pid) {
                self.port = port
                self.keeper = keeper
                pid = child.pid
                return
            }
            child.signal(SIGKILL)
            _ = child.wait()
            keeper.mayEnd.signal()
        }
        throw FileError(.read, log, errno: EADDRINUSE)
    }

    deinit { stop() }

    /// Ends the server, its connections and its files.
    public func stop() {
        let wasStopped = isStopped.withLock { value in
            defer { value = true }
            return value
        }
        guard !wasStopped, let child = try? keeper.child?.get() else { return }
        // Orphans have no parent to be found by: the list comes first.
        let children = connections
        child.signal(SIGKILL)
        for child in children { kill(child, SIGKILL) }
        _ = child.wait()
        keeper.mayEnd.signal()
        try? Files.remove(directory)
    }

    /// The processes that serve one connection each.
    public var connections: [Int32] {
        let text = (try? Files.readText("/proc/\(pid)/task/\(pid)/children")) ?? ""
        return text.split(separator: " ").compactMap { Int32($0) }
    }

    /// What the server wrote about itself.
    public var log: String { (try? Files.readText("\(directory)/log")) ?? "" }

    /// Makes an Ed25519 key pair without passphrase.
    public static func makeKey(_ path: String) throws {
        _ = try ChildProcess.run([
            "/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path,
        ])
    }

    /// A port of the loopback interface that nobody listens on.
    public static func freePort() throws -> UInt16 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(descriptor) }
        var address = loopback(0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutableBytes(of: &address) { bytes in
            let pointer = bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self)
            bind(descriptor, pointer, length)
            getsockname(descriptor, pointer, &length)
        }
        return UInt16(bigEndian: address.sin_port)
    }

    private static func loopback(_ port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }

    private static func waitUntilListening(_ port: UInt16, pid: Int32) -> Bool {
        for _ in 0..<1000 {
            let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            defer { close(descriptor) }
            var address = loopback(port)
            let result = withUnsafeBytes(of: &address) {
                connect(
                    descriptor,
                    $0.baseAddress?.assumingMemoryBound(to: sockaddr.self),
                    socklen_t(MemoryLayout<sockaddr_in>.size)
                )
            }
            if result == 0 { return true }
            // Nothing tells that a port is open but trying; 10 ms, or the end of the process.
            guard let identity = ProcessIdentity(pid: pid) else {
                return false
            }
            if identity.waitForEnd(milliseconds: 10) { return false }
        }
        return false
    }

    private static func startThread(_ body: @escaping @Sendable () -> Void) {
        final class Box: Sendable {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        var thread = pthread_t()
        let started = pthread_create(
            &thread,
            nil,
            { context in
                if let context { Unmanaged<Box>.fromOpaque(context).takeRetainedValue().body() }
                return nil
            },
            Unmanaged.passRetained(Box(body)).toOpaque()
        )
        precondition(started == 0, "pthread_create failed with errno \(started)")
        pthread_detach(thread)
    }
}
