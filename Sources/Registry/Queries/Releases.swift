internal import Basics
internal import GRDB

extension ReleaseRow {
    init(_ row: Row) throws {
        self.init(
            id: try row.value("id"),
            host: try row.value("host"),
            model: try row.value("model"),
            version: try row.value("version"),
            checkpoint: try row.digest("manifest"),
            state: try row.word("state", ReleaseState.init(rawValue:)),
            reason: try row.value("reason"),
            started: try row.value("started"),
            finished: try row.optional("finished"),
            goldenDifference: try row.optional("golden_difference")
        )
    }
}

extension RegistrySnapshot {
    /// Releases of one host or of all, the newest first.
    public func releases(host: String? = nil, limit: Int = .max) throws -> [ReleaseRow] {
        try rows(
            "SELECT * FROM releases WHERE ?1 IS NULL OR host = ?1 ORDER BY id DESC LIMIT ?2",
            [host, limit]
        ).map(ReleaseRow.init)
    }

    /// One release.
    public func release(_ id: Int64) throws -> ReleaseRow? {
        try row("SELECT * FROM releases WHERE id = ?", [id]).map(ReleaseRow.init)
    }

    /// What serves on a host.
    public func currentRelease(host: String) throws -> ReleaseRow? {
        try row("SELECT * FROM releases WHERE host = ? AND state = 'live'", [host]).map(ReleaseRow.init)
    }

    /// Where a rollback on a host goes: the last release that served well and is another version than the
    /// current one.
    ///
    /// A version that was rolled back or failed is never gone back to by itself.
    public func previousRelease(host: String) throws -> ReleaseRow? {
        let current = try currentRelease(host: host)
        return try rows(
            "SELECT * FROM releases WHERE host = ? AND state = 'superseded' AND went_live ORDER BY id DESC",
            [host]
        ).map(ReleaseRow.init).first {
            ($0.model, $0.version) != (current?.model ?? "", current?.version ?? 0)
        }
    }
}

extension RegistryTransaction {
    /// Plans to put a model version on a host; it takes the place of one that still waits there.
    ///
    /// - Throws: ``RegistryError`` `.notFound` when there is no such version.
    public func planRelease(
        host: String,
        model: String,
        version: Int,
        reason: String,
        time: Double
    ) throws -> ReleaseRow {
        guard let known = try modelVersion(model, version) else {
            throw RegistryError(
                .notFound,
                "there is no model '\(model)@\(version)'",
                hint: "see `coord model list`"
            )
        }
        try execute(
            "UPDATE releases SET state = 'superseded', finished = ? WHERE host = ? AND state = 'planned'",
            [time, host]
        )
        try insert(
            "releases",
            [
                ("host", host), ("model", model), ("version", version), ("manifest", known.checkpoint.hex),
                ("state", ReleaseState.planned.rawValue), ("reason", reason), ("started", time),
                ("went_live", false),
            ]
        )
        return try existing(database.lastInsertedRowID)
    }

    /// Moves a release to its next state.
    ///
    /// Going live supersedes what was live on the host and points the alias `deployed:HOST` of the model at the
    /// version, in the same transaction.
    ///
    /// - Parameter reason: replaces the release's reason when given.
    /// - Throws: ``RegistryError`` `.notFound`; `.conflict` when a release does not go that way, or another is
    ///   under way on the host.
    @discardableResult
    public func advanceRelease(
        _ id: Int64,
        to state: ReleaseState,
        reason: String? = nil,
        goldenDifference: Double? = nil,
        time: Double
    ) throws -> ReleaseRow {
        let release = try existing(id)
        guard release.state != state else { return release }
        guard release.state.canBecome(state) else {
            throw RegistryError(
                .conflict,
                "release \(id) on \(release.host) is \(release.state.rawValue) and cannot become \(state.rawValue)"
            )
        }
        if state == .sending, let busy = try underWay(release.host) {
            throw RegistryError(
                .conflict,
                "release \(busy.id) is under way on \(release.host)",
                hint: "wait for it, see `coord events --host \(release.host)`"
            )
        }
        if state == .live {
            if let old = try currentRelease(host: release.host) {
                try move(old.id, to: .superseded, time: time)
                if old.model != release.model { try removeAlias("deployed:\(release.host)", of: old.model) }
            }
            try setAlias("deployed:\(release.host)", of: release.model, to: release.version, time: time)
            try execute("UPDATE releases SET went_live = 1 WHERE id = ?", [id])
        } else if release.state == .live {
            try removeAlias("deployed:\(release.host)", of: release.model)
        }
        try move(id, to: state, time: time)
        if let reason { try execute("UPDATE releases SET reason = ? WHERE id = ?", [reason, id]) }
        if let difference = goldenDifference?.ifFinite {
            try execute("UPDATE releases SET golden_difference = ? WHERE id = ?", [difference, id])
        }
        return try existing(id)
    }

    /// Goes back, at once: the live release becomes `rolledBack`, and a new one of `target`'s version is live.
    ///
    /// For a version whose process is still loaded or whose files are still there; sending nothing.
    ///
    /// - Returns: the new release.
    /// - Throws: ``RegistryError`` `.conflict` when nothing is live on the host.
    @discardableResult
    public func rollBack(
        host: String,
        to target: ReleaseRow,
        reason: String,
        time: Double
    ) throws -> ReleaseRow {
        guard let current = try currentRelease(host: host) else {
            throw RegistryError(
                .conflict,
                "nothing is live on \(host)",
                hint: "deploy with `coord deploy --host \(host)`"
            )
        }
        try advanceRelease(current.id, to: .rolledBack, reason: reason, time: time)
        let new = try planRelease(
            host: host,
            model: target.model,
            version: target.version,
            reason: "back from \(current.model)@\(current.version): \(reason)",
            time: time
        )
        try execute(
            "UPDATE releases SET state = 'live', finished = ?, went_live = 1 WHERE id = ?",
            [time, new.id]
        )
        try setAlias("deployed:\(host)", of: target.model, to: target.version, time: time)
        return try existing(new.id)
    }

    private func underWay(_ host: String) throws -> ReleaseRow? {
        try row("SELECT * FROM releases WHERE host = ? AND state IN ('sending', 'verifying')", [host])
            .map(ReleaseRow.init)
    }

    private func move(_ id: Int64, to state: ReleaseState, time: Double) throws {
        let ends = state.isFinal || state == .live
        try execute(
            "UPDATE releases SET state = ?, finished = CASE WHEN ? THEN ? ELSE finished END WHERE id = ?",
            [state.rawValue, ends, time, id]
        )
    }

    private func existing(_ id: Int64) throws -> ReleaseRow {
        guard let release = try release(id) else {
            throw RegistryError(.notFound, "there is no release \(id)")
        }
        return release
    }
}
