public import Basics
internal import GRDB

extension EventRow {
    init(_ row: Row) throws {
        self.init(
            id: try row.value("id"),
            time: try row.value("time"),
            kind: try row.value("kind"),
            run: try row.optionalWord("run", RunID.init),
            host: try row.optional("host"),
            who: try row.value("who"),
            message: try row.value("message"),
            data: try row.optional("data")
        )
    }
}

extension RegistrySnapshot {
    /// The events that pass `filter`, the oldest first.
    ///
    /// To follow: ask again with `since` = the last id that was seen.
    public func events(_ filter: EventFilter = EventFilter()) throws -> [EventRow] {
        var conditions = ["id > ?"]
        var arguments: [(any DatabaseValueConvertible)?] = [filter.since ?? 0]
        if !filter.kinds.isEmpty {
            let tests = filter.kinds.map { $0.hasSuffix(".") ? "substr(kind, 1, length(?)) = ?" : "kind = ?" }
            conditions.append("(\(tests.joined(separator: " OR ")))")
            for kind in filter.kinds {
                arguments += kind.hasSuffix(".") ? [kind, kind] : [kind]
            }
        }
        if let run = filter.run {
            conditions.append("run = ?")
            arguments.append(run.text)
        }
        if let host = filter.host {
            conditions.append("host = ?")
            arguments.append(host)
        }
        let fromTheEnd = filter.since == nil && filter.limit != nil
        arguments.append(filter.limit ?? -1)
        let found = try rows(
            """
            SELECT * FROM events WHERE \(conditions.joined(separator: " AND ")) \
            ORDER BY id \(fromTheEnd ? "DESC" : "ASC") LIMIT ?
            """,
            arguments
        ).map(EventRow.init)
        return fromTheEnd ? found.reversed() : found
    }
}

extension RegistryTransaction {
    /// Records that something happened.
    ///
    /// - Parameter data: details for programs, a JSON text.
    /// - Returns: the event's id.
    @discardableResult
    public func log(
        _ kind: String,
        _ message: String,
        who: String,
        run: RunID? = nil,
        host: String? = nil,
        data: String? = nil,
        time: Double
    ) throws -> Int64 {
        try insert(
            "events",
            [
                ("time", time), ("kind", kind), ("run", run?.text), ("host", host), ("who", who),
                ("message", message), ("data", data),
            ]
        )
        return database.lastInsertedRowID
    }
}
