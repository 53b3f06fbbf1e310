internal import Basics
internal import GRDB

extension HostRow {
    init(_ row: Row) throws {
        self.init(
            name: try row.value("name"),
            address: try row.value("address"),
            instance: try row.optional("instance"),
            worker: try row.optionalDigest("worker"),
            kernels: try row.optionalWord("kernels", KernelSet.init(rawValue:)),
            cores: try row.value("cores"),
            memory: ByteCount(try row.value("memory", Int64.self)),
            lastSeen: try row.optional("last_seen"),
            phase: try row.value("phase"),
            facts: try row.optional("facts")
        )
    }
}

extension RegistrySnapshot {
    /// All hosts, by name.
    public func hosts() throws -> [HostRow] {
        try rows("SELECT * FROM hosts ORDER BY name").map(HostRow.init)
    }

    /// The host of that name, if it is known.
    public func host(_ name: String) throws -> HostRow? {
        try row("SELECT * FROM hosts WHERE name = ?", [name]).map(HostRow.init)
    }
}

extension RegistryTransaction {
    /// Records what is known about a host now.
    public func put(_ host: HostRow) throws {
        try upsert(
            "hosts",
            key: ["name"],
            [
                ("name", host.name),
                ("address", host.address),
                ("instance", host.instance),
                ("worker", host.worker?.hex),
                ("kernels", host.kernels?.rawValue),
                ("cores", host.cores),
                ("memory", host.memory.bytes),
                ("last_seen", host.lastSeen),
                ("phase", host.phase),
                ("facts", host.facts),
            ]
        )
    }

    /// Forgets a host that left the cluster file; what happened there stays recorded.
    public func removeHost(_ name: String) throws { try execute("DELETE FROM hosts WHERE name = ?", [name]) }
}
