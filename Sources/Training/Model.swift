public import Basics
internal import Tensors

/// One step of a network: a layer, or the sum of two activations.
struct Node: Sendable {
    enum Operation: Sendable {
        case layer(any Layer)
        /// The source plus the activation of this node; -1 is the input.
        case add(Int)
    }
    var operation: Operation
    /// The node whose activation is taken; -1 is the input.
    let source: Int
    let output: SampleShape
    /// True when the activation lies in the source's memory: nobody else reads it.
    var sharesSource = false
    /// True for a sum that computes the rectifier behind it as well.
    var rectifies = false

    var layer: (any Layer)? { if case .layer(let layer) = operation { layer } else { nil } }
}

/// A network: its layers as a graph, and where their parameters lie in one arena.
///
/// Built from a name in ``ModelRegistry``.
public struct Model: Sendable {
    /// The model by name and parameters.
    public let spec: TypedSpec
    /// Shape of one sample: `[features]` or `[C, H, W]`; `[T]` token numbers for a language model.
    public let inputShape: [Int]
    /// Number of classes, K; of tokens for a language model.
    public let classCount: Int
    /// All slices in the order of the layers, running statistics last.
    public let parameters: [ParameterSlice]
    /// Numbers in the arena, N: slices start at multiples of 16, what lies between stays 0.
    public let parameterCount: Int
    /// Numbers that are trained; running statistics follow them.
    public let trainedCount: Int

    /// In the order of computation; the last one gives the logits.
    let nodes: [Node]
    /// How the first layer wants its samples.
    let input: SampleShape
    /// Rows of logits that a sample gives: 1, or one for each token.
    let rowsPerSample: Int
    /// True when the inputs are token numbers, which are not normalised.
    let takesTokens: Bool
    /// The fewest samples that one pass may train on.
    let leastSamples: Int

    /// The layers in the order of computation.
    var layers: [any Layer] { nodes.compactMap(\.layer) }

    /// The types in the registry.
    public static let knownTypes: [String] = ModelRegistry.builders.keys.sorted()

    /// Builds a model.
    ///
    /// - Throws: ``TrainingError`` `.badSpec` for an unknown type or parameter, or when the input is too small.
    public init(_ spec: TypedSpec, inputShape: [Int], classCount: Int) throws {
        guard inputShape.count == 1 || inputShape.count == 3,
            inputShape.allSatisfy({ $0 > 0 && $0 <= 1 << 20 }),
            inputShape.reduce(1.0, { $0 * Double($1) }) <= 0x1p28
        else {
            throw TrainingError(
                .badSpec,
                "a sample's shape must be [features] or [C, H, W], not \(inputShape)"
            )
        }
        guard (2...1 << 20).contains(classCount) else {
            throw TrainingError(.badSpec, "a classifier needs 2 classes at least, there are \(classCount)")
        }
        guard let build = ModelRegistry.builders[spec.type] else {
            throw SpecReader.unknownType(spec, kind: "model", known: Self.knownTypes)
        }
        // Twice: where statistics begin is known when everything that is trained has its place.
        var builder = ModelBuilder(inputShape: inputShape, classCount: classCount, statisticsAt: 0)
        for _ in 0..<2 {
            builder = ModelBuilder(
                inputShape: inputShape,
                classCount: classCount,
                statisticsAt: builder.trainedCount
            )
            var reader = SpecReader(spec, kind: "model")
            try build(&builder, &reader)
            try reader.finish()
        }
        self.spec = spec
        self.inputShape = inputShape
        self.classCount = classCount
        nodes = builder.finishedNodes()
        let slices = nodes.compactMap(\.layer).flatMap(\.parameters)
        parameters =
            slices.filter { $0.statisticMomentum == nil } + slices.filter { $0.statisticMomentum != nil }
        trainedCount = builder.trainedCount
        parameterCount = builder.parameterCount
        input = builder.input
        takesTokens = builder.takesTokens
        leastSamples = builder.leastSamples
        switch builder.shape {
        case .flat(classCount): rowsPerSample = 1
        case .tokens(let length, classCount): rowsPerSample = length
        default: preconditionFailure("\(spec.type) ends with \(builder.shape), not \(classCount) classes")
        }
    }

    /// Shape of an activation; -1 is the input.
    func shape(of node: Int) -> SampleShape { node < 0 ? input : nodes[node].output }

    /// Whether a raw input is one that the model can take.
    func accepts(_ value: Float) -> Bool {
        !takesTokens || (value >= 0 && value < Float(classCount) && value == value.rounded(.down))
    }

    /// Draws the initial values: U(±1/√fan-in) for weights and biases, as PyTorch's layers do by default.
    ///
    /// - Parameter weights: `[N]`.
    func initialize(_ weights: UnsafeMutablePointer<Float>, seed: UInt64) {
        let random = RandomSource(seed: seed)
        for (index, slice) in parameters.enumerated() {
            let target = weights + slice.offset
            guard case .fanIn(let fanIn) = slice.start else {
                Self.fill(target, slice, random, index)
                continue
            }
            let bound = Float(1 / Double(fanIn).squareRoot())
            for block in 0..<((slice.count + 3) / 4) {
                let four = random.block(.initialization, layer: index, position: block)
                for i in 0..<min(4, slice.count - 4 * block) {
                    target[4 * block + i] = (2 * RandomSource.unit(four[i]) - 1) * bound
                }
            }
        }
    }

    /// Fills a slice that does not start uniform.
    ///
    /// A normal number is the sum of twelve uniform ones, less six: no libm.
    private static func fill(
        _ target: UnsafeMutablePointer<Float>,
        _ slice: ParameterSlice,
        _ random: RandomSource,
        _ index: Int
    ) {
        switch slice.start {
        case .fanIn: break
        case .constant(let value): target.update(repeating: value, count: slice.count)
        case .normal(let deviation):
            for i in 0..<slice.count {
                var sum: Float = 0
                for part in 0..<3 {
                    let four = random.block(.initialization, layer: index, position: 3 * i + part)
                    for j in 0..<4 { sum += RandomSource.unit(four[j]) }
                }
                target[i] = (sum - 6) * deviation
            }
        }
    }

    /// The parameters as tensors of a file.
    ///
    /// - Parameters:
    ///   - arena: `[N]`.
    ///   - prefix: set before each name.
    ///   - statistics: whether running statistics are among them.
    func tensors(
        _ arena: UnsafePointer<Float>,
        prefix: String = "",
        statistics: Bool = true
    ) -> [SafeTensors.Tensor] {
        parameters.filter { statistics || $0.statisticMomentum == nil }.map {
            SafeTensors.Tensor(
                name: prefix + $0.name,
                shape: $0.shape,
                floats: UnsafeBufferPointer(start: arena + $0.offset, count: $0.count)
            )
        }
    }

    /// Fills an arena from a file.
    ///
    /// - Throws: `TensorsError` when a tensor is missing or has another shape.
    func load(
        _ arena: UnsafeMutablePointer<Float>,
        from file: SafeTensors,
        prefix: String = "",
        statistics: Bool = true
    ) throws {
        for slice in parameters where statistics || slice.statisticMomentum == nil {
            try file.copyFloats(
                prefix + slice.name,
                shape: slice.shape,
                into: UnsafeMutableBufferPointer(start: arena + slice.offset, count: slice.count)
            )
        }
    }
}
