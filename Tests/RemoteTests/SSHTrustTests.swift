import Basics
import CoordTesting
import Glibc
import Synchronization
import Testing

@testable import Remote

@Suite(
    .enabled(if: LoopbackSSHServer.isAvailable, Comment(rawValue: LoopbackSSHServer.reason)),
    // Blocking tests queue for the pool's few threads, and the queue would count against their time limit.
    .serialized,
    .timeLimit(.minutes(5))
)
struct SSHTrustTests {
    private let server: LoopbackSSHServer
    private let key: HostKey

    init() throws {
        server = try LoopbackSSHServer()
        key = try server.hostKey()
    }

    private func refusal(_ endpoint: SSHEndpoint, _ policy: HostKeyPolicy = .strict) throws -> RemoteError {
        let host = SSHHost(endpoint, policy: policy)
        let error = #expect(throws: RemoteError.self) { try host.run("true") }
        return try #require(error)
    }

    @Test func unknownKeyIsRefusedWithItsFingerprint() throws {
        let error = try refusal(server.endpoint())
        #expect(error.code == .hostKeyUnknown)
        #expect(error.exitCode == .keyRefused)
        #expect(error.message.contains(key.fingerprint))
        #expect(error.hint?.contains("--accept-new-host-keys") == true)
        #expect(Files.kind(server.endpoint().knownHosts) == nil, "nothing was written down")
        #expect(!server.log.contains("Accepted publickey"), "nothing of ours was shown")
    }

