import Basics
import CoordTesting
import Testing

@testable import Remote

@Suite struct SSHRouteTests {
    /// The route to `box` where each name's answer is given.
    private func route(_ answers: [String: String]) throws -> SSHRoute {
        try SSHRoute.resolve(
            "box",
            config: { query in
                SSHConfig(
                    output: "hostname \(query.alias).net\nuser \(query.user ?? "me")\n"
                        + (answers[query.alias] ?? "")
                )
            },
            endpoint: SSHEndpoint(name: "box", address: "box", identity: "/k")
        )
    }

    private func failure(_ answers: [String: String]) throws -> RemoteError {
        try #require(#expect(throws: RemoteError.self) { try route(answers) })
    }

    @Test func jumpsStandInTheOrderOfTheWay() throws {
        let stations = try route(["box": "proxyjump you@a:2200,b", "a": "proxyjump z"]).stations
        #expect(stations.map(\.address) == ["z.net", "a.net", "b.net", "box.net"])
        #expect(stations.map(\.user) == ["me", "you", "me", "me"])
        #expect(stations.map(\.port) == [22, 2200, 22, 22])
        #expect(stations.map(\.name) == ["jump z of box", "jump a of box", "jump b of box", "box"])
        #expect(stations.map(\.hasExplicitIdentity) == [false, false, false, true])
        #expect(stations.map(\.isJump) == [true, true, true, false])
    }

    @Test func anAliasOfTheEndpointIsTheHostsAlone() throws {
        let stations = try SSHRoute.resolve(
            "pod",
            config: { query in
                SSHConfig(output: query.alias == "box" ? "proxyjump a\nhostkeyalias other" : "")
            },
            endpoint: SSHEndpoint(name: "pod", address: "box", port: 7, hostKeyAlias: "runpod-abc")
        ).stations
        #expect(stations.map(\.knownAs) == ["a", "runpod-abc"])
    }

    @Test func lastOfSeveralJumpsIsToldTheOthers() throws {
        // As ssh: `b` is reached through `a`, whatever its own ProxyJump says.
        let stations = try route(["box": "proxyjump a,b", "b": "proxyjump elsewhere"]).stations
        #expect(stations.map(\.address) == ["a.net", "b.net", "box.net"])
    }

    @Test func circlesAreRefusedByName() throws {
        let error = try failure(["box": "proxyjump a", "a": "proxyjump b", "b": "proxyjump a"])
        #expect(error.code == .badClientConfiguration)
        #expect(error.phase == .resolve)
        #expect(error.exitCode == .badInput)
        #expect(error.message.contains("box → a → b → a"))
        #expect(try failure(["box": "proxyjump box"]).message.contains("box → box"))
        var chain: [String: String] = ["box": "proxyjump j0"]
        for index in 0..<30 { chain["j\(index)"] = "proxyjump j\(index + 1)" }
        #expect(try failure(chain).message.contains("circle"))
    }

