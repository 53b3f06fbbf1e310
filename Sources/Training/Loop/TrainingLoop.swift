public import Basics
internal import Tensors

/// Trains one model, as one member of a run.
///
/// Synchronous: ``run()`` works on the caller's thread and on a few threads of its own, and returns when the last
/// epoch has ended. The weights depend on the record and the samples alone: not on the members, their lanes or
/// threads, nor on changes of membership or on having been resumed.
public final class TrainingLoop {
    /// What decides the bits of the result.
    public let record: RunRecord
    /// The model that is trained.
    public let model: Model
    /// What the model takes and gives.
    public let signature: ModelSignature

    let samples: any SampleSource
    let exchange: any GradientExchange
    let observer: any TrainingObserver
    let kernels: Kernels
    let pool: LanePool
    let optimizer: Optimizer
    let schedule: Schedule
    private let loss: Loss
    let random: RandomSource
    let weights: FloatArena
    let average: WeightAverage?
    let sum: FloatArena
    let tree: LaneTree
    let fit: MemoryFit
    let workspaces: [Workspace]
    lazy var evaluators: [Workspace] = (0..<(fit.sharesLanes ? 1 : pool.size)).map { _ in
        Workspace(
            model: model,
            kernels: kernels,
            capacity: Self.blockSize,
            trains: false,
            loss: loss,
            threads: pool.size
        )
    }
    var state: TrainingState
    /// What this member has not applied yet, while it joins.
    var backlog: Backlog?
    private var treeLanes = LaneSet()
    /// How samples are mixed; nil when they are not.
    let mixup: Mixup?
    /// Where the time of the operation in hand went.
    var spent = Spent()
    var lossWatch = LossWatch()
    /// What the lanes gave in the last step, for the case that its update broke the weights.
    var lastValues: (step: Int, values: [Double])?
    /// The gradient of the step in hand, while it travels already; nil while it is given at once.
    var stream: GradientStream?
    /// In which parts it travels then.
    var buckets: GradientBuckets
    /// Replicas that train by themselves between two operations; nil while every step is one.
    let islands: Islands?
    /// The exchange, where it sends matrices as thin ones.
    let lowRank: LowRankExchange?

    /// Samples in one block of an evaluation: part of the result, as a product's bits depend on its size.
    public static let blockSize = 256
    /// Loss, right ones, samples.
    static let valueCount = 3

    /// Builds the model and its state, at its start or where a checkpoint left it.
    ///
    /// - Parameters:
    ///   - record: what decides the bits of the result.
    ///   - samples: where the samples come from; read from several threads.
    ///   - exchange: how the members add up.
    ///   - laneThreads: threads for the lanes, the caller's included.
    ///   - observer: hears of steps, epochs and checkpoints.
    ///   - resume: a checkpoint of this very record.
    ///   - joins: where the run stands that this member joins, and what it may keep of it until the state has come;
    ///     unit: bytes.
    ///   - fit: what it does to need less memory; no bit depends on it.
    /// - Throws: ``TrainingError``, or `TensorsError` when OpenBLAS does not run the record's kernels.
    public convenience init(
        record: RunRecord,
        samples: any SampleSource,
        exchange: any GradientExchange,
        laneThreads: Int,
        observer: any TrainingObserver,
        resume: CheckpointState? = nil,
        joins: (standing: Standing, room: Int)? = nil,
        fit: MemoryFit = MemoryFit()
    ) throws {
        try BLAS.prepare(kernels: record.kernels)
        try self.init(
            preparedRecord: record,
            samples: samples,
            exchange: exchange,
            laneThreads: laneThreads,
            observer: observer,
            resume: resume,
            joins: joins,
            start: nil,
            fit: fit
        )
    }

