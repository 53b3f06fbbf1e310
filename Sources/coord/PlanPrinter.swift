internal import Basics
internal import ClusterFile
internal import Coordinator

/// The plan of a cluster file: hosts, run, and what would run code on a host.
struct PlanPrinter {
    let file: ClusterFile
    /// What the last preflight of this very run measured.
    var measured: ExchangePlanner?

    private struct HostLine: Encodable {
        var type = "host"
        var host: String
        var address: String
        var roles: [String]
        var workers: Int
        var directory: String?
        /// What would run there to stop it.
        var stop: String?
        var boot: BootChoice
    }

    private struct RunLine: Encodable {
        var type = "run"
        var name: String
        var model: String
        var epochs: Int
        var batch: Int
        var lanes: Int
        var workers: Int
        var dataset: String?
        var deploy: String?
        var exchange: String
        var warnings: [String]
    }

    private var workers: Int { file.hosts.filter(\.trains).reduce(0) { $0 + $1.workers } }

    /// How the members exchange, and what that means for the result.
    private var exchangeWords: String {
        guard let run = file.run else { return "" }
        if file.choosesExchange {
            return measured == nil
                ? "auto: coord up measures the links first, coord preflight shows them" : "auto"
        }
        let words = run.exchangeInForce.words
        return run.exchange == nil
            ? "\(words): the same bits on any cluster"
            : "\(words): the result depends on who holds which lanes"
    }

    private var exchangeTable: ExchangeTable? {
        measured.map { ExchangeTable($0, given: file.run?.exchange) }
    }

    private var warnings: [String] {
        var warnings: [String] = []
        if let run = file.run, workers > run.lanes {
            warnings.append(
                "\(workers) workers but \(run.lanes) lanes: \(workers - run.lanes) stay idle; set lanes:"
            )
        }
        for host in file.hosts {
            if host.rented, let stop = host.stop {
                let unsaved = host.stopsUnsaved ? ", in the end with checkpoints that nobody else has" : ""
                warnings.append(
                    "\(host.name) is stopped \(host.idleStop.words) after its last work\(unsaved); runs there: \(stop)"
                )
            } else if host.stop != nil {
                warnings.append("\(host.name) has a stop: that is never run, as it is not rented")
            }
            if host.boot == .auto {
                warnings.append(
                    "changes on \(host.name) outside its folder: a systemd user unit and lingering, or a crontab line "
                        + "@reboot, starts the agent after a reboot; coord down takes it away"
                )
            }
        }
        return warnings
    }

    func print(_ console: Console) {
        if console.isJSON { return printJSON(console) }
        console.say("cluster \(file.cluster)")
        for host in file.hosts {
            let roles = host.roles.map(\.rawValue).sorted().joined(separator: ", ")
            let user = host.user.map { $0 + "@" } ?? ""
            let port = host.port.map { ":\($0)" } ?? ""
            // Where a pod is, its provider tells when it is needed.
            let remote = host.address.isEmpty ? host.place : user + host.address + port
            let address = host.isLocal ? "this machine" : remote
            console.say(
                "  \(host.name)  \(address)  \(roles)\(host.trains ? ", \(host.workers) workers" : "")"
            )
        }
        if let run = file.run {
            console.say(
                "run \(run.name): \(run.model.type) on \(file.dataset ?? "?"), \(run.epochs) epochs, "
                    + "batch \(run.batch) in \(run.lanes) lanes over \(min(workers, run.lanes)) workers"
            )
            console.say("exchange: \(exchangeWords)")
            exchangeTable?.print(console)
        }
        if let deploy = file.deploy {
            let minimum = deploy.minimum.map { ", at least \($0)" } ?? ""
            console.say("deploy to \(deploy.host): \(deploy.when.rawValue)\(minimum)")
        }
        for warning in warnings { console.say("warning: \(warning)") }
    }

    private func printJSON(_ console: Console) {
        for host in file.hosts {
            console.json(
                HostLine(
                    host: host.name,
                    address: host.place,
                    roles: host.roles.map(\.rawValue).sorted(),
                    workers: host.workers,
                    directory: host.directory,
                    stop: host.rented ? host.stop : nil,
                    boot: host.boot
                )
            )
        }
        guard let run = file.run else { return }
        exchangeTable?.print(console)
        console.json(
            RunLine(
                name: run.name,
                model: run.model.type,
                epochs: run.epochs,
                batch: run.batch,
                lanes: run.lanes,
                workers: workers,
                dataset: file.dataset,
                deploy: file.deploy?.host,
                exchange: exchangeWords,
                warnings: warnings
            )
        )
    }
}

extension Duration {
    /// `90 s`, `10 min`, `24 h`.
    fileprivate var words: String {
        let seconds = components.seconds
        if seconds >= 7200, seconds % 3600 == 0 { return "\(seconds / 3600) h" }
        return seconds >= 120 && seconds % 60 == 0 ? "\(seconds / 60) min" : "\(seconds) s"
    }
}