    @Test func acceptedKeyIsPinned() throws {
        #expect(try SSHHost(server.endpoint(), policy: .acceptNew).run("true").exit.isSuccess)
        #expect(
            try HostKeys.list(server.endpoint().knownHosts).keys(for: "[127.0.0.1]:\(server.port)") == [key]
        )
        #expect(try SSHHost(server.endpoint(), policy: .strict).run("true").exit.isSuccess)
    }

    @Test func aPersonIsAskedOnceWithTheFingerprint() throws {
        let questions = Mutex<[HostKeyQuestion]>([])
        let host = SSHHost(
            server.endpoint(),
            policy: .ask { question in
                questions.withLock { $0.append(question) }
                return true
            }
        )
        let threads = Workers()
        for _ in 0..<3 { threads.start { _ = try? host.run("true") } }
        threads.wait()
        #expect(questions.withLock(\.count) == 1)
        #expect(questions.withLock { $0.first?.key } == key)
        try Files.remove(server.endpoint().knownHosts)
        #expect(try refusal(server.endpoint(), .ask { _ in false }).code == .hostKeyUnknown)
    }

    @Test func pinnedFingerprintNeedsNoFile() throws {
        var endpoint = server.endpoint()
        endpoint.hostKeyFingerprint = key.fingerprint
        #expect(try SSHHost(endpoint).run("true").exit.isSuccess)
        let other = "SHA256:" + Base64.encode([UInt8](repeating: 1, count: 32), padded: false)
        endpoint.hostKeyFingerprint = other
        let error = try refusal(endpoint, .acceptNew)
        #expect(error.code == .hostKeyChanged)
        #expect(error.message.contains(key.fingerprint) && error.message.contains(other))
    }

    @Test func changedKeyIsRefusedWithBothFingerprints() throws {
        let endpoint = try server.endpointThatOutlivesIt()
        defer { try? Files.remove(Files.parent(endpoint.knownHosts)) }
        #expect(try SSHHost(endpoint, policy: .acceptNew).run("true").exit.isSuccess)
        server.stop()
        var options = LoopbackSSHServer.Options()
        options.port = server.port
        options.authorizedKeys = [try Files.readText("\(endpoint.identity ?? "").pub")]
        let other = try LoopbackSSHServer(options)
        let newKey = try other.hostKey()
        let error = try refusal(endpoint, .acceptNew)
        #expect(error.code == .hostKeyChanged)
        #expect(error.exitCode == .keyRefused)
        #expect(error.message.contains(key.fingerprint) && error.message.contains(newKey.fingerprint))
        #expect(error.hint?.contains("coord keys trust box") == true)

        // What `coord keys trust` does.
        #expect(try SSHHost.fetchHostKey(endpoint) == newKey)
        let name = try SSHHost.knownHostsName(endpoint)
        #expect(try HostKeys.replace(newKey, of: name, in: endpoint.knownHosts) == [key])
        #expect(try SSHHost(endpoint).run("true").exit.isSuccess)
    }

    @Test func revokedKeyIsRefused() throws {
        var endpoint = server.endpoint()
        endpoint.hostKeyFingerprint = key.fingerprint
        try HostKeys.add(key, of: try SSHHost.knownHostsName(endpoint), to: endpoint.knownHosts)
        try Files.append(Array("@revoked * \(key.kind) \(key.base64)\n".utf8), to: endpoint.knownHosts)
        let error = try refusal(endpoint, .acceptNew)
        #expect(error.code == .hostKeyRevoked)
        #expect(error.exitCode == .keyRefused)
    }

    @Test func certificateAuthorityIsNamedAsUnsupported() throws {
        try Files.append(
            Array("@cert-authority * \(key.kind) \(key.base64)\n".utf8),
            to: server.endpoint().knownHosts
        )
        let error = try refusal(server.endpoint())
        #expect(error.code == .hostKeyUnknown)
        #expect(error.message.contains("@cert-authority"))
    }

    @Test func wrongClientKeyIsExplained() throws {
        let error = try refusal(server.endpoint(identity: server.strangerKey), .acceptNew)
        #expect(error.code == .keyRefused)
        #expect(error.exitCode == .keyRefused)
        for part in [
            "box", "user \(server.user)", server.strangerKey, "publickey", "127.0.0.1:\(server.port)",
        ] {
            #expect(error.message.contains(part), "\(error.message) names \(part)")
        }
        #expect(error.hint?.contains("coord keys bootstrap") == true)
    }

    @Test func keyFileThatOthersMayReadIsRefused() throws {
        try Files.setMode(server.clientKey, 0o644)
        let error = try refusal(server.endpoint(), .acceptNew)
        #expect(error.code == .badIdentity)
        #expect(error.hint?.contains("chmod 600") == true)
        #expect(try refusal(server.endpoint(identity: "/nonexistent/key"), .acceptNew).code == .badIdentity)
    }

    @Test func privateKeyNeverShowsInErrors() throws {
        let secret = try Files.readText(server.strangerKey).split(separator: "\n").dropFirst().first ?? ""
        #expect(secret.count > 40)
        var shown = String(describing: try refusal(server.endpoint(identity: server.strangerKey), .acceptNew))
        // A file that is no key, made of the key's own text: the parser's complaint must not quote it.
        let broken = "\(server.directory)/broken"
        try Files.writeAtomically("-----BEGIN OPENSSH PRIVATE KEY-----\n\(secret)\n", to: broken, mode: 0o600)
        shown += String(describing: try refusal(server.endpoint(identity: broken), .acceptNew))
        #expect(shown.contains(broken))
        #expect(!shown.contains(secret.prefix(20)))
        #expect(!shown.contains("PRIVATE KEY"))
    }

    @Test func closedPortIsRefusedAtOnce() throws {
        server.stop()
        let error = try refusal(server.endpoint(), .acceptNew)
        #expect(error.code == .connectionRefused)
        #expect(error.exitCode == .unreachable)
        #expect(error.phase == .connect)
        #expect(error.message.contains("connection refused"))
        #expect(error.message.contains("127.0.0.1:\(server.port)"))
    }

    @Test func nameWithoutAddressIsNamed() throws {
        var endpoint = server.endpoint()
        endpoint.address = "no-such-host.invalid"
        let error = try refusal(endpoint)
        #expect(error.phase == .resolve)
        #expect(error.exitCode == .unreachable)
        #expect(error.message.contains("no-such-host.invalid"))
    }

    @Test func silentServerMeetsTheDeadline() throws {
        let silent = try SilentServer(says: nil)
        var endpoint = server.endpoint()
        endpoint.port = silent.port
        let host = SSHHost(endpoint, policy: .acceptNew, timeouts: SSHTimeouts(handshake: .milliseconds(300)))
        let started = ContinuousClock.now
        let error = #expect(throws: RemoteError.self) { try host.run("true") }
        #expect(error?.code == .timedOut)
        #expect(error?.phase == .handshake)
        #expect(error?.message.contains("phase handshake") == true)
        #expect(ContinuousClock.now - started < .seconds(5))
    }

    @Test(arguments: [
        "HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-1.5-old\r\n", "\u{0}\u{1}\u{2}\r\n", "SSH-2.0-x\r\n",
    ])
    func otherServersAreNamedNotHungOn(greeting: String) throws {
        let silent = try SilentServer(says: greeting)
        var endpoint = server.endpoint()
        endpoint.port = silent.port
        let host = SSHHost(endpoint, policy: .acceptNew, timeouts: SSHTimeouts(handshake: .milliseconds(300)))
        let error = #expect(throws: RemoteError.self) { try host.run("true") }
        #expect(error?.phase == .handshake)
        #expect(error?.exitCode == .unreachable)
        #expect(error?.message.contains("127.0.0.1:\(silent.port)") == true)
    }
}
