public import Basics
internal import GRDB

extension ModelVersionRow {
    init(_ row: Row) throws {
        self.init(
            name: try row.value("name"),
            version: try row.value("version"),
            checkpoint: try row.digest("manifest"),
            run: try row.runID("run"),
            metrics: try CheckpointMetrics(row),
            signature: try row.optionalJSON("signature"),
            created: try row.value("created")
        )
    }
}

extension ModelAliasRow {
    init(_ row: Row) throws {
        self.init(
            name: try row.value("name"),
            alias: try row.value("alias"),
            version: try row.value("version"),
            moved: try row.value("moved")
        )
    }
}

extension RegistrySnapshot {
    /// Versions of one model or of all, by name and version.
    public func modelVersions(of name: String? = nil) throws -> [ModelVersionRow] {
        try rows(
            "SELECT * FROM model_versions WHERE ?1 IS NULL OR name = ?1 ORDER BY name, version",
            [name]
        ).map(ModelVersionRow.init)
    }

    /// One version.
    public func modelVersion(_ name: String, _ version: Int) throws -> ModelVersionRow? {
        try row("SELECT * FROM model_versions WHERE name = ? AND version = ?", [name, version])
            .map(ModelVersionRow.init)
    }

    /// Aliases of one model or of all, by name and alias.
    public func aliases(of name: String? = nil) throws -> [ModelAliasRow] {
        try rows("SELECT * FROM model_aliases WHERE ?1 IS NULL OR name = ?1 ORDER BY name, alias", [name])
            .map(ModelAliasRow.init)
    }

    /// The version that a person means.
    ///
    /// - Parameter text: `name@3`, `name@alias`, or `name` for its last version.
    /// - Throws: ``RegistryError`` `.notFound`.
    public func modelVersion(matching text: String) throws -> ModelVersionRow {
        let parts = text.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false).map(
            String.init
        )
        var found: Row?
        if parts.count == 1 {
            found = try row(
                "SELECT * FROM model_versions WHERE name = ? ORDER BY version DESC LIMIT 1",
                [parts[0]]
            )
        } else if let number = Int(parts[1]) {
            found = try row(
                "SELECT * FROM model_versions WHERE name = ? AND version = ?",
                [parts[0], number]
            )
        } else {
            found = try row(
                """
                SELECT v.* FROM model_versions AS v JOIN model_aliases AS a \
                ON a.name = v.name AND a.version = v.version WHERE a.name = ? AND a.alias = ?
                """,
                [parts[0], parts[1]]
            )
        }
        guard let found else {
            throw RegistryError(.notFound, "there is no model '\(text)'", hint: "see `coord model list`")
        }
        return try ModelVersionRow(found)
    }
}

extension RegistryTransaction {
    /// Makes a checkpoint the next version of a model, or returns the version that it is already.
    ///
    /// - Throws: ``RegistryError`` `.notFound` when the checkpoint is not registered; `.conflict` when its bytes
    ///   are gone; `.misuse` when the name is empty or holds `@`.
    public func registerVersion(
        of name: String,
        checkpoint manifest: Digest,
        run: RunID,
        signature: ModelSignature? = nil,
        time: Double
    ) throws -> ModelVersionRow {
        guard !name.isEmpty, !name.contains("@") else {
            throw RegistryError(.misuse, "'\(name)' cannot name a model")
        }
        if let known = try row(
            "SELECT * FROM model_versions WHERE name = ? AND manifest = ?",
            [name, manifest.hex]
        ) {
            return try ModelVersionRow(known)
        }
        guard let checkpoint = try checkpoint(manifest, of: run) else {
            throw RegistryError(.notFound, "run \(run) has no checkpoint \(manifest.short)")
        }
        guard checkpoint.state != .deleted else {
            throw RegistryError(.conflict, "the bytes of checkpoint \(manifest.short) are gone")
        }
        // A version is a promise that the bytes stay: it also ends their time in the trash.
        if checkpoint.trashedUntil != nil { try undelete(manifest) }
        let last = try integer("SELECT MAX(version) FROM model_versions WHERE name = ?", [name]) ?? 0
        let version = ModelVersionRow(
            name: name,
            version: Int(last) + 1,
            checkpoint: manifest,
            run: run,
            metrics: checkpoint.metrics,
            signature: signature,
            created: time
        )
        try insert(
            "model_versions",
            [
                ("name", version.name),
                ("version", version.version),
                ("manifest", manifest.hex),
                ("run", run.text),
                ("val_accuracy", version.metrics.valAccuracy),
                ("val_loss", version.metrics.valLoss),
                ("train_loss", version.metrics.trainLoss),
                ("signature", try signature.map { try JSONText.encode($0) }),
                ("created", time),
            ]
        )
        return version
    }

    /// Points an alias at a version; it may have pointed elsewhere before.
    ///
    /// - Throws: ``RegistryError`` `.notFound` when there is no such version; `.misuse` when the alias is a number
    ///   or holds other characters than letters, digits and `:._-`.
    public func setAlias(_ alias: String, of name: String, to version: Int, time: Double) throws {
        let isPlain = alias.utf8.allSatisfy { byte in
            (0x30...0x3A).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                || [0x2D, 0x2E, 0x5F].contains(byte)
        }
        guard isPlain, !alias.isEmpty, Int(alias) == nil else {
            throw RegistryError(.misuse, "'\(alias)' cannot be an alias of a model")
        }
        guard try modelVersion(name, version) != nil else {
            throw RegistryError(
                .notFound,
                "there is no model '\(name)@\(version)'",
                hint: "see `coord model list`"
            )
        }
        try upsert(
            "model_aliases",
            key: ["name", "alias"],
            [("name", name), ("alias", alias), ("version", version), ("moved", time)]
        )
    }

    /// Takes an alias away; what it pointed at stays.
    public func removeAlias(_ alias: String, of name: String) throws {
        try execute("DELETE FROM model_aliases WHERE name = ? AND alias = ?", [name, alias])
    }
}
