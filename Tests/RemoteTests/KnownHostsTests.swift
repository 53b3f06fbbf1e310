import Basics
import CoordTesting
import Testing

@testable import Remote

@Suite struct KnownHostsTests {
    private static func key(_ byte: UInt8, kind: String = "ssh-ed25519") -> HostKey {
        let name = Array(kind.utf8)
        let blob = [0, 0, 0, UInt8(name.count)] + name + [0, 0, 0, 32] + [UInt8](repeating: byte, count: 32)
        guard let key = HostKey(blob: blob) else { preconditionFailure("not a key") }
        return key
    }

    private let a = key(1)
    private let b = key(2)

    private func line(_ patterns: String, _ key: HostKey) -> String {
        "\(patterns) \(key.kind) \(key.base64)\n"
    }

    @Test func fingerprintIsThatOfSshKeygen() throws {
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-keys")
        defer { try? Files.remove(folder) }
        try LoopbackSSHServer.makeKey("\(folder)/key")
        let fields = try Files.readText("\(folder)/key.pub").split(separator: " ")
        let key = try #require(HostKey(base64: fields[1]))
        let listed = try ChildProcess.run(["/usr/bin/ssh-keygen", "-l", "-f", "\(folder)/key.pub"])
        #expect(String(decoding: listed.output, as: UTF8.self).contains(" \(key.fingerprint) "))
        #expect(key.kind == "ssh-ed25519")
        #expect(key.base64 == String(fields[1]))
    }

    @Test(arguments: [0, 1, 2, 3, 4, 31, 32, 100])
    func base64ComesBack(count: Int) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 97 &+ 250) }
        #expect(Base64.decode(Base64.encode(bytes)) == bytes)
        #expect(Base64.decode(Base64.encode(bytes, padded: false)) == bytes)
    }

    @Test func base64IsThatOfTheStandard() {
        #expect(Base64.encode(Array("foobar".utf8)) == "Zm9vYmFy")
        #expect(Base64.encode(Array("foob".utf8)) == "Zm9vYg==")
        #expect(Base64.encode([251, 255]) == "+/8=")
        #expect(Base64.decode("Zm9v!") == nil)
        #expect(Base64.decode("Zm9vY") == nil)
    }

    @Test func hashedNameMatchesOpenSSHsHash() throws {
        let text = line("|1|lC2BDi6FeepRB54KNZ2POjckdL0=|D/P5EXL6zIlgKoIqKu1k953B/aY=", a)
        let hosts = KnownHosts(text: text)
        #expect(hosts.verdict(on: a, of: "[127.0.0.1]:20022") == .known)
        #expect(hosts.verdict(on: b, of: "[127.0.0.1]:20022") == .changed([a]))
        #expect(hosts.verdict(on: a, of: "127.0.0.1") == .unknown(hasAuthority: false))
    }

    @Test func portIsPartOfTheName() {
        #expect(KnownHosts.name(address: "h", port: 22) == "h")
        #expect(KnownHosts.name(address: "::1", port: 2222) == "[::1]:2222")
        let hosts = KnownHosts(text: line("pod", a) + line("[pod]:2222", b))
        #expect(hosts.verdict(on: a, of: "pod") == .known)
        #expect(hosts.verdict(on: a, of: "[pod]:2222") == .changed([b]))
        #expect(hosts.verdict(on: a, of: "[pod]:2223") == .unknown(hasAuthority: false))
    }

    @Test func revokedKeyIsNeverKnown() {
        let hosts = KnownHosts(text: line("pod", a) + "@revoked * \(a.kind) \(a.base64)\n" + line("pod", b))
        #expect(hosts.verdict(on: a, of: "pod") == .revoked)
        #expect(hosts.verdict(on: b, of: "pod") == .known)
        #expect(hosts.keys(for: "pod") == [b])
    }

    @Test func certificateAuthorityIsReportedAndNotTrusted() {
        let hosts = KnownHosts(text: "@cert-authority *.lab \(a.kind) \(a.base64)\n")
        #expect(hosts.verdict(on: a, of: "x.lab") == .unknown(hasAuthority: true))
    }

    @Test func patternsAndNegationsAreRead() {
        let hosts = KnownHosts(text: line("*.lab,!bad.lab,10.0.0.?", a))
        #expect(hosts.verdict(on: a, of: "GPU.lab") == .known)
        #expect(hosts.verdict(on: a, of: "bad.lab") == .unknown(hasAuthority: false))
        #expect(hosts.verdict(on: a, of: "10.0.0.7") == .known)
        #expect(hosts.verdict(on: a, of: "10.0.0.77") == .unknown(hasAuthority: false))
    }

    @Test(arguments: [
        "", "# x", "host", "host ssh-ed25519", "host ssh-ed25519 ???", "@other h ssh-ed25519 AAAA", "|1|x h",
    ])
    func senselessLinesAreSkipped(text: String) {
        #expect(KnownHosts(text: text).lines.isEmpty)
    }

    @Test func lineWhoseKindIsNotItsKeysIsSkipped() {
        #expect(KnownHosts(text: "host ssh-rsa \(a.base64)\n").lines.isEmpty)
    }

    @Test func keysAreAddedOnceAndReplacedAlone() throws {
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-keys")
        defer { try? Files.remove(folder) }
        let file = "\(folder)/sub/known_hosts"
        try HostKeys.add(a, of: "pod", to: file)
        try HostKeys.add(a, of: "pod", to: file)
        #expect(try HostKeys.list(file).lines.count == 1)
        // A last line without its end, and a line that two hosts share.
        try Files.append(Array("# mine\npod,other \(a.kind) \(a.base64) shared".utf8), to: file)
        try HostKeys.add(b, of: "third", to: file)
        #expect(try HostKeys.replace(b, of: "pod", in: file) == [a, a])
        let hosts = try HostKeys.list(file)
        #expect(hosts.keys(for: "pod") == [b])
        #expect(hosts.keys(for: "other") == [a])
        #expect(hosts.keys(for: "third") == [b])
        #expect(try Files.readText(file).contains("# mine\nother \(a.kind) \(a.base64) shared\n"))
        #expect(try HostKeys.replace(b, of: "pod", in: file).isEmpty)
    }

    @Test func missingFileKnowsNobody() throws {
        #expect(try HostKeys.list("/nonexistent/known_hosts").lines.isEmpty)
    }

    @Test func knownKindsComeFirstInTheHandshake() {
        #expect(SSHSession.algorithms(preferring: []).hasPrefix("ssh-ed25519,"))
        #expect(
            SSHSession.algorithms(preferring: ["ssh-rsa"]).hasPrefix("rsa-sha2-512,rsa-sha2-256,ssh-ed25519")
        )
    }
}
