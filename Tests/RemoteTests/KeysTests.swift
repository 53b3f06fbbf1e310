import Basics
import CoordTesting
import Glibc
import Testing

@testable import Remote

@Suite struct KeyPairTests {
    @Test func keyIsMadeOnceAndPrivate() throws {
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-keys")
        defer { try? Files.remove(folder) }
        let path = "\(folder)/keys/coord_ed25519"
        let first = try KeyPair.create(path)
        #expect(first.isNew)
        #expect(first.publicKey.hasPrefix("ssh-ed25519 AAAA"))
        var info = stat()
        #expect(stat(path, &info) == 0)
        #expect(info.st_mode & 0o777 == 0o600)
        #expect(stat(Files.parent(path), &info) == 0)
        #expect(info.st_mode & 0o777 == 0o700)
        try Files.remove(path + ".pub")
        let second = try KeyPair.create(path)
        #expect(!second.isNew)
        #expect(second.publicKey.split(separator: " ")[1] == first.publicKey.split(separator: " ")[1])
        try Files.setMode(path, 0o640)
        let error = #expect(throws: RemoteError.self) { try KeyPair.create(path) }
        #expect(error?.code == .badIdentity)
        #expect(error?.exitCode == .keyRefused)
    }

    @Test(.enabled(if: Files.kind("/usr/bin/git") == .file, "needs git"))
    func keyThatGitTracksIsRefused() throws {
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-keys")
        defer { try? Files.remove(folder) }
        let path = "\(folder)/coord_ed25519"
        _ = try KeyPair.create(path)
        for arguments in [["init", "-q"], ["add", "-f", "coord_ed25519"]] {
            #expect(try ChildProcess.run(["/usr/bin/git"] + arguments, directory: folder).exit.isSuccess)
        }
        let error = #expect(throws: RemoteError.self) { try KeyPair.create(path) }
        #expect(error?.message.contains("git tracks the private key") == true)
    }

    @Test(arguments: [
        "", "ssh-ed25519", "ssh-ed25519 AAAA", "-----BEGIN OPENSSH PRIVATE KEY-----", "a b\nc d",
    ])
    func whatIsNoPublicKeyIsNotInstalled(text: String) {
        let endpoint = SSHEndpoint(name: "box", address: "127.0.0.1")
        #expect(throws: RemoteError.self) {
            try KeyInstaller.install(text, on: endpoint, login: try KeyLogin(endpoint, client: "/bin/false"))
        }
    }
}

@Suite(
    .enabled(if: LoopbackSSHServer.isAvailable, Comment(rawValue: LoopbackSSHServer.reason)),
    // Blocking tests queue for the pool's few threads, and the queue would count against their time limit.
    .serialized,
    .timeLimit(.minutes(5))
)
final class KeyInstallationTests {
    private let home: String
    private let server: LoopbackSSHServer
    /// How the system's client logs in before our key is there.
    private let own: [String]

    init() throws {
        home = try Files.makeTemporaryDirectory(prefix: "coord-home")
        try Files.createDirectory("\(home)/.ssh", mode: 0o700)
        try LoopbackSSHServer.makeKey("\(home)/own")
        // A last line without its end, as editors leave them.
        let line = try Files.readText("\(home)/own.pub").split(separator: "\n").first ?? ""
        try Files.writeAtomically(String(line), to: "\(home)/.ssh/authorized_keys", mode: 0o600)
        var options = LoopbackSSHServer.Options()
        options.configuration = ["AuthorizedKeysFile \(home)/.ssh/authorized_keys", "SetEnv HOME=\(home)"]
        server = try LoopbackSSHServer(options)
        own = ["-F", "/dev/null", "-i", "\(home)/own", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    }

    deinit { try? Files.remove(home) }

    private var authorized: [Substring] {
        get throws { try Files.readText("\(home)/.ssh/authorized_keys").split(separator: "\n") }
    }

    @Test func keyIsInstalledOnceThroughAnotherLogin() throws {
        let pair = try KeyPair.create("\(home)/keys/coord_ed25519")
        let endpoint = server.endpoint(identity: pair.path)
        let login = try KeyLogin(endpoint, options: own)
        let unpinned = #expect(throws: RemoteError.self) {
            try KeyInstaller.install(pair.publicKey, on: endpoint, login: login)
        }
        #expect(unpinned?.code == .keyRefused)
        try HostKeys.add(
            try server.hostKey(),
            of: try SSHHost.knownHostsName(endpoint),
            to: endpoint.knownHosts
        )
        #expect(throws: RemoteError.self) { try SSHHost(endpoint).run("true") }
        #expect(try KeyInstaller.install(pair.publicKey, on: endpoint, login: login) == .installed)
        #expect(try KeyInstaller.install(pair.publicKey, on: endpoint, login: login) == .present)
        #expect(try authorized.count == 2)
        #expect(try SSHHost(endpoint).run("echo in").text == "in")
    }

