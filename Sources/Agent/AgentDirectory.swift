internal import Basics

/// Where an agent keeps what is its own: one folder for each (user, cluster) on a host.
struct AgentDirectory: Sendable {
    let root: String

    var lock: String { root + "/agent.lock" }
    var socket: String { root + "/agent.sock" }
    /// Where bridges hand over their ends.
    var bridges: String { root + "/bridge.sock" }
    var log: String { root + "/agent.log" }
    var identity: String { root + "/agent.json" }
    var terms: String { root + "/terms.json" }
    var boot: String { root + "/boot.json" }
    var stopLog: String { root + "/stop.log" }
    var store: String { root + "/store" }
    var runs: String { root + "/runs" }
    var serve: String { root + "/serve" }

    func run(_ id: RunID) -> String { runs + "/" + id.text }

    /// Creates the folder, private to the user.
    func create() throws {
        for path in [root, runs, serve] { try Files.createDirectory(path, mode: 0o700) }
    }
}
