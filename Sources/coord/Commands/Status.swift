internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import Coordinator
internal import Registry

struct Status: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "Hosts, runs, what is served, and what could be lost.",
        discussion: "Example: coord status --json"
    )
    @OptionGroup var common: CommonOptions

    private struct HostLine: Encodable {
        var type = "host"
        var host: String
        var address: String
        var phase: String
        var cores: Int
        var memory: Int64
        var kernels: KernelSet?
        var serves: String?
        var notes: [String]
    }

    private struct RunLine: Encodable {
        var type = "run"
        var run: RunID
        var name: String
        var state: RunState
        var epoch: Int
        var step: Int
        var stepSeconds: StepTimes?
        var notices: [String]
    }

    private struct RouteLine: Encodable {
        var type = "route"
        var hosts: [String]
        var way: String
        var by: String?
        var pausesWithoutThisMachine: Bool
        var roundTrip: Double?
        var bytesPerSecond: Double?
        var detail: String

        init(_ route: RouteEvent) {
            hosts = [route.first, route.second]
            way = route.way
            by = route.by
            pausesWithoutThisMachine = route.pausesWithoutThisMachine
            roundTrip = route.roundTrip
            bytesPerSecond = route.bytesPerSecond
            detail = route.detail
        }
    }

    private struct StoreLine: Encodable {
        var type = "checkpoints"
        var saved: Int
        var heldOnly: Int
        var copies: String
    }

    func perform(_ console: Console) throws {
        let workspace = try common.workspace()
        let registry = try common.registry()
        var live: [String: HostEvent]?
        var routes: [RouteLine] = []
        var pods = PodSurvey()
        if let client = CoordinatorProgram.running(workspace) {
            live = [:]
            _ = try client.ask(.status) { event in
                if case .host(let host) = event { live?[host.host] = host }
                if case .route(let route) = event { routes.append(RouteLine(route)) }
                pods.take(event)
            }
        } else if let file = try? common.cluster() {
            pods = PodSurvey.examine(workspace, file)
        }
        let (hosts, runs, store) = try registry.read { snapshot in
            let hosts = try snapshot.hosts().map { host -> HostLine in
                let release = try snapshot.currentRelease(host: host.name)
                let phase =
                    live.map { $0[host.name]?.phase.rawValue ?? "not connected" }
                    ?? "unknown, no coordinator runs"
                return HostLine(
                    host: host.name,
                    address: host.address,
                    phase: phase,
                    cores: host.cores,
                    memory: host.memory.bytes,
                    kernels: host.kernels,
                    serves: release.map { "\($0.model)@\($0.version)" },
                    notes: live?[host.name]?.notes ?? []
                )
            }
            let runs = try snapshot.runs().sorted { $0.created > $1.created }.prefix(3).map {
                let summary = try snapshot.summary(of: $0.id)
                return RunLine(
                    run: $0.id,
                    name: $0.name,
                    state: $0.state,
                    epoch: $0.epoch,
                    step: $0.steps,
                    stepSeconds: summary.stepSeconds,
                    notices: summary.notices
                )
            }
            // A copy in an agent's folder on this machine is on this disk.
            let elsewhere = Set(hosts.filter { $0.address != "local" }.map(\.host))
            let checkpoints = try snapshot.checkpoints().filter(\.isUsable)
            return (hosts, runs, Self.copies(checkpoints, elsewhere: elsewhere))
        }
        if console.isJSON {
            hosts.forEach { console.json($0) }
            runs.forEach { console.json($0) }
            routes.forEach { console.json($0) }
            console.printPods(pods)
            return console.json(store)
        }
        console.table(
            [["HOST", "ADDRESS", "PHASE", "CORES", "SERVES"]]
                + hosts.map { [$0.host, $0.address, $0.phase, "\($0.cores)", $0.serves ?? "-"] }
        )
        for host in hosts { for note in host.notes { console.print("  \(host.host): \(note)") } }
        console.table(
            [["RUN", "NAME", "STATE", "EPOCH", "STEP"]]
                + runs.map { ["\($0.run)", $0.name, $0.state.rawValue, "\($0.epoch)", "\($0.step)"] }
        )
        if let run = runs.first {
            if let times = run.stepSeconds { console.print("  \(run.run): a step takes \(times.words)") }
            for notice in run.notices { console.print("  \(run.run): \(notice)") }
        }
        for route in routes { console.print(route.detail) }
        console.printPods(pods)
        console.print("checkpoints: \(store.saved) saved, \(store.heldOnly) only on hosts; \(store.copies)")
    }

    private static func copies(_ checkpoints: [CheckpointRow], elsewhere: Set<String>) -> StoreLine {
        let saved = checkpoints.filter(\.isHome)
        let single = saved.count { elsewhere.isDisjoint(with: $0.hosts) }
        let words =
            saved.isEmpty
            ? "nothing saved yet" : single == 0 ? "2 copies of each" : "1 copy, this disk, of \(single)"
        return StoreLine(saved: saved.count, heldOnly: checkpoints.count - saved.count, copies: words)
    }
}

struct Events: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "What happened: runs, membership, releases, hosts.",
        discussion: "Example: coord events --run latest"
    )
    @OptionGroup var common: CommonOptions
    @Option(help: "Only this run: an id, its beginning, or latest.")
    var run: String?
    @Option(help: "Only this host.")
    var host: String?
    @Option(help: "At most so many, the newest.")
    var limit = 100

    func perform(_ console: Console) throws {
        let events = try common.registry().read { snapshot in
            let id = try run.map { try snapshot.run(matching: $0).id }
            return try snapshot.events(EventFilter(run: id, host: host)).suffix(limit)
        }
        for event in events {
            if console.isJSON {
                console.json(event)
            } else {
                let host = event.host.map { "[\($0)] " } ?? ""
                console.print("\(timeText(event.time))  \(event.kind)  \(host)\(event.message)")
            }
        }
    }
}

struct Docs: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print a reference.",
        discussion: "Example: coord docs cluster > reference.yaml"
    )
    enum Topic: String, ExpressibleByArgument, CaseIterable { case cluster }
    @Argument(help: "cluster: the annotated cluster file.")
    var topic: Topic

    func run() { print(ClusterFile.reference, terminator: "") }
}
