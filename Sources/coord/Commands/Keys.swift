internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import Coordinator
internal import Foundation
internal import Remote

struct Keys: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "SSH keys: bootstrap, list, trust.",
        subcommands: [Bootstrap.self, List.self, Trust.self],
        defaultSubcommand: List.self
    )

    struct Bootstrap: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make keys/coord_ed25519 and install it on the hosts of the cluster file.",
            discussion: """
                Example: coord keys bootstrap

                Goes through whatever login works already: your own keys, or a password, asked for once a host. Doing it
                again changes nothing. With --restrict the key opens no shell: it runs the worker's bridge and nothing
                else. Whoever holds it can still run code as the worker does.
                """
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "Only these hosts. Default: all of the file.")
        var hosts: [String] = []
        @Flag(help: "Let the key do nothing but run the worker's bridge.")
        var restrict = false
        @Flag(help: "Trust and pin the keys of hosts that were never seen before.")
        var acceptNewHostKeys = false

        func perform(_ console: Console) throws {
            let file = try common.cluster()
            for host in hosts { try common.checkHost(host) }
            let workspace = try common.workspace()
            let key = try KeyPair.create(workspace.directory + "/keys/coord_ed25519")
            console.say("\(key.isNew ? "made" : "have") \(key.path)")
            var failures: [any ExplainedError] = []
            for host in file.hosts where !host.isLocal && (hosts.isEmpty || hosts.contains(host.name)) {
                do {
                    console.say("  \(host.name): \(try install(key, on: host, workspace, console))")
                } catch let error as any ExplainedError {
                    console.say("  \(host.name): failed: \(error.message)")
                    failures.append(error)
                }
                if host.identity.map({ workspace.path($0) }) != key.path {
                    console.say(
                        "    the cluster file does not use the key there yet: identity: keys/coord_ed25519"
                    )
                }
            }
            guard let first = failures.first else { return }
            throw Outcome(exitCode: first.exitCode, message: first.message, hint: first.hint)
        }

        /// - Returns: what was done, in words.
        private func install(
            _ key: KeyPair,
            on spec: HostSpec,
            _ workspace: Workspace,
            _ console: Console
        ) throws -> String {
            var endpoint = try workspace.endpoint(spec)
            endpoint.identity = key.path
            try pin(endpoint, console)
            if !restrict, (try? SSHHost(endpoint).run("echo in").text) == "in" {
                return "the key works already"
            }
            let login = try KeyLogin(endpoint)
            defer { login.close() }
            var restriction: String?
            var sent = ""
            if restrict {
                let machine = try login.run("uname -sm").text.split(separator: " ")
                guard machine.count == 2, machine[0] == "Linux" else {
                    throw Outcome(exitCode: .unreachable, message: "\(spec.name): not a Linux machine")
                }
                let entry = try RestrictedEntry(
                    spec,
                    in: workspace,
                    triple: "\(machine[1])-unknown-linux-gnu"
                )
                if try entry.install(through: login) { sent = ", worker sent" }
                restriction = entry.restriction
            }
            let outcome = try KeyInstaller.install(
                key.publicKey,
                on: endpoint,
                restriction: restriction,
                login: login
            )
            let words = restrict ? RestrictedEntry.versionWord : "echo in"
            let answer = try SSHHost(endpoint).run(words).text
            guard !restrict || answer.hasPrefix(RestrictedEntry.version) else {
                throw Outcome(
                    exitCode: .keyRefused,
                    message:
                        "\(spec.name): the key was installed with its restriction, but runs something else",
                    hint: "look for another line of the key in ~/.ssh/authorized_keys there"
                )
            }
            return
                "\(outcome == .installed ? "installed" : "was there")\(restrict ? ", restricted" : "")\(sent)"
        }

        /// Shows the host's key and pins it when nobody knew it.
        private func pin(_ endpoint: SSHEndpoint, _ console: Console) throws {
            let policy: HostKeyPolicy =
                acceptNewHostKeys
                ? .acceptNew
                : .ask { question in
                    console.confirm(
                        "\(question.station) shows the key \(question.key.fingerprint), never seen before. Trust it?"
                    )
                }
            try SSHHost.checkHostKey(endpoint, policy: policy)
        }
    }

    struct List: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "The pinned host keys.",
            discussion: "Example: coord keys list"
        )
        @OptionGroup var common: CommonOptions

        private struct Line: Encodable {
            var host: String
            var kind: String
            var fingerprint: String
        }

        func perform(_ console: Console) throws {
            let lines = try HostKeys.list(try common.workspace().knownHosts).lines.map {
                Line(host: $0.patterns, kind: $0.key.kind, fingerprint: $0.key.fingerprint)
            }
            if console.isJSON { return lines.forEach { console.json($0) } }
            console.table(
                [["HOST", "KIND", "FINGERPRINT"]] + lines.map { [$0.host, $0.kind, $0.fingerprint] }
            )
        }
    }

    struct Trust: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Pin the key that a host shows now, in place of the one that was pinned.",
            discussion:
                "Example: coord keys trust 3090\n\nCompare the fingerprint with what the host itself says first."
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The host, by its name in the cluster file.")
        var host: String
        @Flag(name: .short, help: "Do not ask.")
        var yes = false

        func perform(_ console: Console) throws {
            try common.checkHost(host)
            let workspace = try common.workspace()
            guard let spec = try common.cluster().host(host), !spec.isLocal else {
                throw Outcome(exitCode: .badInput, message: "\(host) is this machine; it has no host key")
            }
            let endpoint = try workspace.endpoint(spec)
            let key = try SSHHost.fetchHostKey(endpoint)
            guard yes || console.confirm("\(host) shows \(key.fingerprint). Trust it from now on?") else {
                throw Outcome(
                    exitCode: .keyRefused,
                    message: "\(host): \(key.fingerprint) was not pinned",
                    hint: "coord keys trust \(host) -y"
                )
            }
            let old = try HostKeys.replace(
                key,
                of: try SSHHost.knownHostsName(endpoint),
                in: workspace.knownHosts
            )
            console.say(
                "\(host): pinned \(key.fingerprint)\(old.isEmpty ? "" : " in place of \(old.map(\.fingerprint))")"
            )
        }
    }
}
