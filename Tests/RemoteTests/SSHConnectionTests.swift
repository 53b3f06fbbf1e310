import Basics
import CoordTesting
import Glibc
import Synchronization
import Testing

@testable import Remote

extension LoopbackSSHServer {
    /// Writes an ssh configuration beside the server's files.
    func configuration(_ text: String) throws -> String {
        let path = "\(directory)/ssh_config"
        try Files.writeAtomically(text, to: path)
        return path
    }

    /// `Host NAME` for this server.
    func stanza(_ name: String, _ more: String = "") -> String {
        """
        Host \(name)
          HostName 127.0.0.1
          Port \(port)
          User \(user)
          IdentityFile \(clientKey)
          IdentitiesOnly yes
          UserKnownHostsFile /dev/null
          GlobalKnownHostsFile /dev/null
          \(more)

        """
    }

    /// How a test reaches an alias of a configuration.
    func endpoint(alias: String, configuration: String) -> SSHEndpoint {
        SSHEndpoint(
            name: "box",
            address: alias,
            knownHosts: "\(directory)/known_hosts",
            configFile: configuration
        )
    }
}

@Suite(
    .enabled(if: LoopbackSSHServer.isAvailable, Comment(rawValue: LoopbackSSHServer.reason)),
    // Blocking tests queue for the pool's few threads, and the queue would count against their time limit.
    .serialized,
    .timeLimit(.minutes(5))
)
struct SSHConnectionTests {
    private let server: LoopbackSSHServer

    init() throws { server = try LoopbackSSHServer() }

    private func host(_ configuration: String, alias: String = "alias") throws -> SSHHost {
        let path = try server.configuration(configuration)
        return SSHHost(server.endpoint(alias: alias, configuration: path), policy: .acceptNew)
    }

    private func failure(_ host: SSHHost) throws -> RemoteError {
        try #require(#expect(throws: RemoteError.self) { try host.run("true") })
    }

    // MARK: Names of ~/.ssh/config

    @Test func aliasWithMatchAndIncludeJustWorks() throws {
        try Files.writeAtomically(server.stanza("alias_with_line"), to: "\(server.directory)/included")
        let host = try host(
            """
            Include \(server.directory)/included
            Match host 127.0.0.1
              HostKeyAlias the-pod
            """,
            alias: "alias_with_line"
        )
        #expect(try host.run("echo in").text == "in")
        let known = try HostKeys.list("\(server.directory)/known_hosts")
        #expect(known.lines.map(\.patterns) == ["the-pod"], "pinned under its alias")
    }

    @Test func namesArePrintedWhenTheConfigurationIsBroken() throws {
        let error = try failure(try host("NoSuchOption yes\n"))
        #expect(error.phase == .resolve)
        #expect(error.code == .badClientConfiguration)
        #expect(error.message.lowercased().contains("nosuchoption"))
    }

    @Test func slowConfigurationMeetsItsDeadline() throws {
        let path = try server.configuration("Match exec \"sleep 60\"\n" + server.stanza("alias"))
        let host = SSHHost(
            server.endpoint(alias: "alias", configuration: path),
            policy: .acceptNew,
            timeouts: SSHTimeouts(resolve: .milliseconds(300))
        )
        let started = ContinuousClock.now
        let error = try failure(host)
        #expect(error.phase == .resolve && error.code == .timedOut)
        #expect(error.hint?.contains("Match exec") == true)
        #expect(ContinuousClock.now - started < .seconds(20))
    }