    @Test func severalCommandsAskForOnePassphrase() throws {
        // A passphrase stands for the password: asked by the same program in the same way.
        let changed = try ChildProcess.run([
            "/usr/bin/ssh-keygen", "-q", "-p", "-P", "", "-N", "words", "-f", "\(home)/own",
        ])
        #expect(changed.exit.isSuccess)
        let askpass = "\(home)/askpass"
        try Files.writeAtomically(
            "#!/bin/sh\necho asked >> \(home)/asked\necho words\n",
            to: askpass,
            mode: 0o700
        )
        let client = "\(home)/ssh"
        try Files.writeAtomically(
            "#!/bin/sh\nSSH_ASKPASS=\(askpass) SSH_ASKPASS_REQUIRE=force exec /usr/bin/ssh \"$@\"\n",
            to: client,
            mode: 0o700
        )
        let endpoint = server.endpoint()
        try HostKeys.add(
            try server.hostKey(),
            of: try SSHHost.knownHostsName(endpoint),
            to: endpoint.knownHosts
        )
        let options = own.filter { $0 != "BatchMode=yes" }.dropLast() + ["-o", "IdentityAgent=none"]
        let login = try KeyLogin(endpoint, options: Array(options), client: client)
        #expect(try login.run("echo one").text == "one")
        #expect(try login.run("cat; exit 3", input: "\(home)/own.pub").exit == .exited(3))
        #expect(try login.send("\(home)/own.pub", to: "~/it's here/file", mode: 0o750))
        #expect(try !login.send("\(home)/own.pub", to: "~/it's here/file", mode: 0o755))
        #expect(try Files.read("\(home)/it's here/file") == Files.read("\(home)/own.pub"))
        var info = stat()
        #expect(stat("\(home)/it's here/file", &info) == 0 && info.st_mode & 0o777 == 0o755)
        #expect(try Files.list("\(home)/it's here") == ["file"])
        let pair = try KeyPair.create("\(home)/keys/coord_ed25519")
        #expect(try KeyInstaller.install(pair.publicKey, on: endpoint, login: login) == .installed)
        #expect(try Files.readText("\(home)/asked") == "asked\n")
        login.close()
        try waitUntil { server.connections.isEmpty }
    }

    @Test func restrictionReplacesTheFreeLineAndStays() throws {
        let pair = try KeyPair.create("\(home)/keys/coord_ed25519")
        let endpoint = server.endpoint(identity: pair.path)
        try HostKeys.add(
            try server.hostKey(),
            of: try SSHHost.knownHostsName(endpoint),
            to: endpoint.knownHosts
        )
        let login = try KeyLogin(endpoint, options: own)
        func install(_ restriction: String?) throws -> KeyInstaller.Outcome {
            try KeyInstaller.install(pair.publicKey, on: endpoint, restriction: restriction, login: login)
        }
        let restriction = #"restrict,command="\"$HOME\"/it\'s/entry""#
        #expect(try install(nil) == .installed)
        #expect(try install(restriction) == .installed)
        #expect(try install(restriction) == .present)
        #expect(try install(nil) == .present)
        #expect(try authorized.count == 2)
        #expect(try authorized.last.map(String.init) == "\(restriction) \(pair.publicKey)")
    }

    @Test func restrictedKeyRunsItsCommandOnly() throws {
        let pair = try KeyPair.create("\(home)/keys/coord_ed25519")
        let endpoint = server.endpoint(identity: pair.path)
        try HostKeys.add(
            try server.hostKey(),
            of: try SSHHost.knownHostsName(endpoint),
            to: endpoint.knownHosts
        )
        let login = try KeyLogin(endpoint, options: own)
        let restriction = #"restrict,command="echo forced""#
        #expect(
            try KeyInstaller.install(pair.publicKey, on: endpoint, restriction: restriction, login: login)
                == .installed
        )
        #expect(try SSHHost(endpoint).run("echo free").text == "forced")
    }

    @Test func scriptDoesTheSameWithoutCoordAndTwice() throws {
        let root = Files.parent(Files.parent(Files.parent(#filePath)))
        let command = [
            "/bin/sh", "\(root)/scripts/bootstrap-keys.sh", "--yes", "--dir", "\(home)/keys",
            "\(server.user)@127.0.0.1", "-p", String(server.port),
        ]
        let environment = [
            "PATH=/usr/bin:/bin", "HOME=\(home)", "COORD_SSH_OPTIONS=\(own.joined(separator: " "))",
        ]
        let first = try ChildProcess.run(command, environment: environment)
        let text = String(decoding: first.errors, as: UTF8.self)
        #expect(first.exit.isSuccess, "\(text)")
        #expect(text.contains(try server.hostKey().fingerprint))
        #expect(text.contains("installed"))
        let pinned = try Files.read("\(home)/keys/known_hosts")
        let second = try ChildProcess.run(command, environment: environment)
        #expect(second.exit.isSuccess)
        #expect(String(decoding: second.errors, as: UTF8.self).contains("the key works already"))
        #expect(try authorized.count == 2)
        #expect(try Files.read("\(home)/keys/known_hosts") == pinned)

        var endpoint = server.endpoint(identity: "\(home)/keys/coord_ed25519")
        endpoint.knownHosts = "\(home)/keys/known_hosts"
        #expect(try SSHHost(endpoint).run("echo in").text == "in", "what the script pinned, coord trusts")

        // Another key for the same place: refused, and the file stays as it is.
        try LoopbackSSHServer.makeKey("\(home)/other")
        let fields = try Files.readText("\(home)/other.pub").split(separator: " ")
        let other = "[127.0.0.1]:\(server.port) \(fields[0]) \(fields[1])\n"
        try Files.writeAtomically(other, to: endpoint.knownHosts)
        let third = try ChildProcess.run(command, environment: environment)
        #expect(third.exit == .exited(77))
        #expect(String(decoding: third.errors, as: UTF8.self).contains("has changed"))
        #expect(try Files.readText(endpoint.knownHosts) == other)
    }
}
