internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import Coordinator
internal import Foundation
internal import Wire

struct Up: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "Bring the cluster up; train the file's run and follow it.",
        discussion: """
            Example: coord up -y

            Ctrl-C leaves the run to itself; `coord run attach` finds it again. While a run is on, the same file
            attaches, another one is refused (75).

            coord up 3090 brings up that host alone; it helps the run that is on, also when it is new in the file.
            """
    )
    @OptionGroup var common: CommonOptions
    @Argument(help: "Only these hosts, without starting a run. Default: all.")
    var hosts: [String] = []
    @Flag(name: .short, help: "Take the plan as it is; never accepts an unknown host key.")
    var yes = false
    @Flag(help: "Trust and pin the keys of hosts that were never seen before.")
    var acceptNewHostKeys = false
    @Flag(help: "Print the plan and stop.")
    var dryRun = false
    @Flag(help: "Bring the hosts up without training.")
    var hostsOnly = false

    func perform(_ console: Console) throws {
        let file = try common.cluster()
        let workspace = try common.workspace()
        PlanPrinter(file: file, measured: Measured.read(workspace)?.planner(for: file)).print(console)
        if dryRun { return }
        let isTerminal = isatty(0) != 0
        guard yes || console.isJSON || !isTerminal || console.confirm("go ahead?") else {
            throw Outcome(exitCode: .failed, message: "nothing was done")
        }
        var request = UpRequest(
            fileText: try Files.readText(common.file),
            path: common.file,
            submits: !hostsOnly && hosts.isEmpty,
            hosts: hosts,
            acceptsNewHostKeys: acceptNewHostKeys,
            who: CommonOptions.who
        )
        while true {
            let client = try CoordinatorProgram.connect(workspace)
            var unknown: [String: String] = [:]
            var locked: Set<String> = []
            let result = try RunFollower(console: console).follow(
                client,
                .up(request),
                unknownKey: { unknown[$0] = $1 },
                passphrase: { locked.insert($0) }
            )
            let isOpen = !unknown.isEmpty || !locked.isEmpty
            guard result.exitCode == .keyRefused, isOpen, !console.isJSON, isTerminal else {
                return try Outcome.check(result)
            }
            for path in locked.sorted() {
                guard let words = console.secret("passphrase of \(path)") else {
                    return try Outcome.check(result)
                }
                request.passphrases[path] = WireSecret(Array(words.utf8))
            }
            for (host, fingerprint) in unknown.sorted(by: { $0.key < $1.key }) {
                let question = "\(host) shows the key \(fingerprint), never seen before. Trust it?"
                guard console.confirm(question) else { return try Outcome.check(result) }
                request.trusted[host] = fingerprint
            }
        }
    }
}

struct Down: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "End agents, what they serve, and the coordinator.",
        discussion: """
            Example: coord down

            A run that is on is stopped; its checkpoints stay. `coord down 3090` ends the agent of that host alone: the
            others take over its part of the run, and the coordinator stays.
            """
    )
    @OptionGroup var common: CommonOptions
    @Argument(help: "Only these hosts. Default: all, and the coordinator.")
    var hosts: [String] = []
    @Flag(name: .short, help: "Do not ask.")
    var yes = false
    @Flag(help: "Also remove what the hosts keep: programs, chunks, logs.")
    var wipe = false
    @Flag(
        help: "Go on even where that loses checkpoints that only a host has and that can't be brought home."
    )
    var loseCheckpoints = false

    func perform(_ console: Console) throws {
        let workspace = try common.workspace()
        for host in hosts { try common.checkHost(host) }
        let file = try common.cluster()
        let stopped = file.hosts.filter { $0.rented && (hosts.isEmpty || hosts.contains($0.name)) }
        for host in stopped { console.say("stops \(host.name), by running there: \(host.stop ?? "")") }
        if !stopped.isEmpty, !wipe, !yes, !console.isJSON, isatty(0) != 0, !console.confirm("go ahead?") {
            throw Outcome(exitCode: .failed, message: "nothing was done", hint: "coord down -y")
        }
        let whose = hosts.isEmpty ? "all hosts" : hosts.joined(separator: ", ")
        if wipe, !yes, !console.confirm("remove what coord keeps on \(whose)?") {
            throw Outcome(exitCode: .failed, message: "nothing was done", hint: "coord down -y --wipe")
        }
        // Agents outlive a coordinator, so one is needed to reach them.
        let request = UpRequest(
            fileText: try Files.readText(common.file),
            path: common.file,
            submits: false,
            hosts: hosts,
            joins: false,
            who: CommonOptions.who
        )
        let follower = RunFollower(console: console)
        _ = try follower.follow(try CoordinatorProgram.connect(workspace), .up(request))
        try Outcome.check(
            try follower.follow(
                try CoordinatorProgram.connect(workspace),
                .down(wipe: wipe, hosts: hosts, force: loseCheckpoints)
            )
        )
    }
}

struct Plan: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "Say what coord up would do.",
        discussion: "Example: coord plan -f cluster.yaml"
    )
    @OptionGroup var common: CommonOptions

    func perform(_ console: Console) throws {
        let file = try common.cluster()
        let measured = (try? common.workspace()).flatMap { Measured.read($0) }
        PlanPrinter(file: file, measured: measured?.planner(for: file)).print(console)
    }
}

/// The coordinator itself; `coord up` starts it.
struct CoordinatorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "coordinator", shouldDisplay: false)
    @Option var directory: String

    func run() throws {
        try CoordinatorProgram.run(workspace: try Workspace(directory: directory), ready: 3)
    }
}
