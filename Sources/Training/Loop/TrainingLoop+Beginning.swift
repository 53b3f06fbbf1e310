internal import Basics

// What a loop begins with, and what it refuses to begin with.
extension TrainingLoop {
    /// Samples of one pass: a lane's share in `accumulate` parts, the last one smaller where it does not divide.
    static func partSize(_ spec: RunSpec) throws -> Int {
        let share = spec.batch / spec.lanes
        let parts = spec.accumulate ?? 1
        guard (1...share).contains(parts) else {
            throw TrainingError(
                .badSpec,
                "accumulate \(parts) cuts a lane's \(share) samples into empty parts",
                hint: "use at most \(share), or a larger batch"
            )
        }
        return (share + parts - 1) / parts
    }

    static func checkLanes(_ spec: RunSpec) throws {
        let isPower = (1...64).contains(spec.lanes) && spec.lanes & (spec.lanes - 1) == 0
        guard isPower, spec.batch > 0, spec.batch % spec.lanes == 0, spec.epochs >= 0 else {
            throw TrainingError(
                .badSpec,
                "lanes must be a power of two that divides the batch: \(spec.lanes) lanes, batch \(spec.batch)"
            )
        }
    }

    /// Whether a model can be trained as a run says, `part` samples at a time.
    static func check(_ model: Model, _ spec: RunSpec, part: Int) throws {
        let way = spec.exchangeInForce.kind
        guard model.trainedCount == model.parameterCount || ![.topk, .diloco].contains(way) else {
            throw TrainingError(
                .badSpec,
                "exchange \(way.rawValue) does not carry the running statistics of a model with batch normalisation",
                hint: "use sync, bf16, int8 or powersgd"
            )
        }
        guard part >= model.leastSamples else {
            throw TrainingError(
                .badSpec,
                "batch-norm needs \(model.leastSamples) samples at a time; batch \(spec.batch) in \(spec.lanes) lanes"
                    + " leaves \(part)",
                hint: "use fewer lanes, a larger batch, less `accumulate`, or group_norm"
            )
        }
    }

    /// The state before the first step.
    static func first(_ record: RunRecord) throws -> TrainingState {
        let empty = Digest(of: "")
        return TrainingState(
            seed: record.spec.seed,
            lanes: record.spec.lanes,
            configuration: try record.configurationDigest(),
            weights: empty,
            optimizer: empty
        )
    }

    /// The state where a run stands, if it is the run of that record.
    static func resumed(_ standing: Standing, _ record: RunRecord) throws -> TrainingState {
        let configuration = try record.configurationDigest()
        guard standing.state.configuration == configuration else {
            throw TrainingError(
                .badCheckpoint,
                "the checkpoint belongs to configuration \(standing.state.configuration.short), "
                    + "this run is \(configuration.short)",
                hint: "resume with the run's own record"
            )
        }
        var state = standing.state
        state.pendingValues = nil
        return state
    }
}
