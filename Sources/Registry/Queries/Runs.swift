public import Basics
internal import GRDB

extension RunRow {
    init(_ row: Row) throws {
        let parentRun = try row.optionalWord("parent_run", RunID.init)
        let parentCheckpoint = try row.optionalDigest("parent_checkpoint")
        self.init(
            id: try row.runID("id"),
            name: try row.value("name"),
            state: try row.word("state", RunState.init(rawValue:)),
            record: try row.optionalJSON("record"),
            fileText: try row.value("file_text"),
            clusterFile: try row.optionalDigest("cluster_file"),
            created: try row.value("created"),
            parent: parentRun.flatMap { run in parentCheckpoint.map { RunParent(run: run, checkpoint: $0) } }
        )
        started = try row.optional("started")
        finished = try row.optional("finished")
        attempt = try row.value("attempt")
        generations = try row.value("generations")
        steps = try row.value("steps")
        epoch = try row.value("epoch")
        lanes = try row.value("lanes")
        samplesPerSecond = try row.optional("samples_per_second")
        weights = try row.optionalDigest("weights")
        message = try row.optional("message")
    }
}

extension RegistrySnapshot {
    /// All runs, the newest first.
    public func runs() throws -> [RunRow] {
        try rows("SELECT * FROM runs ORDER BY created DESC, id DESC").map(RunRow.init)
    }

    /// The runs that hold the cluster or wait for it, the oldest first.
    public func activeRuns() throws -> [RunRow] { try runs().filter(\.state.isActive).reversed() }

    /// The run that was submitted last.
    public func latestRun() throws -> RunRow? {
        try row("SELECT * FROM runs ORDER BY created DESC, id DESC LIMIT 1").map(RunRow.init)
    }

    /// The run with that id.
    public func run(_ id: RunID) throws -> RunRow? {
        try row("SELECT * FROM runs WHERE id = ?", [id.text]).map(RunRow.init)
    }

    /// The run that a person means.
    ///
    /// - Parameter text: `latest`, an id, the beginning of exactly one id, or a run's name (the last run of it).
    /// - Throws: ``RegistryError`` `.notFound`, `.ambiguous`.
    public func run(matching text: String) throws -> RunRow {
        if text == "latest" {
            if let run = try latestRun() { return run }
            throw RegistryError(.notFound, "there is no run yet", hint: "start one with `coord up`")
        }
        if let id = RunID(text) {
            // `~` sorts behind every character of an id.
            let found = try rows(
                "SELECT * FROM runs WHERE id >= ? AND id < ? ORDER BY id LIMIT 3",
                [id.text, id.text + "~"]
            ).map(RunRow.init)
            if let exact = found.first(where: { $0.id == id }) { return exact }
            if found.count == 1 { return found[0] }
            if found.count > 1 {
                throw RegistryError(
                    .ambiguous,
                    "more than one run begins with '\(text)': \(found.prefix(2).map(\.id.text).joined(separator: ", "))",
                    hint: "give more characters of the id"
                )
            }
        }
        if let named = try row(
            "SELECT * FROM runs WHERE name = ? ORDER BY created DESC, id DESC LIMIT 1",
            [text]
        ) {
            return try RunRow(named)
        }
        throw RegistryError(.notFound, "there is no run '\(text)'", hint: "see `coord run list`")
    }
}

extension RegistryTransaction {
    /// Records a new run.
    ///
    /// - Throws: ``RegistryError`` `.conflict` when the id is taken.
    public func create(_ run: RunRow) throws { try insert("runs", Self.columns(run)) }

    /// Changes a run and returns what it is now.
    ///
    /// - Throws: ``RegistryError`` `.notFound`; `.conflict` when a finished run would go back to work; what
    ///   `change` throws.
    @discardableResult
    public func updateRun(_ id: RunID, _ change: (inout RunRow) throws -> Void) throws -> RunRow {
        guard let old = try run(id) else { throw RegistryError(.notFound, "there is no run \(id)") }
        var new = old
        try change(&new)
        precondition(new.id == id, "a run keeps its id: \(id) became \(new.id)")
        guard old.state != .finished || new.state == .finished else {
            throw RegistryError(.conflict, "run \(id) is finished and cannot become \(new.state.rawValue)")
        }
        if new != old { try upsert("runs", key: ["id"], Self.columns(new)) }
        return new
    }

    private static func columns(_ run: RunRow) throws -> Columns {
        [
            ("id", run.id.text),
            ("name", run.name),
            ("state", run.state.rawValue),
            ("record", try run.record.map { try JSONText.encode($0) }),
            ("file_text", run.fileText),
            ("cluster_file", run.clusterFile?.hex),
            ("created", run.created),
            ("started", run.started),
            ("finished", run.finished),
            ("attempt", run.attempt),
            ("generations", run.generations),
            ("steps", run.steps),
            ("epoch", run.epoch),
            ("lanes", run.lanes),
            ("samples_per_second", run.samplesPerSecond?.ifFinite),
            ("weights", run.weights?.hex),
            ("message", run.message),
            ("parent_run", run.parent?.run.text),
            ("parent_checkpoint", run.parent?.checkpoint.hex),
        ]
    }
}