    /// As the public initializer, for callers that have looked at OpenBLAS themselves.
    ///
    /// - Parameter start: weights and normalisation instead of drawn and measured ones.
    init(
        preparedRecord record: RunRecord,
        samples: any SampleSource,
        exchange: any GradientExchange,
        laneThreads: Int,
        observer: any TrainingObserver,
        resume: CheckpointState?,
        joins: (standing: Standing, room: Int)? = nil,
        start: (weights: SafeTensors, prefix: String, normalization: Normalization)?,
        fit: MemoryFit = MemoryFit()
    ) throws {
        let spec = record.spec
        try Self.checkLanes(spec)
        self.record = record
        self.samples = samples
        self.observer = observer
        let kernels = try Kernels(record.kernels)
        let model = try Model(spec.model, inputShape: samples.shape, classCount: samples.classes.count)
        let optimizer = try Optimizer(
            spec.optimizer,
            parameterCount: model.parameterCount,
            slices: model.parameters
        )
        let part = try Self.partSize(spec)
        try Self.check(model, spec, part: part)
        lowRank = spec.exchangeInForce.rank.map {
            LowRankExchange(
                exchange,
                parameters: model.parameters,
                parameterCount: model.parameterCount,
                rank: $0,
                seed: spec.seed
            )
        }
        self.exchange = lowRank ?? exchange
        let loss = try Loss(spec.loss, classCount: model.classCount)
        mixup = try spec.augment?.first { $0.type == Mixup.type }.map { try Mixup($0, model: model) }
        self.kernels = kernels
        self.model = model
        buckets = model.gradientBuckets
        self.optimizer = optimizer
        self.loss = loss
        random = RandomSource(seed: spec.seed)
        schedule = try Schedule(
            spec.schedule,
            rate: optimizer.learningRate,
            stepsPerEpoch: samples.stepsPerEpoch,
            epochs: spec.epochs
        )
        let pool = LanePool(size: max(1, laneThreads))
        self.pool = pool
        weights = FloatArena(count: model.parameterCount)
        average = spec.averaging.map { WeightAverage(decay: $0, count: model.parameterCount) }
        islands = try Islands(
            spec,
            parameterCount: model.parameterCount,
            slices: model.parameters,
            optimizer: optimizer
        )
        sum = exchange.makeArena(count: islands?.elements ?? model.parameterCount)
        tree = LaneTree(
            laneCount: spec.lanes,
            count: model.parameterCount,
            makeArena: exchange.makeArena(count:)
        )
        // The first one is a team's when there are fewer lanes than threads.
        self.fit = fit
        workspaces = (0..<(fit.sharesLanes ? 1 : min(pool.size, spec.lanes))).map {
            Workspace(
                model: model,
                kernels: kernels,
                capacity: part,
                trains: true,
                loss: loss,
                threads: $0 == 0 ? pool.size : 1,
                recomputes: fit.recomputes
            )
        }
        let begins = joins?.standing ?? resume.map { Standing(state: $0.state, signature: $0.signature) }
        if let begins {
            (state, signature) = (try Self.resumed(begins, record), begins.signature)
        } else {
            let normalization =
                try start?.normalization ?? Normalization.given(spec.normalize, samples, model)
                ?? FloatMode.withDeterministicMode {
                    try Normalization.measure(samples, kernels: kernels, pool: pool)
                }
            signature = ModelSignature(
                model: spec.model,
                inputShape: samples.shape,
                classes: samples.classes,
                mean: normalization.mean,
                deviation: normalization.deviation
            )
            state = try Self.first(record)
            if let start {
                try model.load(weights.pointer, from: start.weights, prefix: start.prefix)
            } else {
                model.initialize(weights.pointer, seed: spec.seed)
            }
            average?.arena.pointer.update(from: weights.pointer, count: model.parameterCount)
            if spec.earlyStop != nil || schedule.followsMetric { state.progress = Progress() }
        }
        guard state.progress == nil || !samples.validationIndices.isEmpty else {
            throw TrainingError(
                .badSpec,
                "early_stop and the schedule plateau listen to validation, and the split has no sample for it",
                hint: "set `validation` of `split` above 0"
            )
        }
        backlog = joins.map { Backlog(room: $0.room, begins: state.operation) }
        if let resume { try load(resume) }
    }

    /// Numbers that the optimizer keeps for each parameter.
    public var optimizerParts: Int { optimizer.state.count }

    /// The epoch of the next step, from 0; the number of finished epochs when the run has ended.
    public var nextEpoch: Int { state.epoch }