    @Test func connectionsOfOneMomentAskOnce() throws {
        let gate = "\(server.directory)/gate"
        let count = "\(server.directory)/count"
        #expect(mkfifo(gate, 0o600) == 0)
        let path = try server.configuration(
            "Match exec \"echo asked >> \(count); read x < \(gate)\"\n" + server.stanza("alias")
        )
        let source = SSHConfigSource(client: "/usr/bin/ssh")
        let query = SSHConfigSource.Query(alias: "alias", file: path)
        let ports = Mutex<[UInt16?]>([])
        let threads = Workers()
        for _ in 0..<4 {
            threads.start {
                let answer = try? source.ask(query, for: "box", timeout: .seconds(20))
                ports.withLock { $0.append(answer?.port) }
            }
        }
        try waitUntil { source.sharers(of: query) == 3 && Files.kind(count) == .file }
        let writing = open(gate, O_WRONLY)
        #expect(write(writing, "go\n", 3) == 3)
        close(writing)
        threads.wait()
        #expect(ports.withLock { $0 } == [server.port, server.port, server.port, server.port])
        #expect(try Files.readText(count) == "asked\n")
    }

    @Test func endpointThatChangedIsFoundAnew() throws {
        let other = try LoopbackSSHServer()
        let path = try server.configuration(server.stanza("alias"))
        let host = SSHHost(server.endpoint(alias: "alias", configuration: path), policy: .acceptNew)
        #expect(try host.run("true").exit.isSuccess)
        try Files.writeAtomically(other.stanza("alias"), to: path)
        let stream = try host.openStream("exec cat")
        defer { close(stream) }
        #expect(other.log.contains("Accepted publickey"))
    }

