public import Basics
internal import GRDB

extension CheckpointRow {
    init(_ row: Row) throws {
        self.init(
            manifest: try row.digest("manifest"),
            run: try row.runID("run"),
            epoch: try row.value("epoch"),
            step: try row.value("step"),
            state: try row.word("state", CheckpointState.init(rawValue:)),
            isHome: try row.value("at_home"),
            metrics: try CheckpointMetrics(row),
            weights: try row.optionalDigest("weights"),
            size: ByteCount(try row.value("size", Int64.self)),
            created: try row.value("created"),
            isPinned: try row.value("pinned"),
            trashedUntil: try row.optional("trashed_until"),
            hosts: try row.json("hosts")
        )
    }
}

extension CheckpointMetrics {
    init(_ row: Row) throws {
        self.init(
            valAccuracy: try row.optional("val_accuracy"),
            valLoss: try row.optional("val_loss"),
            trainLoss: try row.optional("train_loss")
        )
    }
}

extension RegistrySnapshot {
    private static var selection: String {
        """
        SELECT *, (SELECT json_group_array(host) FROM (SELECT host FROM checkpoint_copies AS k \
        WHERE k.run = c.run AND k.manifest = c.manifest ORDER BY host)) AS hosts FROM checkpoints AS c
        """
    }

    /// Checkpoints by run and step, those in the trash and the deleted ones too.
    ///
    /// - Parameter run: only of this run; nil: all.
    public func checkpoints(of run: RunID? = nil) throws -> [CheckpointRow] {
        let condition = run == nil ? "" : " WHERE run = ?"
        return try rows(
            "\(Self.selection)\(condition) ORDER BY run, step, manifest",
            run.map { [$0.text] } ?? []
        ).map(CheckpointRow.init)
    }

    /// One checkpoint of one run.
    public func checkpoint(_ manifest: Digest, of run: RunID) throws -> CheckpointRow? {
        try row("\(Self.selection) WHERE run = ? AND manifest = ?", [run.text, manifest.hex])
            .map(CheckpointRow.init)
    }

    /// The rows of all runs that made this checkpoint, in run order.
    public func checkpoints(manifest: Digest) throws -> [CheckpointRow] {
        try rows("\(Self.selection) WHERE manifest = ? ORDER BY run", [manifest.hex]).map(CheckpointRow.init)
    }

    /// The checkpoint that a person means.
    ///
    /// - Parameter text: the beginning of exactly one manifest's hexadecimal digits, 4 or more.
    /// - Returns: its row; where several runs made it, that of the newest.
    /// - Throws: ``RegistryError`` `.notFound`, `.ambiguous`.
    public func checkpoint(matching text: String) throws -> CheckpointRow {
        let missing = RegistryError(
            .notFound,
            "there is no checkpoint '\(text)'",
            hint: "see `coord checkpoint list`"
        )
        guard text.utf8.count >= 4, text.allSatisfy({ $0.isHexDigit && !$0.isUppercase }) else {
            throw missing
        }
        let found = try rows(
            "\(Self.selection) WHERE manifest >= ? AND manifest < ? ORDER BY run DESC",
            [text, text + "g"]
        ).map(CheckpointRow.init)
        guard let first = found.first else { throw missing }
        guard Set(found.map(\.manifest)).count == 1 else {
            throw RegistryError(
                .ambiguous,
                "more than one checkpoint begins with '\(text)'",
                hint: "give more digits"
            )
        }
        return first
    }

    /// The best checkpoint of a run that is neither deleted nor in the trash; nil when none has the metric.
    public func best(of run: RunID, by monitor: Monitor) throws -> CheckpointRow? {
        monitor.ranked(try checkpoints(of: run).filter(\.isUsable)).first
    }

    /// The last checkpoint of a run that is neither deleted nor in the trash.
    public func latestCheckpoint(of run: RunID) throws -> CheckpointRow? {
        try checkpoints(of: run).last(where: \.isUsable)
    }
}

extension CheckpointRow {
    /// Whether its bytes can be used: neither deleted nor in the trash.
    public var isUsable: Bool { state != .deleted && trashedUntil == nil }
}

extension RegistryTransaction {
    /// Records what is known about a checkpoint, merged with what was known before.
    ///
    /// Hearing old news again changes nothing: the state moves forward only, hosts are added, metrics once known
    /// stay; pin and trash are what they were.
    ///
    /// - Returns: the checkpoint as it is now.
    /// - Throws: ``RegistryError`` `.conflict` when the run is not known or the step is another.
    @discardableResult
    public func put(_ checkpoint: CheckpointRow) throws -> CheckpointRow {
        var new = checkpoint
        if let old = try self.checkpoint(checkpoint.manifest, of: checkpoint.run) {
            guard old.step == new.step else {
                throw RegistryError(
                    .conflict,
                    "checkpoint \(new.manifest.short) of run \(new.run) was taken after step \(old.step), not \(new.step)"
                )
            }
            new.epoch = old.epoch
            new.created = old.created
            new.state = max(old.state, new.state)
            new.isHome = old.state == .deleted ? false : old.isHome || new.isHome
            new.metrics.valAccuracy = old.metrics.valAccuracy ?? new.metrics.valAccuracy
            new.metrics.valLoss = old.metrics.valLoss ?? new.metrics.valLoss
            new.metrics.trainLoss = old.metrics.trainLoss ?? new.metrics.trainLoss
            new.weights = old.weights ?? new.weights
            new.size = max(old.size, new.size)
            new.isPinned = old.isPinned
            new.trashedUntil = old.trashedUntil
        }
        if new.state == .held, new.isHome || Set(new.hosts).count > 1 { new.state = .saved }
        try store(new)
        if new.state != .deleted {
            for host in checkpoint.hosts {
                try upsert(
                    "checkpoint_copies",
                    key: ["run", "manifest", "host"],
                    [("run", new.run.text), ("manifest", new.manifest.hex), ("host", host)]
                )
            }
        }
        return try stored(new.manifest, of: new.run)
    }