    /// True after the last epoch: the record's, or the one in which the patience of `early_stop` ended.
    public var isFinished: Bool {
        if let stop = record.spec.earlyStop, let progress = state.progress,
            progress.stop.waited >= stop.patience
        {
            return true
        }
        return state.epoch >= record.spec.epochs
    }

    /// What is evaluated, saved and served.
    var served: FloatArena { average?.arena ?? weights }

    /// Trains to the end of the last epoch.
    ///
    /// - Throws: ``TrainingError`` `.diverged` when a loss is not finite; whatever the exchange or the observer throws.
    public func run() throws {
        try FloatMode.withDeterministicMode {
            // More than weights stands between two operations of these.
            if islands != nil || lowRank != nil { try catchUp(waits: true) }
            while !isFinished { try runEpoch() }
        }
    }

    // MARK: Steps

    private func runEpoch() throws {
        let start = ContinuousClock.now
        while state.step < samples.stepsPerEpoch {
            if let islands { try runRound(islands) } else { try runStep() }
        }
        let validation = try evaluate()
        let epoch = state.epoch
        let count = max(1, state.epochTotals[2])
        let report = EpochReport(
            epoch: epoch,
            globalStep: state.globalStep,
            trainLoss: state.epochTotals[0] / count,
            trainAccuracy: state.epochTotals[1] / count,
            valLoss: validation?.loss,
            valAccuracy: validation?.accuracy,
            seconds: Self.seconds(since: start)
        )
        state.metrics = TrainingState.Metrics(
            trainLoss: report.trainLoss,
            trainAccuracy: report.trainAccuracy,
            valLoss: report.valLoss,
            valAccuracy: report.valAccuracy
        )
        listen(to: validation)
        state.epoch += 1
        state.step = 0
        state.epochTotals = [0, 0, 0]
        try observer.didFinishEpoch(report)
        if isFinished || observer.wantsCheckpoint(epoch: epoch) {
            try observer.takeCheckpoint(try makeCheckpoint(report: report))
        }
    }

    /// Lets early stopping and the plateau hear the monitored metric.
    private func listen(to validation: (loss: Double, accuracy: Double)?) {
        guard var progress = state.progress, let validation else { return }
        let isAccuracy = record.spec.monitor != "val_loss"
        let value = isAccuracy ? validation.accuracy : validation.loss
        if let stop = record.spec.earlyStop {
            progress.stop.hear(value, isLargerBetter: isAccuracy, improvement: stop.improvement)
        }
        schedule.hear(value, isLargerBetter: isAccuracy, &progress)
        state.progress = progress
    }

    private func runStep() throws {
        let start = ContinuousClock.now
        let (values, exchangeSeconds, laneSeconds) = try operate(
            sum: sum.mutableBuffer,
            settles: state.step + 1 == samples.stepsPerEpoch,
            isStep: true,
            contributions: { tree.contributions(of: $0, kernels: kernels, pool: pool) },
            compute: { missing, _ in try computeLanes(missing, weights: weights, step: state.step) }
        )
        let notice = watch(values)
        if treeLanes != exchange.lanes {
            treeLanes = exchange.lanes
            tree.keepOnly(treeLanes)
        }
        let loss = LaneTree.sum(values, width: Self.valueCount, column: 0)
        let correct = LaneTree.sum(values, width: Self.valueCount, column: 1)
        let count = LaneTree.sum(values, width: Self.valueCount, column: 2)
        let rate = schedule.rate(at: state.globalStep, reductions: state.progress?.reductions ?? 0)
        let updateStart = ContinuousClock.now
        let update = Update(samples: count, rate: rate, step: state.globalStep + 1)
        if count > 0 {
            if backlog == nil {
                apply(update, sum)
            } else if backlog?.keep(update, sum) == false {
                try catchUp(waits: true)
            }
        }
        let updateSeconds = Self.seconds(since: updateStart)
        state.epochTotals[0] += loss
        state.epochTotals[1] += correct
        state.epochTotals[2] += count
        let report = StepReport(
            epoch: state.epoch,
            step: state.step,
            globalStep: state.globalStep,
            loss: loss / max(1, count),
            accuracy: correct / max(1, count),
            learningRate: rate,
            samples: Int(count),
            computedLanes: exchange.lanes,
            secondsCompute: Self.seconds(since: start) - exchangeSeconds,
            secondsExchange: exchangeSeconds,
            secondsLanes: laneSeconds,
            times: spent.times(exchange: exchangeSeconds, update: updateSeconds),
            notice: notice
        )
        state.step += 1
        state.globalStep += 1
        try observer.didFinishStep(report)
    }

