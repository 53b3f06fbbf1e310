import Basics
import Testing

@testable import Remote

@Suite struct SSHConfigTests {
    private let answer = """
        user me
        hostname 10.1.2.3
        port 2222
        identityfile ~/.ssh/first
        identityfile /keys/second key
        proxyjump none
        stricthostkeychecking ask
        """

    @Test func answerOfTheClientIsRead() {
        let config = SSHConfig(output: answer)
        #expect(config.hostName == "10.1.2.3")
        #expect(config.port == 2222)
        #expect(config.user == "me")
        #expect(config.identities == ["~/.ssh/first", "/keys/second key"])
        #expect(config.proxyJump == nil)
        #expect(SSHConfig(output: "proxyjump a,b\n").proxyJump == "a,b")
    }

    private func resolve(_ endpoint: SSHEndpoint, _ answer: String?) throws -> ResolvedEndpoint {
        try SSHRoute.resolve(
            endpoint.name,
            config: { _ in answer.map { SSHConfig(output: $0) } },
            endpoint: endpoint
        )
        .target
    }

    @Test func explicitValuesWin() throws {
        let endpoint = SSHEndpoint(name: "n", address: "alias", port: 7, user: "you", identity: "/k")
        let resolved = try resolve(endpoint, answer)
        #expect(resolved.address == "10.1.2.3")
        #expect(resolved.port == 7)
        #expect(resolved.user == "you")
        #expect(resolved.identities == ["/k"])
        #expect(resolved.hasExplicitIdentity)
    }

    @Test func fileFillsWhatIsOpen() throws {
        let resolved = try resolve(SSHEndpoint(name: "n", address: "alias"), answer)
        #expect(resolved.port == 2222)
        #expect(resolved.user == "me")
        #expect(resolved.identities.last == "/keys/second key")
        #expect(resolved.identities.first?.hasSuffix("/.ssh/first") == true)
        #expect(resolved.identities.first?.hasPrefix("/") == true)
        #expect(resolved.knownAs == "[10.1.2.3]:2222")
    }

    @Test func withoutAClientTheDefaultsHold() throws {
        let resolved = try resolve(SSHEndpoint(name: "n", address: "h"), nil)
        #expect(resolved.port == 22)
        #expect(resolved.address == "h")
        #expect(!resolved.user.isEmpty)
        #expect(resolved.identities.count == 3)
        #expect(resolved.keepalive == SSHKeepalive())
    }

    @Test func restOfTheAnswerIsUsed() throws {
        let resolved = try resolve(
            SSHEndpoint(name: "n", address: "fe80::1%eth0"),
            """
            hostname fe80::1%eth0
            port 22
            user u
            identitiesonly yes
            identityagent /run/an agent
            identityfile /k/%r@%n-%p%%
            hostkeyalias pod-7
            userknownhostsfile /home/a b/.ssh/known_hosts /other
            globalknownhostsfile /etc/ssh/ssh_known_hosts none
            serveraliveinterval 5
            serveralivecountmax 2
            """
        )
        #expect(resolved.place == "[fe80::1%eth0]:22")
        #expect(resolved.identitiesOnly)
        #expect(resolved.agentSocket == "/run/an agent")
        #expect(resolved.identities == ["/k/u@fe80::1%eth0-22%"])
        #expect(resolved.knownAs == "pod-7")
        #expect(
            resolved.knownHostsElsewhere
                == ["/home/a b/.ssh/known_hosts", "/other", "/etc/ssh/ssh_known_hosts"]
        )
        #expect(resolved.keepalive.interval == .seconds(5))
        #expect(resolved.keepalive.patience == .seconds(11))
    }

    @Test(arguments: [
        "plain", "", "two words", "it's", "back\\slash", "\\'", "$HOME `id` \"x\"", "line\nline", "ü*?[a]",
        "-n", "!!",
    ])
    func quotedWordsComeBack(text: String) throws {
        for shell in ["/bin/sh", "/bin/bash"] where Files.kind(shell) == .file {
            let result = try ChildProcess.run([shell, "-c", "printf %s \(ShellQuoting.quote(text))"])
            #expect(String(decoding: result.output, as: UTF8.self) == text, "\(shell)")
        }
    }

    @Test func fishReadsNoBackslashInsideQuotes() {
        #expect(ShellQuoting.quote("a\\b'c") == "'a'\\\\'b'\\''c'")
        #expect(ShellQuoting.path("~/a b") == "\"$HOME\"/'a b'")
        #expect(ShellQuoting.path("~") == "\"$HOME\"")
        #expect(ShellQuoting.quote(["a", "b c"]) == "a 'b c'")
    }

    @Test func noiseBeforeTheMarkIsDropped() {
        #expect(SSHCommand.unmarked(Array("hello\nM1\nout".utf8), mark: "M1") == Array("out".utf8))
        #expect(SSHCommand.unmarked(Array("forced".utf8), mark: "M1") == Array("forced".utf8))
    }
}
