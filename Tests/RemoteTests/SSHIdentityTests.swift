import Basics
import CoordTesting
import Glibc
import Synchronization
import Testing

@testable import Remote

/// A real ssh-agent of a test.
private final class TestAgent {
    let socket: String
    private let child: ChildProcess

    init(in directory: String) throws {
        socket = "\(directory)/agent.sock"
        child = try ChildProcess(
            ["/usr/bin/ssh-agent", "-D", "-a", socket],
            files: [-1, -1, -1],
            diesWithParent: true
        )
        try waitUntil { Files.kind(socket) != nil }
    }

    func add(_ key: String, passphrase: String? = nil) throws {
        let askpass = "\(Files.parent(socket))/askpass"
        try Files.writeAtomically("#!/bin/sh\necho '\(passphrase ?? "")'\n", to: askpass, mode: 0o700)
        let added = try ChildProcess.run(
            ["/usr/bin/ssh-add", "-q", key],
            environment: [
                "SSH_AUTH_SOCK=\(socket)", "SSH_ASKPASS=\(askpass)", "SSH_ASKPASS_REQUIRE=force",
            ]
        )
        #expect(added.exit.isSuccess, "\(String(decoding: added.errors, as: UTF8.self))")
    }

    deinit {
        child.signal(SIGKILL)
        _ = child.wait()
    }
}

@Suite(
    .enabled(if: LoopbackSSHServer.isAvailable, Comment(rawValue: LoopbackSSHServer.reason)),
    // Blocking tests queue for the pool's few threads, and the queue would count against their time limit.
    .serialized,
    .timeLimit(.minutes(5))
)
final class SSHIdentityTests {
    private let home: String
    private let words = "not a secret at all"

    init() throws { home = try Files.makeTemporaryDirectory(prefix: "coord-identity") }

    deinit { try? Files.remove(home) }

    private func makeKey(_ name: String, _ options: [String] = [], passphrase: String = "") throws -> String {
        let path = "\(home)/\(name)"
        let made = try ChildProcess.run(
            ["/usr/bin/ssh-keygen", "-q", "-N", passphrase, "-C", name, "-f", path]
                + (options.isEmpty ? ["-t", "ed25519"] : options)
        )
        #expect(made.exit.isSuccess, "\(String(decoding: made.errors, as: UTF8.self))")
        return path
    }

    private func server(accepting keys: [String], _ lines: [String] = []) throws -> LoopbackSSHServer {
        var options = LoopbackSSHServer.Options()
        options.authorizedKeys = try keys.map { try Files.readText("\($0).pub") }
        options.configuration = lines
        return try LoopbackSSHServer(options)
    }

    /// An endpoint whose keys are those of a configuration.
    private func endpoint(_ server: LoopbackSSHServer, _ lines: String) throws -> SSHEndpoint {
        let path = "\(home)/config"
        try Files.writeAtomically(
            "Host *\n  User \(server.user)\n  Port \(server.port)\n  GlobalKnownHostsFile /dev/null\n"
                + "  UserKnownHostsFile /dev/null\n\(lines)\n",
            to: path
        )
        return SSHEndpoint(
            name: "box",
            address: "127.0.0.1",
            knownHosts: "\(home)/known_hosts",
            configFile: path
        )
    }

    private func failure(_ host: SSHHost) throws -> RemoteError {
        try #require(#expect(throws: RemoteError.self) { try host.run("true") })
    }

