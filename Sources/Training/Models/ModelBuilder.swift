internal import Basics

/// Appends layers to a network, and hands out names and places in the arena.
///
/// Each call continues from the node where the builder stands; ``mark`` and ``goTo(_:_:)`` make branches,
/// ``add(_:)`` joins them.
struct ModelBuilder {
    let inputShape: [Int]
    let classCount: Int
    /// Shape where the builder stands.
    private(set) var shape: SampleShape
    /// How the first layer takes its samples.
    private(set) var input: SampleShape
    private(set) var takesTokens = false
    private(set) var leastSamples = 1
    private(set) var trainedCount = 0
    private(set) var nodes: [Node] = []
    private var at = -1
    private var statisticsEnd: Int
    private var dropouts = 0

    /// A place to come back to.
    struct Mark {
        fileprivate let node: Int
        fileprivate let shape: SampleShape
    }

    init(inputShape: [Int], classCount: Int, statisticsAt: Int) {
        self.inputShape = inputShape
        self.classCount = classCount
        statisticsEnd = statisticsAt
        shape = .flat(inputShape.reduce(1, *))
        input = shape
    }

    /// Numbers in the arena, statistics included.
    var parameterCount: Int { max(trainedCount, statisticsEnd) }

    /// The nodes: those that work in their source's memory told so, rectifiers left to a norm or a sum before them.
    func finishedNodes() -> [Node] {
        var readers = [Int](repeating: 0, count: nodes.count)
        for node in nodes {
            if node.source >= 0 { readers[node.source] += 1 }
            if case .add(let other) = node.operation, other >= 0 { readers[other] += 1 }
        }
        var finished = nodes.map { node in
            var node = node
            node.sharesSource = node.layer?.isInPlace == true && node.source >= 0 && readers[node.source] == 1
            return node
        }
        for index in finished.indices where finished[index].sharesSource {
            guard var relu = finished[index].layer as? Relu else { continue }
            let source = finished[index].source
            if var norm = finished[source].layer as? BatchNorm {
                norm.rectifies = true
                finished[source].operation = .layer(norm)
            } else if case .add = finished[source].operation {
                finished[source].rectifies = true
            } else {
                continue
            }
            relu.isDone = true
            finished[index].operation = .layer(relu)
        }
        return finished
    }

    // MARK: Input and branches

    /// Takes samples as images.
    ///
    /// - Throws: ``TrainingError`` when they are none.
    mutating func takeImages(_ model: String) throws -> (channels: Int, height: Int, width: Int) {
        guard inputShape.count == 3 else {
            throw TrainingError(
                .badSpec,
                "\(model) needs images [C, H, W], the samples are \(inputShape)",
                hint: "choose mlp or linear"
            )
        }
        shape = .planes(channels: inputShape[0], height: inputShape[1], width: inputShape[2])
        input = shape
        return (inputShape[0], inputShape[1], inputShape[2])
    }

    /// Takes samples as rows of token numbers.
    mutating func takeTokens(_ model: String) throws -> Int {
        guard inputShape.count == 1 else {
            throw TrainingError(
                .badSpec,
                "\(model) needs rows of tokens [T], the samples are \(inputShape)",
                hint: "add a text file as the dataset"
            )
        }
        takesTokens = true
        return inputShape[0]
    }

    /// Where the builder stands.
    var mark: Mark { Mark(node: at, shape: shape) }

    /// Continues from an earlier place.
    mutating func goTo(_ mark: Mark) { (at, shape) = (mark.node, mark.shape) }

    /// Adds the activation of another place.
    ///
    /// - Throws: ``TrainingError`` `.badSpec` when the shapes differ.
    mutating func add(_ other: Mark) throws {
        guard other.shape == shape else {
            throw TrainingError(
                .badSpec,
                "a residual adds \(shape) to \(other.shape)",
                hint: "keep the shape inside a residual as it is"
            )
        }
        nodes.append(Node(operation: .add(other.node), source: at, output: shape))
        at = nodes.count - 1
    }