    @Test func withoutAClientLibsshReadsTheFile() throws {
        let path = try server.configuration(
            "Host alias\n  HostName 127.0.0.1\n  Port \(server.port)\n  User \(server.user)\n"
                + "  IdentityFile \(server.clientKey)\nHost jumped\n  ProxyJump alias\n"
        )
        let source = SSHConfigSource(client: "/nonexistent/ssh")
        let endpoint = server.endpoint(alias: "alias", configuration: path)
        let connector = SSHConnector(endpoint: endpoint, policy: .acceptNew, timeouts: SSHTimeouts())
        #expect(try SSHHost(connector, source: source).run("echo in").text == "in")
        // A file's port does not win over the cluster file's.
        var explicit = endpoint
        explicit.port = 7
        #expect(try SSHRoute.resolve(explicit, source: source).target.port == 7)
        let jumped = server.endpoint(alias: "jumped", configuration: path)
        let error = try #require(
            #expect(throws: RemoteError.self) { try SSHRoute.resolve(jumped, source: source) }
        )
        #expect(error.message.contains("ProxyJump"))
        #expect(error.hint?.contains("openssh-client") == true)
    }

    @Test func proxyCommandCarriesTheConnectionAndEndsWithIt() throws {
        let pidFile = "\(server.directory)/proxy.pid"
        let relay = "\(server.directory)/relay.py"
        try Files.writeAtomically(Self.relay, to: relay)
        let host = try host(
            server.stanza("alias", "ProxyCommand sh -c 'echo $$ > \(pidFile); exec python3 \(relay) %h %p'")
        )
        #expect(try host.run("echo in").text == "in")
        let pid = try #require(Int32(try Files.readText(pidFile).prefix { $0.isNumber }))
        #expect(ProcessIdentity(pid: pid) != nil)
        host.close()
        try waitUntil { ProcessIdentity(pid: pid) == nil }
    }

    /// `nc` in the words of the Python that tests have anyway.
    private static let relay = """
        import os, socket, sys, threading
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        def up():
            for b in iter(lambda: os.read(0, 65536), b''): s.sendall(b)
        threading.Thread(target=up, daemon=True).start()
        for b in iter(lambda: s.recv(65536), b''): os.write(1, b)
        """

    /// The same at 100 KB a second, for at most so many bytes of what we send.
    private static let slowRelay = """
        import os, socket, sys, threading, time
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        left = int(sys.argv[3])
        def up():
            global left
            while left > 0:
                b = os.read(0, 4096)
                if not b: return
                time.sleep(len(b) / 1e5)
                s.sendall(b)
                left -= len(b)
        threading.Thread(target=up, daemon=True).start()
        for b in iter(lambda: s.recv(65536), b''): os.write(1, b)
        """

    @Test func aSlowLineIsNoSilence() throws {
        let relay = "\(server.directory)/slow.py"
        try Files.writeAtomically(Self.slowRelay, to: relay)
        let host = try host(server.stanza("alias", "ProxyCommand python3 \(relay) %h %p 1000000"))
        // Four seconds without a byte from there, and all was handed to the system long before.
        let count = try host.run("wc -c", input: [UInt8](repeating: 7, count: 400_000), silence: .seconds(1))
        #expect(count.text == "400000")
    }

    @Test func aCommandThatReadsNoMoreIsSilence() throws {
        let host = try host(server.stanza("alias"))
        let error = #expect(throws: RemoteError.self) {
            try host.run(
                "exec sleep 100",
                input: [UInt8](repeating: 7, count: 16 << 20),
                silence: .seconds(1)
            )
        }
        #expect(error?.code == .timedOut)
    }

    @Test(.timeLimit(.minutes(5))) func aProxyCommandThatReadsNoMoreIsSilence() throws {
        let relay = "\(server.directory)/slow.py"
        try Files.writeAtomically(Self.slowRelay, to: relay)
        let host = try host(server.stanza("alias", "ProxyCommand python3 \(relay) %h %p 60000"))
        let error = #expect(throws: RemoteError.self) {
            try host.run("wc -c", input: [UInt8](repeating: 7, count: 4 << 20), silence: .seconds(1))
        }
        #expect(error?.code == .timedOut)
    }

    @Test func proxyCommandThatFailsIsQuoted() throws {
        let error = try failure(try host(server.stanza("alias", "ProxyCommand echo no such proxy >&2")))
        #expect(error.phase == .handshake)
        #expect(error.exitCode == .unreachable)
        #expect(error.message.contains("no such proxy"))
    }

    // MARK: Jumps

    @Test func twoJumpsAreGoneNatively() throws {
        let first = try LoopbackSSHServer()
        var options = LoopbackSSHServer.Options()
        options.configuration = ["MaxSessions 0"]
        let second = try LoopbackSSHServer(options)
        let host = try host(
            server.stanza("alias", "ProxyJump second") + second.stanza("second", "ProxyJump first")
                + first.stanza("first")
        )
        #expect(try host.run("echo through").text == "through")
        for station in [first, second, server] { #expect(station.log.contains("Accepted publickey")) }
        let known = try HostKeys.list("\(server.directory)/known_hosts").lines.map(\.key)
        #expect(known == [try first.hostKey(), try second.hostKey(), try server.hostKey()])
        try checkLargeInput(host)

        let end = Mutex<StreamEnd?>(nil)
        let threads = Workers()
        threads.expect()
        let stream = try host.openStream("echo hello; exec sleep 60") { value in
            end.withLock { $0 = value }
            threads.done()
        }
        defer { close(stream) }
        var hello = [UInt8](repeating: 0, count: 6)
        #expect(recv(stream, &hello, 6, Int32(MSG_WAITALL)) == 6)
        for process in first.connections { kill(process, SIGKILL) }
        #expect(readAll(stream).count == 0)
        threads.wait()
        let error = try #require(end.withLock { $0?.error })
        #expect(error.code == .connectionLost)
        #expect(error.host == "box")
        #expect(error.message.contains("jump first of box"), "\(error.message)")
    }

    @Test func keyOfEachJumpIsCheckedBeforeAnythingIsShown() throws {
        let jump = try LoopbackSSHServer()
        let path = try server.configuration(server.stanza("alias", "ProxyJump gate") + jump.stanza("gate"))
        let endpoint = server.endpoint(alias: "alias", configuration: path)
        let error = try failure(SSHHost(endpoint))
        #expect(error.phase == .trust)
        #expect(error.code == .hostKeyUnknown)
        #expect(error.message.contains("jump gate of box"))
        #expect(error.message.contains(try jump.hostKey().fingerprint))
        #expect(!jump.log.contains("Accepted publickey"))
        #expect(!server.log.contains("Connection from"))
        // The pin is the host's own: it lets no jump in.
        var pinned = endpoint
        pinned.hostKeyFingerprint = try jump.hostKey().fingerprint
        #expect(try failure(SSHHost(pinned)).code == .hostKeyUnknown)
    }

    @Test func jumpThatForbidsForwardingIsNamed() throws {
        var options = LoopbackSSHServer.Options()
        options.configuration = ["AllowTcpForwarding no"]
        let jump = try LoopbackSSHServer(options)
        let error = try failure(
            try host(server.stanza("alias", "ProxyJump gate") + jump.stanza("gate"))
        )
        #expect(error.phase == .connect)
        #expect(error.code == .channelRefused)
        #expect(error.message.contains("jump gate of box"))
        #expect(error.hint?.contains("AllowTcpForwarding") == true)
    }

    @Test func jumpThatRefusesOurKeyIsNamed() throws {
        let jump = try LoopbackSSHServer()
        let stanza = jump.stanza("gate").replacing(jump.clientKey, with: jump.strangerKey)
        let error = try failure(try host(server.stanza("alias", "ProxyJump gate") + stanza))
        #expect(error.phase == .authenticate)
        #expect(error.message.contains("jump gate of box"))
    }

    @Test func closedPortBehindAJumpIsNamed() throws {
        let jump = try LoopbackSSHServer()
        let port = try LoopbackSSHServer.freePort()
        let error = try failure(
            try host(
                server.stanza("alias", "ProxyJump gate").replacing(
                    "Port \(server.port)",
                    with: "Port \(port)"
                )
                    + jump.stanza("gate")
            )
        )
        #expect(error.phase == .connect)
        #expect(error.code == .connectionRefused, "\(error.message)")
        #expect(error.message.contains("127.0.0.1:\(port)"))
    }

    // MARK: The person's own known hosts

    @Test func keyThatThePersonTrustsIsKnownAndNotWritten() throws {
        let own = "\(server.directory)/persons"
        let name = "[127.0.0.1]:\(server.port)"
        try HostKeys.add(try server.hostKey(), of: name, to: own)
        let before = try Files.read(own)
        let path = try server.configuration(
            server.stanza("alias").replacing(
                "UserKnownHostsFile /dev/null",
                with: "UserKnownHostsFile \(own)"
            )
        )
        let endpoint = server.endpoint(alias: "alias", configuration: path)
        #expect(try SSHHost(endpoint).run("echo in").text == "in")
        #expect(Files.kind(endpoint.knownHosts) == nil)
        #expect(try Files.read(own) == before)

        try Files.remove(own)
        let other = try LoopbackSSHServer().hostKey()
        try HostKeys.add(other, of: name, to: own)
        let changed = try failure(SSHHost(endpoint, policy: .acceptNew))
        #expect(changed.code == .hostKeyChanged)
        for part in [own, other.fingerprint, try server.hostKey().fingerprint] {
            #expect(changed.message.contains(part))
        }
        // What `coord keys trust` writes wins over the person's file.
        try HostKeys.replace(try server.hostKey(), of: name, in: endpoint.knownHosts)
        #expect(try SSHHost(endpoint).run("echo in").text == "in")
        let key = try server.hostKey()
        try Files.append(Array("@revoked * \(key.kind) \(key.base64)\n".utf8), to: own)
        #expect(try failure(SSHHost(endpoint)).code == .hostKeyRevoked)
    }

    @Test func pinnedKeyLineIsEnough() throws {
        var endpoint = server.endpoint()
        let key = try server.hostKey()
        endpoint.hostKeyFingerprint = "\(key.kind) \(key.base64) comment"
        #expect(try SSHHost(endpoint).run("true").exit.isSuccess)
        let other = try LoopbackSSHServer().hostKey()
        endpoint.hostKeyFingerprint = "\(other.kind) \(other.base64)"
        let error = try failure(SSHHost(endpoint))
        #expect(error.code == .hostKeyChanged)
        #expect(error.message.contains(other.fingerprint) && error.message.contains(key.fingerprint))
    }

    @Test func pinnedFingerprintOfAnyOfTheHostsKeysIsEnough() throws {
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-hostkeys")
        defer { try? Files.remove(folder) }
        var options = LoopbackSSHServer.Options()
        for kind in ["ecdsa", "rsa"] {
            let made = try ChildProcess.run([
                "/usr/bin/ssh-keygen", "-q", "-t", kind, "-N", "", "-f", "\(folder)/\(kind)",
            ])
            #expect(made.exit.isSuccess)
            options.configuration.append("HostKey \(folder)/\(kind)")
        }
        let server = try LoopbackSSHServer(options)
        for kind in ["ecdsa", "rsa"] {
            let key = try #require(PrivateKeyFile.publicKey(beside: "\(folder)/\(kind)"))
            var endpoint = server.endpoint()
            endpoint.hostKeyFingerprint = key.fingerprint
            #expect(try SSHHost(endpoint).run("echo in").text == "in", "\(kind)")
            endpoint.hostKeyFingerprint = "\(key.kind) \(key.base64)"
            try SSHHost.checkHostKey(endpoint, policy: .strict)
        }
        var endpoint = server.endpoint()
        let other = "SHA256:" + Base64.encode([UInt8](repeating: 1, count: 32), padded: false)
        endpoint.hostKeyFingerprint = other
        let error = try failure(SSHHost(endpoint, policy: .acceptNew))
        #expect(error.message.contains(try server.hostKey().fingerprint) && error.message.contains(other))
    }

    // MARK: Addresses and keepalive

    @Test(.enabled(if: Files.kind("/proc/net/if_inet6") != nil, "needs IPv6"))
    func sixthVersionOfIPWorks() throws {
        var options = LoopbackSSHServer.Options()
        options.configuration = ["ListenAddress ::1"]
        let server = try LoopbackSSHServer(options)
        var endpoint = server.endpoint()
        endpoint.address = "::1"
        let host = SSHHost(endpoint, policy: .acceptNew)
        #expect(try host.run("echo ${SSH_CONNECTION%% *}").text == "::1")
        #expect(
            try HostKeys.list(endpoint.knownHosts).lines.map(\.patterns) == ["[::1]:\(server.port)"]
        )
    }

    @Test func deadConnectionIsNoticed() throws {
        let host = try host(server.stanza("alias", "ServerAliveInterval 1\n  ServerAliveCountMax 1"))
        let end = Mutex<StreamEnd?>(nil)
        let threads = Workers()
        threads.expect()
        let stream = try host.openStream("echo hello; exec sleep 60") { value in
            end.withLock { $0 = value }
            threads.done()
        }
        defer { close(stream) }
        var hello = [UInt8](repeating: 0, count: 6)
        #expect(recv(stream, &hello, 6, Int32(MSG_WAITALL)) == 6)
        let processes = server.connections
        for process in processes { kill(process, SIGSTOP) }
        defer { for process in processes { kill(process, SIGCONT) } }
        threads.wait()
        #expect(end.withLock { $0?.error?.code } == .connectionLost)
        #expect(end.withLock { $0?.error?.message.contains("nothing heard for 2 s") } == true)
    }

    @Test(arguments: [true, false])
    func fastestCipherOfBothIsTaken(hasAES: Bool) throws {
        let endpoint = server.endpoint()
        let connector = SSHConnector(
            endpoint: endpoint,
            policy: .acceptNew,
            timeouts: SSHTimeouts(),
            ciphers: SSHCiphers.order(hasAES: hasAES)
        )
        let session = try connector.connect(
            try SSHRoute.resolve(endpoint),
            deadline: Deadline(after: .seconds(20))
        )
        defer { session.close() }
        #expect(session.cipher == (hasAES ? "aes256-gcm@openssh.com" : "chacha20-poly1305@openssh.com"))
    }
}