    @Test func kindsAndFormatsOfKeysWork() throws {
        let kinds: [(String, [String])] = [
            ("ed25519", ["-t", "ed25519"]), ("ecdsa", ["-t", "ecdsa", "-b", "256"]),
            ("ecdsa384", ["-t", "ecdsa", "-b", "384", "-m", "PEM"]), ("rsa", ["-t", "rsa", "-b", "2048"]),
            ("rsa-pem", ["-t", "rsa", "-b", "2048", "-m", "PEM"]),
            ("rsa-pkcs8", ["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
        ]
        let keys = try kinds.map { try makeKey($0.0, $0.1) }
        let server = try server(accepting: keys)
        for key in keys {
            var endpoint = server.endpoint(identity: key)
            endpoint.knownHosts = "\(home)/known_hosts"
            let host = SSHHost(endpoint, policy: .acceptNew)
            #expect(try host.run("echo in").text == "in", "\(key)")
        }
    }

    @Test(arguments: [["-t", "ed25519"], ["-t", "rsa", "-b", "2048", "-m", "PEM"]])
    func encryptedKeyAsksForItsPassphrase(options: [String]) throws {
        let key = try makeKey("locked", options, passphrase: words)
        let server = try server(accepting: [key])
        let endpoint = server.endpoint(identity: key)
        let silent = try failure(SSHHost(endpoint, policy: .acceptNew))
        #expect(silent.code == .passphraseNeeded)
        #expect(silent.exitCode == .keyRefused)
        #expect(silent.phase == .authenticate)
        #expect(silent.message.contains(key))
        #expect(silent.hint?.contains("ssh-add") == true)

        let questions = Mutex<[PassphraseQuestion]>([])
        let right = Redacted(words)
        let host = SSHHost(endpoint, policy: .acceptNew) { question in
            questions.withLock { $0.append(question) }
            return right
        }
        #expect(try host.run("echo in").text == "in")
        #expect(questions.withLock { $0 } == [PassphraseQuestion(host: "box", path: key, attempt: 1)])

        let attempts = Mutex<[Int]>([])
        let wrong = try failure(
            SSHHost(endpoint, policy: .acceptNew) { question in
                attempts.withLock { $0.append(question.attempt) }
                return Redacted("wrong words")
            }
        )
        #expect(attempts.withLock { $0 } == [1, 2, 3])
        #expect(wrong.code == .passphraseNeeded)
        #expect(wrong.message.contains("does not fit"))
        #expect(!String(describing: wrong).contains("wrong words"))
    }

    @Test func nobodyIsAskedForAKeyThatTheHostRefuses() throws {
        let key = try makeKey("locked", passphrase: words)
        let server = try server(accepting: [])
        let host = SSHHost(server.endpoint(identity: key), policy: .acceptNew) { _ in
            Issue.record("asked")
            return nil
        }
        #expect(try failure(host).code == .keyRefused)
    }

    @Test func agentSignsForAnEncryptedKeyOfTheClusterFile() throws {
        let key = try makeKey("locked", passphrase: words)
        let agent = try TestAgent(in: home)
        for index in 0..<8 { try agent.add(try makeKey("stranger\(index)")) }
        try agent.add(key, passphrase: words)
        let server = try server(accepting: [key], ["MaxAuthTries 1", "LogLevel VERBOSE"])
        var endpoint = try endpoint(server, "  IdentityAgent \(agent.socket)")
        endpoint.identity = key
        let host = SSHHost(endpoint, policy: .acceptNew)
        #expect(try host.run("echo in").text == "in")
        #expect(!server.log.contains("Failed publickey"), "no other key was offered")
    }

    @Test func namedKeysOfTheAgentComeFirst() throws {
        let key = try makeKey("mine")
        let agent = try TestAgent(in: home)
        for index in 0..<8 { try agent.add(try makeKey("stranger\(index)")) }
        try agent.add(key)
        let server = try server(accepting: [key], ["MaxAuthTries 2", "LogLevel VERBOSE"])
        // As people do who keep only public keys on disk.
        let named = try endpoint(server, "  IdentityAgent \(agent.socket)\n  IdentityFile \(key).pub")
        #expect(try SSHHost(named, policy: .acceptNew).run("echo in").text == "in")
        #expect(!server.log.contains("Failed publickey"))

        let all = try endpoint(server, "  IdentityAgent \(agent.socket)\n  IdentityFile /nonexistent")
        let error = try failure(SSHHost(all, policy: .acceptNew))
        #expect(error.code == .keyRefused)
        #expect(error.hint?.contains("MaxAuthTries") == true, "\(error)")

        let only = try endpoint(
            server,
            "  IdentityAgent \(agent.socket)\n  IdentityFile /nonexistent\n  IdentitiesOnly yes"
        )
        #expect(try failure(SSHHost(only, policy: .acceptNew)).message.contains("no key was found to offer"))
    }

    @Test func agentOnlyIsEnough() throws {
        let key = try makeKey("mine", ["-t", "rsa", "-b", "2048"])
        let agent = try TestAgent(in: home)
        try agent.add(key)
        let server = try server(accepting: [key])
        let host = SSHHost(
            try endpoint(server, "  IdentityAgent \(agent.socket)\n  IdentityFile /nonexistent"),
            policy: .acceptNew
        )
        #expect(try host.run("echo in").text == "in")
        let stream = try host.openStream("exec cat")
        close(stream)
    }

    @Test func agentThatHangsOrIsGoneIsPassedOver() throws {
        let key = try makeKey("mine")
        let server = try server(accepting: [key])
        let hung = "\(home)/hung.sock"
        let listener = try UnixSocket.listen(hung)
        defer { close(listener) }
        for socket in [hung, "\(home)/none.sock"] {
            let host = SSHHost(
                try endpoint(server, "  IdentityAgent \(socket)\n  IdentityFile \(key)"),
                policy: .acceptNew,
                timeouts: SSHTimeouts(authenticate: .seconds(10))
            )
            #expect(try host.run("echo in").text == "in")
        }
    }

    @Test func severalFilesAreTriedAndUnusableOnesNamed() throws {
        let wrong = try makeKey("wrong")
        let right = try makeKey("right")
        try Files.writeAtomically("no key", to: "\(home)/broken", mode: 0o600)
        let server = try server(accepting: [right])
        let lines = "  IdentityAgent none\n  IdentityFile \(home)/broken\n  IdentityFile \(wrong)\n"
        let host = SSHHost(try endpoint(server, lines + "  IdentityFile \(right)"), policy: .acceptNew)
        #expect(try host.run("echo in").text == "in")
        let error = try failure(SSHHost(try endpoint(server, lines), policy: .acceptNew))
        #expect(error.message.contains("\(home)/broken (not usable") && error.message.contains(wrong))
    }

    @Test func filesTellWhatTheyAreWithoutAPassphrase() throws {
        let plain = try makeKey("plain")
        let locked = try makeKey("locked", passphrase: words)
        let pem = try makeKey("pem", ["-t", "rsa", "-b", "2048", "-m", "PEM"], passphrase: words)
        for (path, isEncrypted, showsKey) in [(plain, false, true), (locked, true, true), (pem, true, false)]
        {
            let file = try #require(PrivateKeyFile(text: try Files.readText(path)))
            #expect(file.isEncrypted == isEncrypted, "\(path)")
            #expect(file.publicKey == (showsKey ? PrivateKeyFile.publicKey(beside: path) : nil))
        }
        #expect(PrivateKeyFile(text: "ssh-ed25519 AAAA") == nil)
        #expect(PrivateKeyFile(text: "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END") == nil)
    }
}
