internal import Basics
internal import Tensors

extension ModelRegistry {
    /// The layers that a list in the cluster file may name.
    static let knownLayers = [
        "attention", "average_pool", "batch_norm", "conv", "dense", "dropout", "embedding", "flatten", "gelu",
        "global_pool", "group_norm", "layer_norm", "max_pool", "positions", "relu", "relu6", "residual",
        "rms_norm", "sigmoid", "silu", "tanh",
    ]

    /// A list of layers, one after the other; a dense layer with an output for each class follows by itself.
    ///
    /// Parameters are named by their layer's place: `layers.0.weight`, `layers.3.layers.1.weight` inside a residual.
    static func sequential(_ builder: inout ModelBuilder, _ reader: inout SpecReader) throws {
        let layers = try reader.layers("layers")
        let takesTokens = layers.first?.type == "embedding"
        if takesTokens {
            _ = try builder.takeTokens("sequential with embedding")
        } else if builder.inputShape.count == 3 {
            _ = try builder.takeImages("sequential")
        }
        try append(layers, &builder, "layers", depth: 0)
        if case .planes = builder.shape { builder.flatten() }
        builder.dense("head", builder.classCount)
    }

    private static func append(
        _ layers: [TypedSpec],
        _ builder: inout ModelBuilder,
        _ prefix: String,
        depth: Int
    ) throws {
        guard layers.count <= 1000, depth <= 16 else {
            throw TrainingError(.badSpec, "\(prefix): more than 1000 layers, or residuals 16 deep")
        }
        for (index, layer) in layers.enumerated() {
            var reader = SpecReader(layer, kind: "layer")
            let name = "\(prefix).\(index)"
            switch layer.type {
            case "residual":
                let start = builder.mark
                try append(try reader.layers("layers"), &builder, "\(name).layers", depth: depth + 1)
                try builder.add(start)
            case "conv", "max_pool", "average_pool", "batch_norm", "group_norm", "global_pool", "flatten":
                try appendImageLayer(layer.type, &builder, &reader, name)
            case "embedding", "positions", "attention":
                try appendTokenLayer(layer.type, &builder, &reader, name)
            case "dense":
                let units = try reader.integer("units", default: 128, sizes)
                builder.dense(name, units, bias: try reader.boolean("bias", default: true))
            case "layer_norm": try builder.rowNorm(name)
            case "rms_norm": try builder.rowNorm(name, isRMS: true)
            case "relu": builder.relu()
            case "dropout": builder.dropout(try reader.number("rate", default: 0.5, 0...0.99))
            default:
                guard let kind = ActivationKind(rawValue: layer.type) else {
                    throw SpecReader.unknownType(layer, kind: "layer", known: knownLayers)
                }
                builder.append(Activation(output: builder.shape, kind: kind))
            }
            try reader.finish()
        }
    }

    private static func appendImageLayer(
        _ type: String,
        _ builder: inout ModelBuilder,
        _ reader: inout SpecReader,
        _ name: String
    ) throws {
        switch type {
        case "conv":
            try builder.convolution(
                name,
                try reader.integer("filters", default: 32, sizes),
                kernel: try reader.integer("kernel", default: 3, 1...16),
                stride: try reader.integer("stride", default: 1, 1...16),
                padding: try reader.integer("padding", default: 0, 0...64),
                dilation: try reader.integer("dilation", default: 1, 1...16),
                groups: try reader.integer("groups", default: 1, sizes),
                bias: try reader.boolean("bias", default: true)
            )
        case "max_pool":
            try builder.maxPool(
                kernel: try reader.integer("kernel", default: 2, 1...15),
                stride: try reader.integer("stride", default: 2, 1...16),
                padding: try reader.integer("padding", default: 0, 0...7)
            )
        case "average_pool":
            try builder.averagePool(
                kernel: try reader.integer("kernel", default: 2, 1...16),
                stride: try reader.integer("stride", default: 2, 1...16)
            )
        case "batch_norm":
            try builder.batchNorm(name, momentum: Float(try reader.number("momentum", default: 0.1, 0...1)))
        case "group_norm":
            try builder.groupNorm(name, groups: try reader.integer("groups", default: 8, sizes))
        case "global_pool": try builder.globalPool()
        default: builder.flatten()
        }
    }

    private static func appendTokenLayer(
        _ type: String,
        _ builder: inout ModelBuilder,
        _ reader: inout SpecReader,
        _ name: String
    ) throws {
        if type == "embedding" {
            guard builder.nodes.isEmpty, builder.takesTokens else {
                throw TrainingError(.badSpec, "\(name): an embedding must be the first layer")
            }
            let features = try reader.integer("features", default: 64, 1...16384)
            builder.append(
                Embedding(
                    length: builder.inputShape[0],
                    features: features,
                    vocabulary: builder.classCount,
                    weight: builder.slice("\(name).weight", [builder.classCount, features], .normal(1))
                )
            )
            return
        }
        guard case .tokens(let length, let features) = builder.shape else {
            throw TrainingError(.badSpec, "\(name): \(type) needs tokens, and stands behind \(builder.shape)")
        }
        if type == "positions" {
            let weight = builder.slice("\(name).weight", [length, features], .normal(0.02))
            return builder.append(Positions(length: length, features: features, weight: weight))
        }
        let heads = try reader.integer("heads", default: 4, 1...256)
        guard features % (2 * heads) == 0 else {
            throw TrainingError(
                .badSpec,
                "\(name): \(features) features can't be cut into \(heads) heads of an even size"
            )
        }
        let isRotary = try reader.boolean("rotary", default: false)
        builder.dense("\(name).c_attn", 3 * features)
        builder.append(
            Attention(
                length: length,
                features: features,
                heads: heads,
                isCausal: try reader.boolean("causal", default: true),
                rotary: isRotary ? Rotary(length: length, size: features / heads) : nil
            )
        )
        builder.dense("\(name).c_proj", features)
    }
}
