public import Basics
internal import GRDB

extension StepMetrics {
    init(_ row: Row) throws {
        self.init(
            run: try row.runID("run"),
            step: try row.value("step"),
            epoch: try row.value("epoch"),
            loss: try row.optional("loss"),
            accuracy: try row.optional("accuracy"),
            learningRate: try row.optional("learning_rate"),
            samples: try row.value("samples"),
            seconds: try row.value("seconds"),
            times: try StepTimes(row),
            time: try row.value("time")
        )
    }
}

extension StepTimes {
    /// Nil where the row has none.
    init?(_ row: Row) throws {
        guard let data: Double = try row.optional("data_seconds") else { return nil }
        self.init(
            data: data,
            forward: try row.value("forward_seconds"),
            backward: try row.value("backward_seconds"),
            exchange: try row.value("exchange_seconds"),
            update: try row.value("update_seconds")
        )
    }
}

extension EpochMetrics {
    init(_ row: Row) throws {
        self.init(
            run: try row.runID("run"),
            epoch: try row.value("epoch"),
            step: try row.value("step"),
            trainLoss: try row.optional("train_loss"),
            trainAccuracy: try row.optional("train_accuracy"),
            valLoss: try row.optional("val_loss"),
            valAccuracy: try row.optional("val_accuracy"),
            time: try row.value("time")
        )
    }
}

extension RegistrySnapshot {
    /// The steps of a run after step `after`, in order.
    ///
    /// - Parameter limit: at most so many, the first ones.
    public func steps(of run: RunID, after: Int = -1, limit: Int = .max) throws -> [StepMetrics] {
        try rows(
            "SELECT * FROM step_metrics WHERE run = ? AND step > ? ORDER BY step LIMIT ?",
            [run.text, after, limit]
        ).map(StepMetrics.init)
    }

    /// Where the time of the last steps of a run went: the mean over those that told it; nil when none did.
    ///
    /// - Parameter count: of the last steps.
    public func stepTimes(of run: RunID, last count: Int = 200) throws -> StepTimes? {
        let rows = try rows(
            "SELECT * FROM step_metrics WHERE run = ? AND data_seconds IS NOT NULL ORDER BY step DESC LIMIT ?",
            [run.text, count]
        )
        return StepTimes.mean(try rows.compactMap(StepTimes.init))
    }

    /// The last step of a run that is known.
    public func latestStep(of run: RunID) throws -> StepMetrics? {
        try row("SELECT * FROM step_metrics WHERE run = ? ORDER BY step DESC LIMIT 1", [run.text])
            .map(StepMetrics.init)
    }

    /// The epochs of a run, in order.
    public func epochs(of run: RunID) throws -> [EpochMetrics] {
        try rows("SELECT * FROM epoch_metrics WHERE run = ? ORDER BY epoch", [run.text]).map(
            EpochMetrics.init
        )
    }

    /// The last epoch of a run that is known.
    public func latestEpoch(of run: RunID) throws -> EpochMetrics? {
        try row("SELECT * FROM epoch_metrics WHERE run = ? ORDER BY epoch DESC LIMIT 1", [run.text])
            .map(EpochMetrics.init)
    }
}

extension RegistryTransaction {
    /// Records steps; one that is known already is replaced, so hearing it twice changes nothing.
    ///
    /// - Cost: one prepared statement for all; 100 rows in about a millisecond, the commit's fsync aside.
    public func put(_ steps: [StepMetrics]) throws {
        // The hot table: one statement, prepared once, instead of the general way.
        let statement = try database.cachedStatement(sql: Self.stepSQL)
        for step in steps {
            try statement.execute(arguments: [
                step.run.text, step.step, step.epoch, step.loss?.ifFinite, step.accuracy?.ifFinite,
                step.learningRate?.ifFinite, step.samples, step.seconds, step.time, step.times?.data,
                step.times?.forward, step.times?.backward, step.times?.exchange, step.times?.update,
            ])
        }
    }

    private static let stepSQL = """
        INSERT OR REPLACE INTO step_metrics
        (run, step, epoch, loss, accuracy, learning_rate, samples, seconds, time,
        data_seconds, forward_seconds, backward_seconds, exchange_seconds, update_seconds)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """

    /// Records an epoch; one that is known already is replaced.
    public func put(_ epoch: EpochMetrics) throws {
        try upsert(
            "epoch_metrics",
            key: ["run", "epoch"],
            [
                ("run", epoch.run.text),
                ("epoch", epoch.epoch),
                ("step", epoch.step),
                ("train_loss", epoch.trainLoss?.ifFinite),
                ("train_accuracy", epoch.trainAccuracy?.ifFinite),
                ("val_loss", epoch.valLoss?.ifFinite),
                ("val_accuracy", epoch.valAccuracy?.ifFinite),
                ("time", epoch.time),
            ]
        )
    }
}
