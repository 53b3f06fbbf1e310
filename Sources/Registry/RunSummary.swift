public import Basics

/// What `coord run show --json` prints; scripts rely on its keys.
public struct RunSummary: Hashable, Sendable, Codable {
    /// A worker of the run.
    public struct Worker: Hashable, Sendable, Codable {
        /// Where it runs.
        public var host: String
        /// The lanes it holds, ascending.
        public var lanes: [Int]
        /// Steps in which it computed at least one lane.
        public var steps: Int
    }

    /// The last epoch's metrics.
    public struct Metrics: Hashable, Sendable, Codable {
        /// Mean loss on training samples, while they were trained on.
        public var trainLoss: Double?
        /// Mean loss on the validation samples.
        public var valLoss: Double?
        /// Accuracy on the validation samples.
        public var valAccuracy: Double?

        enum CodingKeys: String, CodingKey {
            case trainLoss = "train_loss"
            case valLoss = "val_loss"
            case valAccuracy = "val_accuracy"
        }
    }

    /// The best checkpoint by the run's monitor.
    public struct Best: Hashable, Sendable, Codable {
        /// The step after which it was taken.
        public var step: Int
        /// Its manifest.
        public var checkpoint: Digest
        /// Accuracy on the validation samples.
        public var valAccuracy: Double?

        enum CodingKeys: String, CodingKey {
            case step, checkpoint
            case valAccuracy = "val_accuracy"
        }
    }

    /// The run's id.
    public var run: RunID
    /// Where it stands.
    public var state: RunState
    /// The engine; nil until the record is made.
    public var engine: EngineKind?
    /// Committed steps.
    public var step: Int
    /// Complete epochs.
    public var epoch: Int
    /// Lanes of the run.
    public var lanes: Int
    /// Its kernel set; nil until the record is made.
    public var kernels: KernelSet?
    /// How members tell each other what they computed, in words; nil until the record is made.
    public var exchange: String?
    /// SHA-256 of the worker binary; nil until the record is made.
    public var workerSHA256: Digest?
    /// Its workers, by rank.
    public var workers: [Worker]
    /// Generations of membership so far.
    public var generations: Int
    /// Recent speed.
    public var samplesPerSecond: Double?
    /// Where the time of the last steps went, the mean of each part; unit: seconds.
    public var stepSeconds: StepTimes?
    /// What was noticed: losses out of line, overfitting; the oldest first.
    public var notices: [String]
    /// What the members planned to have in memory and what they had; the oldest first.
    public var memory: [String]
    /// The last epoch's metrics.
    public var metrics: Metrics
    /// The best checkpoint; nil before the first.
    public var best: Best?
    /// SHA-256 of the last `model.safetensors`.
    public var weightsSHA256: Digest?
    /// Why it is in this state, when there is something to say.
    public var message: String?

    enum CodingKeys: String, CodingKey {
        case run, state, engine, step, epoch, lanes, kernels, exchange, workers, generations, metrics, best
        case message, notices, memory
        case stepSeconds = "step_seconds"
        case workerSHA256 = "worker_sha256"
        case samplesPerSecond = "samples_per_second"
        case weightsSHA256 = "weights_sha256"
    }
}

extension RunSummary {
    /// Writes every key, `null` where there is no value: a script may ask for each without checking.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(run, forKey: .run)
        try container.encode(state, forKey: .state)
        try container.encode(engine, forKey: .engine)
        try container.encode(step, forKey: .step)
        try container.encode(epoch, forKey: .epoch)
        try container.encode(lanes, forKey: .lanes)
        try container.encode(kernels, forKey: .kernels)
        try container.encode(exchange, forKey: .exchange)
        try container.encode(workerSHA256, forKey: .workerSHA256)
        try container.encode(workers, forKey: .workers)
        try container.encode(generations, forKey: .generations)
        try container.encode(samplesPerSecond, forKey: .samplesPerSecond)
        try container.encode(stepSeconds, forKey: .stepSeconds)
        try container.encode(notices, forKey: .notices)
        try container.encode(memory, forKey: .memory)
        try container.encode(metrics, forKey: .metrics)
        try container.encode(best, forKey: .best)
        try container.encode(weightsSHA256, forKey: .weightsSHA256)
        try container.encode(message, forKey: .message)
    }
}

extension RunSummary.Metrics {
    /// Writes every key.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(trainLoss, forKey: .trainLoss)
        try container.encode(valLoss, forKey: .valLoss)
        try container.encode(valAccuracy, forKey: .valAccuracy)
    }
}

extension RunSummary.Best {
    /// Writes every key.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(step, forKey: .step)
        try container.encode(checkpoint, forKey: .checkpoint)
        try container.encode(valAccuracy, forKey: .valAccuracy)
    }
}

extension RegistrySnapshot {
    /// Everything that `coord run show` shows of a run.
    ///
    /// - Throws: ``RegistryError`` `.notFound`.
    public func summary(of id: RunID) throws -> RunSummary {
        guard let run = try run(id) else {
            throw RegistryError(.notFound, "there is no run '\(id)'", hint: "see `coord run list`")
        }
        let epoch = try latestEpoch(of: id)
        let monitor = run.record.flatMap { Monitor(rawValue: $0.spec.monitor) } ?? .valAccuracy
        let workers = try workers(of: id)
        return RunSummary(
            run: id,
            state: run.state,
            engine: run.record?.spec.engine,
            step: run.steps,
            epoch: run.epoch,
            lanes: run.lanes,
            kernels: run.record?.kernels,
            exchange: run.record?.spec.exchangeWords(
                workers.filter { !$0.lanes.isEmpty }.map { ($0.host, $0.lanes) }
            ),
            workerSHA256: run.record?.worker,
            workers: workers.map {
                RunSummary.Worker(host: $0.host, lanes: $0.lanes.lanes, steps: $0.stepsComputed)
            },
            generations: run.generations,
            samplesPerSecond: run.samplesPerSecond,
            stepSeconds: try stepTimes(of: id),
            notices: try events(EventFilter(kinds: ["watch."], run: id)).map(\.message),
            memory: try events(EventFilter(kinds: ["memory."], run: id)).map(\.message),
            metrics: RunSummary.Metrics(
                trainLoss: epoch?.trainLoss,
                valLoss: epoch?.valLoss,
                valAccuracy: epoch?.valAccuracy
            ),
            best: try best(of: id, by: monitor).map {
                RunSummary.Best(step: $0.step, checkpoint: $0.manifest, valAccuracy: $0.metrics.valAccuracy)
            },
            weightsSHA256: run.weights,
            message: run.message
        )
    }
}