    /// Appends a layer.
    mutating func append(_ layer: any Layer) {
        nodes.append(Node(operation: .layer(layer), source: at, output: layer.output))
        at = nodes.count - 1
        shape = layer.output
    }

    /// A trained slice.
    mutating func slice(_ name: String, _ shape: [Int], _ start: ParameterSlice.Start) -> ParameterSlice {
        let slice = ParameterSlice(name: name, shape: shape, offset: trainedCount, start: start)
        trainedCount = (trainedCount + slice.count + 15) / 16 * 16
        return slice
    }

    /// A slice of running statistics.
    private mutating func statistic(
        _ name: String,
        _ count: Int,
        start: Float,
        momentum: Float
    ) -> ParameterSlice {
        let slice = ParameterSlice(
            name: name,
            shape: [count],
            offset: statisticsEnd,
            start: .constant(start),
            statisticMomentum: momentum
        )
        statisticsEnd = (statisticsEnd + count + 15) / 16 * 16
        return slice
    }

    // MARK: Layers

    /// A dense layer over the last dimension.
    ///
    /// - Parameters:
    ///   - start: of the weight; nil draws weight and bias as PyTorch does.
    ///   - tied: the embedding's weight, to be used as this layer's.
    mutating func dense(
        _ name: String,
        _ outputs: Int,
        bias: Bool = true,
        start: ParameterSlice.Start? = nil,
        tied: ParameterSlice? = nil
    ) {
        let inputs: Int
        var length: Int?
        switch shape {
        case .flat(let features): inputs = features
        case .tokens(let tokens, let features): (inputs, length) = (features, tokens)
        case .planes:
            flatten()
            inputs = shape.count
        }
        let weight = tied ?? slice("\(name).weight", [outputs, inputs], start ?? .fanIn(inputs))
        let own = bias ? slice("\(name).bias", [outputs], start == nil ? .fanIn(inputs) : .constant(0)) : nil
        append(
            Dense(
                inputs: inputs,
                outputs: outputs,
                weight: weight,
                bias: own,
                length: length,
                isTied: tied != nil
            )
        )
    }

    /// A convolution; flat samples and tokens can't have one.
    mutating func convolution(
        _ name: String,
        _ filters: Int,
        kernel: Int,
        stride: Int = 1,
        padding: Int = 0,
        dilation: Int = 1,
        groups: Int = 1,
        bias: Bool = true,
        start: ParameterSlice.Start? = nil
    ) throws {
        let (channels, height, width) = try planes("a convolution")
        let reach = dilation * (kernel - 1) + 1
        guard height + 2 * padding >= reach, width + 2 * padding >= reach else {
            throw tooSmall("convolution \(name)", height, width)
        }
        guard channels % groups == 0, filters % groups == 0 else {
            throw TrainingError(
                .badSpec,
                "\(name): groups \(groups) must divide \(channels) channels and \(filters) filters"
            )
        }
        let fanIn = channels / groups * kernel * kernel
        let weight = slice(
            "\(name).weight",
            [filters, channels / groups, kernel, kernel],
            start ?? .fanIn(fanIn)
        )
        let own = bias ? slice("\(name).bias", [filters], start == nil ? .fanIn(fanIn) : .constant(0)) : nil
        append(
            Convolution(
                channels: channels,
                height: height,
                width: width,
                filters: filters,
                kernel: kernel,
                stride: stride,
                padding: padding,
                dilation: dilation,
                groups: groups,
                weight: weight,
                bias: own
            )
        )
    }

    mutating func batchNorm(_ name: String, momentum: Float = 0.1) throws {
        let (channels, height, width) = try planes("batch_norm", "use layer_norm, which suits any samples")
        leastSamples = max(leastSamples, BatchNorm.leastSamples)
        append(
            BatchNorm(
                channels: channels,
                height: height,
                width: width,
                weight: slice("\(name).weight", [channels], .constant(1)),
                bias: slice("\(name).bias", [channels], .constant(0)),
                mean: statistic("\(name).running_mean", channels, start: 0, momentum: momentum),
                variance: statistic("\(name).running_var", channels, start: 1, momentum: momentum)
            )
        )
    }

