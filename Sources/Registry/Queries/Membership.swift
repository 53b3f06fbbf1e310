public import Basics
internal import GRDB

extension RunWorkerRow {
    init(_ row: Row) throws {
        self.init(
            run: try row.runID("run"),
            rank: try row.value("rank"),
            host: try row.value("host"),
            lanes: LaneSet(bits: UInt64(bitPattern: try row.value("lanes", Int64.self))),
            stepsComputed: try row.value("steps_computed"),
            state: try row.value("state")
        )
    }
}

extension GenerationRow {
    init(_ row: Row) throws {
        self.init(
            run: try row.runID("run"),
            number: try row.value("number"),
            members: try row.json("members"),
            reason: try row.value("reason"),
            time: try row.value("time")
        )
    }
}

extension RegistrySnapshot {
    /// The workers that a run has or had, by rank.
    public func workers(of run: RunID) throws -> [RunWorkerRow] {
        try rows("SELECT * FROM run_workers WHERE run = ? ORDER BY rank", [run.text]).map(RunWorkerRow.init)
    }

    /// The changes of a run's membership, in order.
    public func generations(of run: RunID) throws -> [GenerationRow] {
        try rows("SELECT * FROM generations WHERE run = ? ORDER BY number", [run.text]).map(
            GenerationRow.init
        )
    }
}

extension RegistrySnapshot {
    /// What a new generation of the run must reckon with, as the coordinator wrote it.
    public func succession<Kept: Decodable>(of run: RunID, as type: Kept.Type) throws -> Kept? {
        try rows("SELECT kept FROM successions WHERE run = ?", [run.text]).first.map { try $0.json("kept") }
    }
}

extension RegistryTransaction {
    /// Keeps what a new generation of the run must reckon with.
    public func put(succession: some Encodable, of run: RunID) throws {
        try upsert(
            "successions",
            key: ["run"],
            [("run", run.text), ("kept", try JSONText.encode(succession))]
        )
    }

    /// Records what a worker of a run does now.
    public func put(_ worker: RunWorkerRow) throws {
        try upsert(
            "run_workers",
            key: ["run", "rank"],
            [
                ("run", worker.run.text),
                ("rank", worker.rank),
                ("host", worker.host),
                ("lanes", Int64(bitPattern: worker.lanes.bits)),
                ("steps_computed", worker.stepsComputed),
                ("state", worker.state),
            ]
        )
    }

    /// Records a generation, and in its run how many there were.
    ///
    /// Hearing of the same one again changes nothing.
    public func put(_ generation: GenerationRow) throws {
        try upsert(
            "generations",
            key: ["run", "number"],
            [
                ("run", generation.run.text),
                ("number", generation.number),
                ("members", try JSONText.encode(generation.members)),
                ("reason", generation.reason),
                ("time", generation.time),
            ]
        )
        try execute(
            "UPDATE runs SET generations = (SELECT COUNT(*) FROM generations WHERE run = ?) WHERE id = ?",
            [generation.run.text, generation.run.text]
        )
    }
}
