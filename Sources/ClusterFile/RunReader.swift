internal import Basics

/// Reads `run:`.
struct RunReader {
    /// What the file says of the run.
    struct Result {
        var run: RunSpec
        /// The set that the file pins.
        var kernels: KernelSet?
        /// Whether the exchange is for the planner to choose.
        var choosesExchange: Bool
        /// What trainers do when memory will not do, and what each may have; unit: bytes.
        var memory: (policy: MemoryPolicy, limit: Int?)
    }

    /// Reads the run.
    ///
    /// What a problem left unknown stands at its default.
    static func read(_ section: Section) -> Result {
        let name = section.requiredText("name") ?? ""
        let model = section.required("model").flatMap { section.section($0) }.flatMap(TypeTable.models.read)
        let optimizer = typed("optimizer", TypeTable.optimizers, "adamw", section)
        let schedule = typed("schedule", TypeTable.schedules, "constant", section)
        let batch = section.integer("batch", in: 1...16_777_216)
        var run = RunSpec(
            name: name,
            engine: engine(section),
            model: model ?? TypedSpec(type: ""),
            epochs: section.integer("epochs", in: 1...1_000_000) ?? 10,
            batch: batch ?? 64,
            lanes: lanes(section, batch: batch ?? 64),
            optimizer: optimizer,
            schedule: schedule
        )
        if let seed = section.integer("seed", in: 0...Int.max) { run.seed = UInt64(seed) }
        if let keep = section.section("keep") {
            if let best = keep.integer("best", in: 1...1_000_000) { run.keep.best = best }
            if let latest = keep.integer("latest", in: 1...1_000_000) { run.keep.latest = latest }
            keep.reportUnknownKeys()
        }
        if let value = section.value("monitor"), let monitor = section.text(value),
            let known = section.choice(value, monitor, among: ["val_accuracy", "val_loss"])
        {
            run.monitor = known
        }
        if let split = section.section("split") { run.split = self.split(split) }
        let loss = typed("loss", TypeTable.losses, "cross_entropy", section)
        // The plain one has no parameter of effect: a record without it is the same record as before there was a choice.
        run.loss = loss == TypeTable.losses.complete("cross_entropy") ? nil : loss
        run.augment = augment(section)
        let sampling = section.choice("sampling", Sampling.self)
        run.sampling = sampling == .uniform ? nil : sampling
        let normalize = section.value("normalize").flatMap { TypeTable.normalizations.item($0, section) }
        run.normalize = normalize?.type == TypeTable.normalizations.fallback ? nil : normalize
        if let parts = section.integer("accumulate", in: 1...65536), parts > 1 {
            run.accumulate = parts
            let share = run.batch / run.lanes
            if parts > share, let value = section.value("accumulate") {
                section.bad(value, "must be at most \(share), the samples of a lane, not \(parts)")
            }
        }
        if let value = section.value("precision"), let name = section.text(value),
            section.choice(value, name, among: Precision.allCases.map(\.rawValue)) != nil
        {
            let precision = Precision(rawValue: name)
            run.precision = precision == .float32 ? nil : precision
        }
        if let decay = section.number("averaging", .fraction), decay > 0 { run.averaging = decay }
        if let stop = section.section("early_stop") { run.earlyStop = earlyStop(stop) }
        let kernels = self.kernels(section)
        let memory = memory(section)
        let chosen = exchange(section, lanes: run.lanes)
        run.exchange = chosen.flatMap { $0.kind == .sync ? nil : $0 }
        section.reportUnknownKeys()
        return Result(run: run, kernels: kernels, choosesExchange: chosen == nil, memory: memory)
    }

    /// `memory: auto`, or `memory: { policy: auto, limit: 4096 }`.
    private static func memory(_ section: Section) -> (policy: MemoryPolicy, limit: Int?) {
        guard let value = section.value("memory") else { return (.refuse, nil) }
        guard section.isMapping(value), let own = section.section(value) else {
            return (section.choice("memory", MemoryPolicy.self) ?? .refuse, nil)
        }
        let limit = own.integer("limit", in: 64...16_777_216)
        let policy = own.choice("policy", MemoryPolicy.self) ?? .refuse
        own.reportUnknownKeys()
        return (policy, limit.map { $0 << 20 })
    }

    private static func earlyStop(_ section: Section) -> EarlyStopSpec? {
        let patience = section.integer("patience", in: 0...1_000_000) ?? 0
        let improvement = section.number("improvement", .notNegative) ?? 0
        section.reportUnknownKeys()
        return patience > 0 ? EarlyStopSpec(patience: patience, improvement: improvement) : nil
    }