    /// Moves the weights by a step's sum, whose contents it uses up.
    func apply(_ update: Update, _ sum: FloatArena) {
        optimizer.apply(
            weights.pointer,
            sum.pointer,
            samples: update.samples,
            rate: update.rate,
            step: update.step,
            kernels: kernels,
            pool: pool
        )
        average?.update(
            weights.pointer,
            trained: model.trainedCount,
            step: update.step,
            kernels: kernels,
            pool: pool
        )
    }

    /// One operation of the exchange: computes the lanes that are missing until the members have committed.
    ///
    /// - Parameters:
    ///   - sum: `[N]`, or empty.
    ///   - settles: nothing may be left behind.
    ///   - isStep: what the lanes give is the gradient of a step.
    ///   - contributions: what the lanes that are held give, summed into their subtrees.
    ///   - compute: the rows of the lanes that it is given, in order; told whether the operation came to nothing before.
    /// - Returns: the rows of all lanes, the seconds in the exchange, and what all held lanes took together.
    func operate(
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool = false,
        isStep: Bool = false,
        contributions: (LaneSet) -> [Contribution],
        compute: (_ missing: [Int], _ isRetry: Bool) throws -> [LaneResult]
    ) throws -> ([Double], Double, Double?) {
        let laneCount = record.spec.lanes
        var rows: [Int: LaneResult] = [:]
        var exchangeSeconds = 0.0
        var laneSeconds: Double?
        var isRetry = false
        spent = Spent()
        while true {
            try catchUp(waits: !exchange.lanes.isEmpty)
            if exchange.wantsState { try exchange.take(state: try copyState()) }
            let held = exchange.lanes
            let missing = held.lanes.filter { rows[$0] == nil }
            let begun = ContinuousClock.now
            // What is computed again is a part, and mostly little of it.
            stream = isStep && !isRetry ? beginStream(held, sum) : nil
            defer { stream = nil }
            for (lane, result) in zip(missing, try computing { try compute(missing, isRetry) })
            where !result.isDropped {
                rows[lane] = result
                spent.lanes.add(result.times)
            }
            spent.wall += Self.seconds(since: begun)
            guard held.lanes.allSatisfy({ rows[$0] != nil }) else {
                try exchange.moveOn()
                isRetry = true
                continue
            }
            let adding = ContinuousClock.now
            var values = [Double](repeating: 0, count: laneCount * Self.valueCount)
            for lane in held.lanes {
                guard let row = rows[lane] else { continue }
                values[lane * Self.valueCount] = row.loss
                values[lane * Self.valueCount + 1] = row.correct
                values[lane * Self.valueCount + 2] = Double(row.count)
            }
            let given = stream?.contributions ?? contributions(held)
            spent.adding += Self.seconds(since: adding)
            laneSeconds = missing.count == held.count ? Self.seconds(since: begun) : nil
            let start = ContinuousClock.now
            let outcome = try exchange.exchange(
                operation: state.operation,
                contributions: given,
                laneValues: &values,
                sum: sum,
                settles: settles
            )
            exchangeSeconds += Self.seconds(since: start)
            guard outcome == .committed else {
                isRetry = true
                continue
            }
            // Looked at after the commit, when all members see the same rows and stop at the same place.
            try checkFinite(values)
            state.operation += exchange.lastOperations
            return (values, exchangeSeconds, laneSeconds)
        }
    }

    static func seconds(since start: ContinuousClock.Instant) -> Double { seconds(start, .now) }

    static func seconds(_ start: ContinuousClock.Instant, _ end: ContinuousClock.Instant) -> Double {
        let parts = (end - start).components
        return Double(parts.seconds) + Double(parts.attoseconds) * 1e-18
    }
}
