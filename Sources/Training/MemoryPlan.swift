public import Basics

/// What a member does to need less memory: it takes longer, and no bit depends on it.
public struct MemoryFit: Sendable, Hashable, Codable {
    /// One lane at a time, by all threads, instead of one by each.
    public var sharesLanes: Bool
    /// Backward computes activations again.
    public var recomputes: Bool

    /// Neither, unless told.
    public init(sharesLanes: Bool = false, recomputes: Bool = false) {
        self.sharesLanes = sharesLanes
        self.recomputes = recomputes
    }
}

/// What a member of a run will have in memory, computed before anything is allocated.
///
/// The lanes are all of the run: a member may be given those of others.
public struct MemoryPlan: Sendable, Hashable, Codable {
    /// One use of memory.
    public struct Part: Sendable, Hashable, Codable {
        /// `activations`, `gradients`, `optimizer` and others.
        public var name: String
        /// How much; unit: bytes.
        public var bytes: Int
    }

    /// What the run needs that is not for training alone.
    public struct Terms: Sendable, Hashable {
        /// Samples in memory, those made ready included; unit: bytes.
        public var data: Int
        /// True when there are other members.
        public var isShared: Bool

        /// Both.
        public init(data: Int, isShared: Bool) {
            self.data = data
            self.isShared = isShared
        }
    }

    /// Lanes that are computed side by side.
    public var abreast: Int
    /// What is done to need less.
    public var fit: MemoryFit
    /// The largest first.
    public var parts: [Part]

    /// All of it; unit: bytes.
    public var total: Int { parts.reduce(0) { $0 + $1.bytes } }

    /// The program, its libraries and BLAS's buffers, as measured; unit: bytes.
    private static let program = 48 << 20
    /// BLAS's buffer of each further thread; unit: bytes.
    private static let threadShare = 2 << 20

    /// Plans one way to train.
    ///
    /// - Parameters:
    ///   - shape: of a sample.
    ///   - threads: that compute.
    ///   - fit: what is done to need less.
    /// - Throws: ``TrainingError`` `.badSpec`.
    public init(
        _ spec: RunSpec,
        shape: [Int],
        classCount: Int,
        terms: Terms,
        threads: Int,
        fit: MemoryFit
    ) throws {
        let model = try Model(spec.model, inputShape: shape, classCount: classCount)
        let optimizer = try OptimizerSpec(spec.optimizer).rule.stateNames.count
        let part = try TrainingLoop.partSize(spec)
        let numbers = 4 * model.parameterCount
        let abreast = fit.sharesLanes ? 1 : min(threads, spec.lanes)
        self.abreast = abreast
        self.fit = fit
        // The first workspace is a team's, the others are of one thread each.
        func layouts(_ purpose: WorkspaceLayout.Purpose, _ capacity: Int, team: Int) -> Int {
            func bytes(_ threads: Int) -> Int {
                WorkspaceLayout(model: model, capacity: capacity, purpose: purpose, threads: threads).bytes
            }
            return bytes(team) + (abreast - 1) * bytes(1)
        }
        // One gradient a lane, one for each sum of two or more up the tree, the sum of all, and parts of a lane.
        let sums = spec.lanes > 1 ? 1 : 0
        let parts = (spec.accumulate ?? 1) > 1 ? abreast : 0
        let islands = spec.exchangeInForce.islands ?? 0
        let state = optimizer * numbers
        let saved = numbers + state + (spec.averaging == nil ? 0 : numbers)
        // A block of validation may be any team's.
        let validators =
            (fit.sharesLanes ? 1 : threads)
            * WorkspaceLayout(
                model: model,
                capacity: TrainingLoop.blockSize,
                purpose: .evaluation,
                threads: threads
            ).bytes
        var list = [
            Part(name: "program", bytes: Self.program + (threads - 1) * Self.threadShare),
            Part(name: "data", bytes: terms.data),
            Part(name: "weights", bytes: numbers + (spec.averaging == nil ? 0 : numbers)),
            Part(name: "gradients", bytes: (spec.lanes + sums + 1 + parts) * numbers),
            Part(name: "optimizer", bytes: state),
            Part(
                name: "activations",
                bytes: layouts(fit.recomputes ? .recomputing : .training, part, team: threads)
            ),
            Part(name: "validation", bytes: validators),
            // One that is being written, and its bytes on their way to the store.
            Part(name: "checkpoints", bytes: 2 * saved),
        ]
        if terms.isShared { list.append(Part(name: "exchange", bytes: 2 * numbers)) }
        if islands > 0 {
            list.append(Part(name: "islands", bytes: islands * (3 * numbers + state) + state))
        }
        self.parts = list.filter { $0.bytes > 0 }.sorted { ($1.bytes, $0.name) < ($0.bytes, $1.name) }
    }

    /// The fastest way that fits: the ways in which all have the same bits, by their estimated time.
    ///
    /// - Parameters:
    ///   - limit: unit: bytes.
    ///   - policy: `refuse` tries only the fastest of all.
    /// - Throws: ``TrainingError`` `.noMemory` with what it would need; `.badSpec`.
    public static func fit(
        _ spec: RunSpec,
        shape: [Int],
        classCount: Int,
        terms: Terms,
        threads: Int,
        limit: Int,
        policy: MemoryPolicy
    ) throws -> MemoryPlan {
        func plan(_ fit: MemoryFit) throws -> MemoryPlan {
            try MemoryPlan(
                spec,
                shape: shape,
                classCount: classCount,
                terms: terms,
                threads: threads,
                fit: fit
            )
        }
        let wanted = try plan(MemoryFit())
        if wanted.total <= limit { return wanted }
        guard policy == .auto else {
            throw TrainingError(
                .noMemory,
                "the run needs \(wanted.summary), and there are \(ByteCount(limit))",
                hint:
                    "set `memory: auto`, which needs less by taking longer; or use a smaller batch, `accumulate`, or more hosts"
            )
        }
        // By the time they take: threads that share a lane wait for one another now and then, forward once more is a third
        // of forward and backward.
        let ways = [
            MemoryFit(sharesLanes: true), MemoryFit(recomputes: true),
            MemoryFit(sharesLanes: true, recomputes: true),
        ]
        var least = wanted
        for way in ways {
            let plan = try plan(way)
            if plan.total <= limit { return plan }
            if plan.total < least.total { least = plan }
        }
        throw TrainingError(
            .noMemory,
            "the run needs \(least.summary) at least, and there are \(ByteCount(limit))",
            hint: "use a smaller batch, `accumulate`, a smaller model, or a host with more memory"
        )
    }

    /// `1.2 GB (activations 800 MB, …)`.
    public var summary: String {
        let words = parts.prefix(4).map { "\($0.name) \(ByteCount($0.bytes))" }
        return "\(ByteCount(total)) (\(words.joined(separator: ", "))\(parts.count > 4 ? ", …" : ""))"
    }

    /// How the run computes: `2 lanes at a time, activations computed again`.
    public var way: String {
        "\(abreast) \(abreast == 1 ? "lane" : "lanes") at a time"
            + (fit.recomputes ? ", activations computed again" : "")
    }
}
