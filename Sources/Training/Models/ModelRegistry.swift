/// The models by name.
///
/// A model is a function that appends its layers to a builder; its parameters are what it asks the reader for. Sizes
/// are bounded so that a record from elsewhere cannot ask for more memory than any machine has.
enum ModelRegistry {
    typealias Build = @Sendable (inout ModelBuilder, inout SpecReader) throws -> Void

    static let builders: [String: Build] = [
        "linear": linear,
        "mlp": mlp,
        "simple_cnn": simpleCNN,
        "tiny_net": tinyNet,
        "resnet18": { try residualNetwork(&$0, &$1, "resnet18", [2, 2, 2, 2], isBottleneck: false) },
        "resnet34": { try residualNetwork(&$0, &$1, "resnet34", [3, 4, 6, 3], isBottleneck: false) },
        "resnet50": { try residualNetwork(&$0, &$1, "resnet50", [3, 4, 6, 3], isBottleneck: true) },
        "mobilenet_v2": mobileNet,
        "vit_tiny": visionTransformer,
        "gpt": languageModel,
        "sequential": sequential,
    ]

    static let sizes = 1...65536

    // MARK: Small models

    /// One dense layer.
    static func linear(_ builder: inout ModelBuilder, _ reader: inout SpecReader) throws {
        builder.dense("fc1", builder.classCount)
    }

    /// Dense layers with ReLU between them.
    static func mlp(_ builder: inout ModelBuilder, _ reader: inout SpecReader) throws {
        let hidden = try reader.integers("hidden", default: [128], sizes)
        for (index, units) in hidden.enumerated() {
            builder.dense("fc\(index + 1)", units)
            builder.relu()
        }
        builder.dense("fc\(hidden.count + 1)", builder.classCount)
    }

    /// 3×3 convolutions with ReLU and 2×2 max-pooling, then two dense layers.
    static func simpleCNN(_ builder: inout ModelBuilder, _ reader: inout SpecReader) throws {
        let channels = try reader.integers("channels", default: [32, 64], sizes)
        let hidden = try reader.integer("hidden", default: 128, sizes)
        _ = try builder.takeImages("simple_cnn")
        for (index, filters) in channels.enumerated() {
            try builder.convolution("conv\(index + 1)", filters, kernel: 3, padding: 1)
            // The largest of rectified numbers is the rectified largest, for a quarter of the work.
            try builder.maxPool(kernel: 2, stride: 2)
            builder.relu()
        }
        builder.flatten()
        builder.dense("fc1", hidden)
        builder.relu()
        builder.dense("fc2", builder.classCount)
    }

    /// Four 3×3 convolutions with batch-norm and ReLU, the second and the fourth with stride 2, then the mean of each
    /// plane: a few thousand parameters for trying things out.
    static func tinyNet(_ builder: inout ModelBuilder, _ reader: inout SpecReader) throws {
        let width = try reader.integer("width", default: 16, 1...1024)
        _ = try builder.takeImages("tiny_net")
        for (index, (filters, stride)) in [(width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2)]
            .enumerated()
        {
            try builder.convolution(
                "conv\(index + 1)",
                filters,
                kernel: 3,
                stride: stride,
                padding: 1,
                bias: false
            )
            try builder.batchNorm("bn\(index + 1)")
            builder.relu()
        }
        try builder.globalPool()
        builder.dense("fc", builder.classCount)
    }
}