    /// Records that a verified copy is in this machine's store, for all runs that made this checkpoint.
    ///
    /// - Throws: ``RegistryError`` `.notFound`.
    public func markHome(_ manifest: Digest) throws {
        try change(manifest) { row in
            guard row.state != .deleted else { return }
            row.isHome = true
            row.state = .saved
        }
    }

    /// Records that a host no longer has a copy.
    public func removeCopy(of manifest: Digest, at host: String) throws {
        try execute("DELETE FROM checkpoint_copies WHERE manifest = ? AND host = ?", [manifest.hex, host])
    }

    /// Pins or unpins a checkpoint; pinning takes it out of the trash.
    ///
    /// - Throws: ``RegistryError`` `.notFound`; `.conflict` when it is deleted.
    public func pin(_ manifest: Digest, _ isPinned: Bool) throws {
        try change(manifest) { row in
            try row.requireBytes()
            row.isPinned = isPinned
            if isPinned { row.trashedUntil = nil }
        }
    }

    /// Puts a checkpoint into the trash.
    ///
    /// - Parameter deadline: until when ``undelete(_:)`` brings it back; Unix seconds.
    /// - Throws: ``RegistryError`` `.notFound`; `.protected`, naming the reasons, when it is pinned, deployed, a
    ///   model version, an alias or a parent of such; `.conflict` when it is deleted.
    public func trash(_ manifest: Digest, until deadline: Double) throws {
        let reasons = try keepPlan(now: deadline).firmReasons(manifest)
        guard reasons.isEmpty else {
            throw RegistryError(
                .protected,
                "checkpoint \(manifest.short) is kept: \(reasons.map(\.words).joined(separator: ", "))",
                hint: "unpin it, or move the alias or the release first"
            )
        }
        try change(manifest) { row in
            try row.requireBytes()
            row.trashedUntil = row.trashedUntil ?? deadline
        }
    }

    /// Takes a checkpoint out of the trash.
    ///
    /// - Throws: ``RegistryError`` `.notFound`; `.conflict` when its bytes are gone.
    public func undelete(_ manifest: Digest) throws {
        try change(manifest) { row in
            try row.requireBytes()
            row.trashedUntil = nil
        }
    }

    /// Records that the bytes of a checkpoint are about to go: call it before they are removed.
    ///
    /// A crash in between leaves bytes that nothing names, never a name without bytes.
    ///
    /// - Throws: ``RegistryError`` `.notFound`; `.protected` when the keep plan of `now` would not let it go.
    public func markDeleted(_ manifest: Digest, now: Double) throws {
        guard try keepPlan(now: now).deletable.contains(manifest) else {
            throw RegistryError(
                .protected,
                "checkpoint \(manifest.short) is not to be deleted yet",
                hint: "`coord checkpoint list --all` says why it is kept, or until when it is in the trash"
            )
        }
        try change(manifest) { row in
            row.state = .deleted
            row.isHome = false
        }
        try execute("DELETE FROM checkpoint_copies WHERE manifest = ?", [manifest.hex])
    }

    private func change(_ manifest: Digest, _ change: (inout CheckpointRow) throws -> Void) throws {
        let found = try checkpoints(manifest: manifest)
        guard !found.isEmpty else {
            throw RegistryError(
                .notFound,
                "there is no checkpoint \(manifest.short)",
                hint: "see `coord checkpoint list`"
            )
        }
        for old in found {
            var new = old
            try change(&new)
            if new != old { try store(new) }
        }
    }

    private func stored(_ manifest: Digest, of run: RunID) throws -> CheckpointRow {
        guard let row = try checkpoint(manifest, of: run) else {
            throw RegistryError(.misuse, "checkpoint \(manifest.short) was written and is not there")
        }
        return row
    }

    private func store(_ row: CheckpointRow) throws {
        try upsert(
            "checkpoints",
            key: ["run", "manifest"],
            [
                ("run", row.run.text),
                ("manifest", row.manifest.hex),
                ("epoch", row.epoch),
                ("step", row.step),
                ("state", row.state.rawValue),
                ("at_home", row.isHome),
                ("val_accuracy", row.metrics.valAccuracy?.ifFinite),
                ("val_loss", row.metrics.valLoss?.ifFinite),
                ("train_loss", row.metrics.trainLoss?.ifFinite),
                ("weights", row.weights?.hex),
                ("size", row.size.bytes),
                ("created", row.created),
                ("pinned", row.isPinned),
                ("trashed_until", row.trashedUntil),
            ]
        )
    }
}

extension CheckpointRow {
    fileprivate func requireBytes() throws {
        guard state != .deleted else {
            throw RegistryError(.conflict, "the bytes of checkpoint \(manifest.short) are gone")
        }
    }
}