    @Test(arguments: ["a b", "-oProxyCommand=x", "", "a\nb"])
    func whatIsNoNameIsNotAsked(address: String) {
        let error = #expect(throws: RemoteError.self) {
            try SSHRoute.resolve(
                "box",
                config: { _ in
                    Issue.record("asked")
                    return nil
                },
                endpoint: SSHEndpoint(name: "box", address: address)
            )
        }
        #expect(error?.code == .badClientConfiguration)
    }

    @Test func placesAreReadAsSSHWritesThem() {
        #expect(SSHRoute.station("h") == SSHRoute.Station(alias: "h"))
        #expect(SSHRoute.station("u@h:22") == SSHRoute.Station(alias: "h", user: "u", port: 22))
        #expect(SSHRoute.station("ssh://u@h:7/") == SSHRoute.Station(alias: "h", user: "u", port: 7))
        #expect(SSHRoute.station("u@[::1]:7") == SSHRoute.Station(alias: "::1", user: "u", port: 7))
        #expect(SSHRoute.station("::1") == SSHRoute.Station(alias: "::1"))
        #expect(SSHRoute.station("u@x@h") == SSHRoute.Station(alias: "h", user: "u@x"))
        for bad in ["", "u@", "h:0", "h:x", "[::1]7"] { #expect(SSHRoute.station(bad) == nil, "\(bad)") }
    }

    @Test func proxyCommandIsExpandedAndGuarded() throws {
        let route = try route(["box": "proxycommand nc -x proxy %h %p # %r %n %% %Z"])
        #expect(route.target.proxyCommand == "nc -x proxy box.net 22 # me box % %Z")
        #expect(try failure(["box": "proxyusefdpass yes\nproxycommand x"]).message.contains("ProxyUseFdpass"))
        let dangerous = try failure(["box": "hostname a;reboot\nproxycommand nc %h %p"])
        #expect(dangerous.message.contains("ProxyCommand"))
    }

    @Test func cipherOrderFollowsTheCPU() {
        let x86 = "processor\t: 0\nflags\t\t: fpu sse2 pclmulqdq aes avx2\n"
        #expect(SSHCiphers.hasAES(x86))
        #expect(SSHCiphers.hasAES("Features\t: fp asimd aes pmull sha1\n"))
        #expect(!SSHCiphers.hasAES("flags\t\t: fpu sse2 pclmulqdq avx2\n"))
        #expect(!SSHCiphers.hasAES("Features\t: fp asimd\n"))
        #expect(!SSHCiphers.hasAES("model name\t: has aes and pmull\n"))
        #expect(!SSHCiphers.hasAES(""))
        #expect(SSHCiphers.order(hasAES: true).hasPrefix("aes256-gcm@openssh.com,"))
        #expect(SSHCiphers.order(hasAES: false).hasPrefix("chacha20-poly1305@openssh.com,"))
    }
}

@Suite struct IdentityPlanTests {
    private typealias File = IdentityPlan.KeyFile

    private func key(_ number: UInt8) throws -> HostKey {
        let kind = Array("ssh-ed25519".utf8)
        return try #require(
            HostKey(blob: SSHReader.string(kind) + SSHReader.string([UInt8](repeating: number, count: 32)))
        )
    }

    private func offers(
        _ files: [File],
        _ agent: [HostKey],
        explicit: Bool = false,
        only: Bool = false
    )
        -> [IdentityPlan.Offer]
    {
        IdentityPlan.offers(files: files, agent: agent, isExplicit: explicit, identitiesOnly: only)
    }

    @Test func explicitKeyIsTheOnlyOne() throws {
        let file = File(path: "/k", publicKey: try key(1))
        #expect(offers([file], [try key(2), try key(1)], explicit: true) == [.file("/k")])
    }

    @Test func explicitEncryptedKeyIsTheAgentsWhenItHasIt() throws {
        let file = File(path: "/k", publicKey: try key(1), half: .encrypted)
        #expect(offers([file], [try key(2), try key(1)], explicit: true) == [.agent(try key(1))])
        #expect(offers([file], [try key(2)], explicit: true) == [.locked("/k", try key(1))])
        #expect(
            offers([File(path: "/k", publicKey: nil, half: .encrypted)], [try key(2)], explicit: true)
                == [.locked("/k", nil)]
        )
    }

    @Test func publicKeyFileNamesTheAgentsKey() throws {
        let file = File(path: "/k.pub", publicKey: try key(1), half: .missing)
        #expect(offers([file], [try key(2), try key(1)], only: true) == [.agent(try key(1))])
        #expect(offers([file], [try key(2)], only: true) == [])
    }

    @Test func namedKeysComeBeforeTheAgentsOthers() throws {
        let files = [
            File(path: "/a", publicKey: try key(1)),
            File(path: "/b", publicKey: try key(2), half: .encrypted),
            File(path: "/c", publicKey: nil),
        ]
        let agent = [try key(9), try key(2), try key(8)]
        #expect(
            offers(files, agent)
                == [.agent(try key(2)), .agent(try key(9)), .agent(try key(8)), .file("/a"), .file("/c")]
        )
        #expect(offers(files, agent, only: true) == [.agent(try key(2)), .file("/a"), .file("/c")])
    }
}
