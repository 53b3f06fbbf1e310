internal import Basics
internal import Tensors

/// Replicas that train by themselves for some steps and then meet: DiLoCo.
///
/// An island is an aligned subtree of lanes with weights and an optimizer state of its own. At a meeting each gives how far
/// it went from where all began, weighted by its samples; the mean is the gradient of the outer optimizer, SGD with
/// Nesterov momentum. The islands belong to the run: a member trains one or several, one after the other.
///
/// The last meeting of an epoch settles: the optimizer states are averaged too, so that all islands go on alike and a
/// checkpoint holds everything.
/// Source: Douillard et al. 2023, DiLoCo.
final class Islands {
    /// One replica.
    final class Island {
        let weights: FloatArena
        /// `[N]`, of the step in hand.
        let gradient: FloatArena
        let optimizer: Optimizer

        init(optimizer: Optimizer, count: Int) {
            weights = FloatArena(count: count)
            gradient = FloatArena(count: count)
            self.optimizer = optimizer
        }
    }

    /// Steps between two meetings.
    let localSteps: Int
    /// Numbers in the contribution to a meeting that settles: N, and N for each part of the optimizer's state.
    let elements: Int
    private let count: Int
    private let laneCount: Int
    private let islandCount: Int
    private let innerSpec: TypedSpec
    private let slices: [ParameterSlice]
    private let outer: Optimizer
    /// What the islands give, summed along the tree of islands.
    private let tree: LaneTree
    /// Where islands that this member has not trained yet begin.
    private let common: Optimizer
    private var islands: [Int: Island] = [:]

    /// Nil for a run whose every step is an operation.
    ///
    /// - Parameter optimizer: holds the state that new islands begin with.
    /// - Throws: ``TrainingError`` `.badSpec`.
    init?(
        _ spec: RunSpec,
        parameterCount: Int,
        slices: [ParameterSlice] = [],
        optimizer: Optimizer
    ) throws {
        let exchange = spec.exchangeInForce
        guard exchange.kind == .diloco else { return nil }
        let count = exchange.islands ?? 1
        guard count > 0, count <= spec.lanes, count.nonzeroBitCount == 1 else {
            throw TrainingError(
                .badSpec,
                "\(count) islands of \(spec.lanes) lanes: not a power of two up to them"
            )
        }
        let momentum = exchange.outerMomentum ?? 0
        outer = try Optimizer(
            TypedSpec(
                type: "sgd",
                parameters: [
                    "learning_rate": .number(exchange.outerLearningRate ?? 1),
                    "momentum": .number(momentum),
                    "nesterov": .boolean(momentum > 0),
                ]
            ),
            parameterCount: parameterCount
        )
        localSteps = max(1, exchange.localSteps ?? 1)
        self.count = parameterCount
        elements = parameterCount * (1 + optimizer.state.count)
        laneCount = spec.lanes
        islandCount = count
        innerSpec = spec.optimizer
        self.slices = slices
        common = optimizer
        tree = LaneTree(laneCount: count, count: elements)
    }

    private var size: Int { laneCount / islandCount }

    /// The outer optimizer's state, by names beside the inner one's.
    var outerState: [(name: String, arena: FloatArena)] { outer.state.map { ("outer." + $0.name, $0.arena) } }

    /// Trains the islands of some lanes from where all begin; gives the rows of the lanes.
    ///
    /// - Parameters:
    ///   - anchor: `[N]`, the weights that all begin with.
    ///   - skips: the islands were lost: they give nothing this time, and nobody waits for them.
    ///   - train: the steps of one island: its lanes in, their rows out.
    func compute(
        _ lanes: [Int],
        anchor: FloatArena,
        skips: Bool,
        train: (Island, _ lanes: [Int]) throws -> [LaneResult]
    ) throws -> [LaneResult] {
        var rows: [LaneResult] = []
        let missing = LaneSet(lanes).units(of: size).lanes
        // All of them before any is trained: a new one begins with the state of those that are there.
        for index in missing { _ = try island(index) }
        for index in missing {
            let own = Array(index * size..<(index + 1) * size)
            let part = tree.gradient(of: index)
            guard !skips else {
                part.clear()
                rows += own.map { _ in LaneResult() }
                continue
            }
            let island = try island(index)
            _ = island.weights.mutableBuffer.update(fromContentsOf: anchor.buffer)
            let results = try train(island, own)
            let samples = Float(results.reduce(0) { $0 + $1.count })
            rows += results
            let (from, to, target) = (anchor.pointer, island.weights.pointer, part.pointer)
            for at in 0..<count { target[at] = (from[at] - to[at]) * samples }
            for (part, state) in island.optimizer.state.enumerated() {
                let (target, values) = (target + count * (part + 1), state.arena.pointer)
                for at in 0..<count { target[at] = values[at] * samples }
            }
        }
        return rows
    }

    /// What the islands of some lanes give.
    ///
    /// - Parameter elements: N, or ``elements`` for a meeting that settles.
    func contributions(of lanes: LaneSet, elements: Int, kernels: Kernels, pool: LanePool) -> [Contribution] {
        let level = size.trailingZeroBitCount
        return tree.contributions(of: lanes.units(of: size), kernels: kernels, pool: pool).map {
            Contribution(
                subtree: LaneSubtree(start: $0.subtree.start << level, level: $0.subtree.level + level),
                values: UnsafeBufferPointer(rebasing: $0.values[..<elements])
            )
        }
    }

    /// Moves the weights by the islands' mean progress.
    ///
    /// - Parameters:
    ///   - weights: `[N]`, where the islands began; on return where they go on.
    ///   - sum: what the islands gave, summed; overwritten.
    ///   - samples: over all islands, more than 0.
    ///   - settles: the optimizer states are averaged into `optimizer`, and the islands go on from there.
    func meet(
        _ weights: FloatArena,
        sum: FloatArena,
        samples: Double,
        round: Int,
        settles: Bool,
        optimizer: Optimizer,
        kernels: Kernels,
        pool: LanePool
    ) {
        outer.apply(
            weights.pointer,
            sum.pointer,
            samples: samples,
            rate: outer.learningRate,
            step: round + 1,
            kernels: kernels,
            pool: pool
        )
        guard settles else { return }
        for (part, state) in optimizer.state.enumerated() {
            let mean = sum.pointer + count * (part + 1)
            pool.forEachSlice(count) { kernels.divide(mean + $0.lowerBound, by: Float(samples), $0.count) }
            state.arena.pointer.update(from: mean, count: count)
        }
        islands = [:]
    }

    /// Forgets the islands that went to others.
    func keepOnly(_ lanes: LaneSet) {
        let held = lanes.units(of: size)
        islands = islands.filter { held.contains($0.key) }
        tree.keepOnly(held)
    }

    /// Copies the optimizer state of the first island here to where new islands, and those of a joiner, begin.
    func lend(to optimizer: Optimizer) {
        guard let first = islands.min(by: { $0.key < $1.key })?.value else { return }
        Self.copy(first.optimizer, to: optimizer)
    }

    private func island(_ index: Int) throws -> Island {
        if let known = islands[index] { return known }
        lend(to: common)
        let island = Island(
            optimizer: try Optimizer(innerSpec, parameterCount: count, slices: slices),
            count: count
        )
        Self.copy(common, to: island.optimizer)
        islands[index] = island
        return island
    }

    private static func copy(_ source: Optimizer, to target: Optimizer) {
        for (from, to) in zip(source.state, target.state) {
            _ = to.arena.mutableBuffer.update(fromContentsOf: from.arena.buffer)
        }
    }
}