    mutating func groupNorm(_ name: String, groups: Int) throws {
        let (channels, height, width) = try planes("group_norm", "use layer_norm, which suits any samples")
        guard channels % groups == 0 else {
            throw TrainingError(.badSpec, "\(name): groups \(groups) must divide \(channels) channels")
        }
        append(
            GroupNorm(
                channels: channels,
                height: height,
                width: width,
                groups: groups,
                weight: slice("\(name).weight", [channels], .constant(1)),
                bias: slice("\(name).bias", [channels], .constant(0))
            )
        )
    }

    /// Layer-norm over the last dimension, or RMS-norm without a bias.
    mutating func rowNorm(_ name: String, isRMS: Bool = false, epsilon: Double = 1e-5) throws {
        let features: Int
        switch shape {
        case .flat(let count): features = count
        case .tokens(_, let count): features = count
        case .planes:
            throw TrainingError(
                .badSpec,
                "\(name) normalises rows, and stands behind images",
                hint: "use batch_norm or group_norm, or flatten first"
            )
        }
        append(
            RowNorm(
                output: shape,
                features: features,
                weight: slice("\(name).weight", [features], .constant(1)),
                bias: isRMS ? nil : slice("\(name).bias", [features], .constant(0)),
                epsilon: epsilon
            )
        )
    }

    mutating func relu() { append(Relu(output: shape)) }

    mutating func dropout(_ rate: Double) {
        guard rate > 0 else { return }
        append(Dropout(output: shape, rate: rate, index: dropouts))
        dropouts += 1
    }

    mutating func maxPool(kernel: Int, stride: Int, padding: Int = 0) throws {
        let (channels, height, width) = try planes("max_pool")
        guard height + 2 * padding >= kernel, width + 2 * padding >= kernel, padding * 2 <= kernel else {
            throw tooSmall("max_pool", height, width)
        }
        append(
            MaxPool(
                channels: channels,
                height: height,
                width: width,
                kernel: kernel,
                stride: stride,
                padding: padding
            )
        )
    }

    mutating func averagePool(kernel: Int, stride: Int) throws {
        let (channels, height, width) = try planes("average_pool")
        guard height >= kernel, width >= kernel else { throw tooSmall("average_pool", height, width) }
        append(
            AveragePool(channels: channels, height: height, width: width, kernel: kernel, stride: stride)
        )
    }

    /// The mean over the pixels, or over the tokens.
    mutating func globalPool() throws {
        switch shape {
        case .planes(let channels, let height, let width):
            append(GlobalAveragePool(channels: channels, pixels: height * width))
        case .tokens(let length, let features): append(TokenMean(length: length, features: features))
        case .flat: throw TrainingError(.badSpec, "global_pool stands behind samples that are flat already")
        }
    }

    /// `[C, H, W]` or `[T, C]` as one row.
    mutating func flatten() {
        switch shape {
        case .planes(let channels, let height, let width):
            append(Flatten(channels: channels, pixels: height * width))
        case .tokens(let length, let features):
            // Token by token: the memory is that row already.
            append(Flatten(channels: 1, pixels: length * features))
        case .flat: break
        }
    }

    private func planes(_ what: String, _ hint: String? = nil) throws -> (Int, Int, Int) {
        guard case .planes(let channels, let height, let width) = shape else {
            throw TrainingError(.badSpec, "\(what) needs images, and stands behind \(shape)", hint: hint)
        }
        return (channels, height, width)
    }

    private func tooSmall(_ what: String, _ height: Int, _ width: Int) -> TrainingError {
        TrainingError(
            .badSpec,
            "the images are too small: \(height) × \(width) is left before \(what)",
            hint: "use fewer layers that make the image smaller"
        )
    }
}
