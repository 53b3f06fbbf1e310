internal import GRDB

extension RegistrySnapshot {
    /// The pods of the cluster file, and those that left it and are still there; by id.
    public func pods() throws -> [PodRow] {
        try rows("SELECT * FROM pods ORDER BY id").map { row in
            PodRow(id: try row.value("id"), host: try row.value("host"), seen: try row.value("seen"))
        }
    }
}

extension RegistryTransaction {
    /// Records that a pod is a host of the cluster.
    public func put(_ pod: PodRow) throws {
        try upsert("pods", key: ["id"], [("id", pod.id), ("host", pod.host), ("seen", pod.seen)])
    }

    /// Forgets a pod that its provider has no more.
    public func removePod(_ id: String) throws { try execute("DELETE FROM pods WHERE id = ?", [id]) }
}
