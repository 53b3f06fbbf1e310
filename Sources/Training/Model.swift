public import Basics
internal import Tensors

/// A network: its layers in order, and where their parameters lie in one arena.
///
/// Built from a name in the registry: `linear`; `mlp` with `hidden`; `simple_cnn` with `channels` and `hidden`.
public struct Model: Sendable {
    /// The model by name and parameters.
    public let spec: TypedSpec
    /// Shape of one sample: `[features]` or `[C, H, W]`.
    public let inputShape: [Int]
    /// Number of classes, K.
    public let classCount: Int
    /// All slices in the order of the layers.
    public let parameters: [ParameterSlice]
    /// Numbers in the arena, N: slices start at multiples of 16, what lies between stays 0.
    public let parameterCount: Int
    /// Numbers that are trained; running statistics follow them.
    public let trainedCount: Int

    let layers: [any Layer]
    /// How the first layer wants its samples.
    let input: SampleShape

    /// The types in the registry.
    public static let knownTypes = ["linear", "mlp", "simple_cnn"]

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
        var builder = Builder()
        var reader = SpecReader(spec, kind: "model")
        let features = inputShape.reduce(1, *)
        let sizes = 1...65536
        switch spec.type {
        case "linear":
            builder.shape = .flat(features)
            builder.dense(classCount)
        case "mlp":
            builder.shape = .flat(features)
            for units in try reader.integers("hidden", default: [128], sizes) {
                builder.dense(units)
                builder.relu()
            }
            builder.dense(classCount)
        case "simple_cnn":
            let channels = try reader.integers("channels", default: [32, 64], sizes)
            let hidden = try reader.integer("hidden", default: 128, sizes)
            guard inputShape.count == 3 else {
                throw TrainingError(
                    .badSpec,
                    "simple_cnn needs images [C, H, W], the samples are \(inputShape)",
                    hint: "choose mlp or linear"
                )
            }
            builder.shape = .planes(channels: inputShape[0], height: inputShape[1], width: inputShape[2])
            for filters in channels {
                builder.convolution(filters, kernel: 3, stride: 1, padding: 1)
                builder.relu()
                try builder.maxPool(kernel: 2, stride: 2)
            }
            builder.flatten()
            builder.dense(hidden)
            builder.relu()
            builder.dense(classCount)
        default:
            throw SpecReader.unknownType(spec, kind: "model", known: Self.knownTypes)
        }
        try reader.finish()
        self.spec = spec
        self.inputShape = inputShape
        self.classCount = classCount
        layers = builder.layers
        parameters = builder.layers.flatMap(\.parameters)
        parameterCount = builder.next
        trainedCount = builder.next
        input =
            spec.type == "simple_cnn"
            ? .planes(channels: inputShape[0], height: inputShape[1], width: inputShape[2]) : .flat(features)
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

/// Appends layers, and hands out names and places in the arena.
private struct Builder {
    var shape = SampleShape.flat(0)
    var layers: [any Layer] = []
    var next = 0
    private var denseCount = 0
    private var convolutionCount = 0

    private mutating func slice(_ name: String, _ shape: [Int], fanIn: Int) -> ParameterSlice {
        let slice = ParameterSlice(name: name, shape: shape, offset: next, start: .fanIn(fanIn))
        next = (next + slice.count + 15) / 16 * 16
        return slice
    }

    private mutating func append(_ layer: any Layer) {
        layers.append(layer)
        shape = layer.output
    }

    mutating func dense(_ outputs: Int) {
        let inputs = shape.count
        denseCount += 1
        let weight = slice("fc\(denseCount).weight", [outputs, inputs], fanIn: inputs)
        let bias = slice("fc\(denseCount).bias", [outputs], fanIn: inputs)
        append(Dense(inputs: inputs, outputs: outputs, weight: weight, bias: bias))
    }

    mutating func convolution(_ filters: Int, kernel: Int, stride: Int, padding: Int) {
        guard case .planes(let channels, let height, let width) = shape else {
            preconditionFailure("a convolution after \(shape)")
        }
        convolutionCount += 1
        let fanIn = channels * kernel * kernel
        let name = "conv\(convolutionCount)"
        let weight = slice("\(name).weight", [filters, channels, kernel, kernel], fanIn: fanIn)
        let bias = slice("\(name).bias", [filters], fanIn: fanIn)
        append(
            Convolution(
                channels: channels,
                height: height,
                width: width,
                filters: filters,
                kernel: kernel,
                stride: stride,
                padding: padding,
                weight: weight,
                bias: bias
            )
        )
    }

    mutating func relu() { append(Relu(output: shape)) }

    mutating func maxPool(kernel: Int, stride: Int) throws {
        guard case .planes(let channels, let height, let width) = shape else {
            preconditionFailure("a pooling after \(shape)")
        }
        guard height >= kernel, width >= kernel else {
            throw TrainingError(
                .badSpec,
                "the images are too small: \(height) × \(width) is left before pooling \(convolutionCount)",
                hint: "use fewer channels: each halves the image"
            )
        }
        append(MaxPool(channels: channels, height: height, width: width, kernel: kernel, stride: stride))
    }

    mutating func flatten() {
        guard case .planes(let channels, let height, let width) = shape else { return }
        append(Flatten(channels: channels, pixels: height * width))
    }
}