    /// A list of names and mappings; nil where it is empty.
    private static func augment(_ section: Section) -> [TypedSpec]? {
        guard let value = section.value("augment"), !section.isEmptyList(value) else { return nil }
        return section.items(value, "a list, such as [ crop, flip ]")?
            .compactMap { TypeTable.augmentations.item($0, section) }
    }

    private static func typed(
        _ key: String,
        _ table: TypeTable,
        _ fallback: String,
        _ section: Section
    ) -> TypedSpec {
        section.section(key).flatMap(table.read) ?? table.complete(fallback)
    }

    private static func engine(_ section: Section) -> EngineKind {
        let engine = section.choice("engine", EngineKind.self)
        if engine == .torch, let value = section.value("engine") {
            section.bad(value, "`torch` is not there yet; this version trains with `native`")
        }
        return .native
    }

    private static func lanes(_ section: Section, batch: Int) -> Int {
        guard let value = section.value("lanes"), section.text(value) != "auto" else {
            return LanePlanner.automaticLaneCount(batch: batch)
        }
        guard let lanes = section.integer("lanes", in: 1...64) else { return 1 }
        guard lanes.nonzeroBitCount == 1 else {
            let below = 1 << (Int.bitWidth - 1 - lanes.leadingZeroBitCount)
            section.bad(value, "must be a power of two, not \(lanes); nearest are \(below) and \(below * 2)")
            return below
        }
        if batch % lanes != 0, let batchValue = section.value("batch") ?? section.value("lanes") {
            let below = max(lanes, batch / lanes * lanes)
            section.bad(
                batchValue,
                "\(batch) cannot be cut into \(lanes) equal lanes; nearest are \(below) and \(below + lanes)"
            )
        }
        return lanes
    }

    /// `exchange: int8`, or `exchange: { type: topk, fraction: 0.02 }`; nil for `auto`.
    private static func exchange(_ section: Section, lanes: Int) -> ExchangeSpec? {
        guard let value = section.value("exchange") else { return ExchangeSpec(.sync) }
        let typed: TypedSpec?
        if !section.isMapping(value) {
            let names = TypeTable.exchanges.types.map(\.name)
            typed = section.text(value).flatMap { section.choice(value, $0, among: names) }
                .map(TypeTable.exchanges.complete)
        } else {
            typed = section.section("exchange").flatMap(TypeTable.exchanges.read)
        }
        guard let typed else { return ExchangeSpec(.sync) }
        guard let kind = ExchangeSpec.Kind(rawValue: typed.type) else { return nil }
        var spec = ExchangeSpec(kind)
        spec.fraction = typed.parameters["fraction"]?.number ?? spec.fraction
        spec.rank = typed.parameters["rank"]?.integer ?? spec.rank
        spec.islands = typed.parameters["islands"]?.integer
        spec.localSteps = typed.parameters["local_steps"]?.integer ?? spec.localSteps
        spec.outerLearningRate = typed.parameters["outer_learning_rate"]?.number ?? spec.outerLearningRate
        spec.outerMomentum = typed.parameters["outer_momentum"]?.number ?? spec.outerMomentum
        if let islands = spec.islands, islands.nonzeroBitCount != 1 || islands > lanes {
            section.bad(
                value,
                "has \(islands) islands: must be a power of two up to the \(lanes) lanes of the run"
            )
        }
        return spec
    }

    private static func split(_ section: Section) -> SplitSpec {
        var split = SplitSpec()
        if let validation = section.number("validation", .fraction) { split.validation = validation }
        if let test = section.number("test", .fraction) { split.test = test }
        if let seed = section.integer("seed", in: 0...Int.max) { split.seed = UInt64(seed) }
        if split.validation == 0, let value = section.value("validation") {
            section.bad(value, "must be greater than 0: the best checkpoint is chosen on validation data")
        }
        if split.validation + split.test >= 1,
            let value = section.value("test") ?? section.value("validation")
        {
            section.bad(value, "leaves nothing to train on: validation and test together must be less than 1")
        }
        section.reportUnknownKeys()
        return split
    }

    private static func kernels(_ section: Section) -> KernelSet? {
        guard let value = section.value("kernels"), let name = section.text(value),
            let known = section.choice(value, name, among: ["auto"] + KernelSet.allCases.map(\.rawValue))
        else { return nil }
        return KernelSet(rawValue: known)
    }
}
