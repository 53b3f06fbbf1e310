internal import Tensors

extension ModelRegistry {
    /// How convolutions start in ResNet and MobileNet: normal with deviation √(2 / fan-out).
    ///
    /// Source: He et al. 2015.
    private static func heStart(_ filters: Int, _ kernel: Int, groups: Int = 1) -> ParameterSlice.Start {
        .normal(Float((2 / Double(filters / groups * kernel * kernel)).squareRoot()))
    }

    /// Convolution, batch-norm, and the function behind them.
    private static func unit(
        _ builder: inout ModelBuilder,
        _ convolution: String,
        _ norm: String,
        _ filters: Int,
        kernel: Int,
        stride: Int = 1,
        groups: Int = 1
    ) throws {
        try builder.convolution(
            convolution,
            filters,
            kernel: kernel,
            stride: stride,
            padding: kernel / 2,
            groups: groups,
            bias: false,
            start: heStart(filters, kernel, groups: groups)
        )
        try builder.batchNorm(norm)
    }

    /// ResNet with the names of torchvision's, the stride on the 3×3 convolution.
    ///
    /// `stem`: `imagenet` is a 7×7 convolution with stride 2 and a 3×3 max-pooling with stride 2; `cifar` a 3×3
    /// convolution; `auto` takes `imagenet` for images of 64 pixels a side or more. `width`: channels of the first stage.
    /// Source: He et al. 2016.
    static func residualNetwork(
        _ builder: inout ModelBuilder,
        _ reader: inout SpecReader,
        _ name: String,
        _ depths: [Int],
        isBottleneck: Bool
    ) throws {
        let stem = try reader.choice("stem", default: "auto", among: ["auto", "cifar", "imagenet"])
        let width = try reader.integer("width", default: 64, 1...1024)
        let image = try builder.takeImages(name)
        let isLarge = stem == "imagenet" || (stem == "auto" && min(image.height, image.width) >= 64)
        try unit(&builder, "conv1", "bn1", width, kernel: isLarge ? 7 : 3, stride: isLarge ? 2 : 1)
        builder.relu()
        if isLarge { try builder.maxPool(kernel: 3, stride: 2, padding: 1) }
        var channels = width
        for (stage, depth) in depths.enumerated() {
            let inner = width << stage
            let outer = isBottleneck ? 4 * inner : inner
            for block in 0..<depth {
                let prefix = "layer\(stage + 1).\(block)"
                let stride = stage > 0 && block == 0 ? 2 : 1
                let start = builder.mark
                func part(_ index: Int, _ filters: Int, _ kernel: Int, _ stride: Int = 1) throws {
                    try unit(
                        &builder,
                        "\(prefix).conv\(index)",
                        "\(prefix).bn\(index)",
                        filters,
                        kernel: kernel,
                        stride: stride
                    )
                }
                if isBottleneck {
                    try part(1, inner, 1)
                    builder.relu()
                    try part(2, inner, 3, stride)
                    builder.relu()
                    try part(3, outer, 1)
                } else {
                    try part(1, inner, 3, stride)
                    builder.relu()
                    try part(2, inner, 3)
                }
                let body = builder.mark
                builder.goTo(start)
                if stride != 1 || channels != outer {
                    try unit(
                        &builder,
                        "\(prefix).downsample.0",
                        "\(prefix).downsample.1",
                        outer,
                        kernel: 1,
                        stride: stride
                    )
                }
                try builder.add(body)
                builder.relu()
                channels = outer
            }
        }
        try builder.globalPool()
        builder.dense("fc", builder.classCount)
    }

    /// MobileNetV2 with the names of torchvision's.
    ///
    /// `stem`: `imagenet` has stride 2 at the start and in the second stage; `cifar` has stride 1 there, for small images;
    /// `auto` takes `imagenet` for images of 64 pixels a side or more. Source: Sandler et al. 2018.
    static func mobileNet(_ builder: inout ModelBuilder, _ reader: inout SpecReader) throws {
        let stem = try reader.choice("stem", default: "auto", among: ["auto", "cifar", "imagenet"])
        let rate = try reader.number("dropout", default: 0.2, 0...0.99)
        let image = try builder.takeImages("mobilenet_v2")
        let isLarge = stem == "imagenet" || (stem == "auto" && min(image.height, image.width) >= 64)
        try unit(&builder, "features.0.0", "features.0.1", 32, kernel: 3, stride: isLarge ? 2 : 1)
        builder.append(Activation(output: builder.shape, kind: .relu6))
        var channels = 32
        var index = 1
        // Expansion, channels, repeats, stride of the first.
        let stages = [
            (1, 16, 1, 1), (6, 24, 2, isLarge ? 2 : 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1),
        ]
        for (expansion, filters, repeats, first) in stages {
            for block in 0..<repeats {
                let prefix = "features.\(index).conv"
                let stride = block == 0 ? first : 1
                let start = builder.mark
                let inner = channels * expansion
                var place = 0
                if expansion > 1 {
                    try unit(&builder, "\(prefix).0.0", "\(prefix).0.1", inner, kernel: 1)
                    builder.append(Activation(output: builder.shape, kind: .relu6))
                    place = 1
                }
                let depthwise = "\(prefix).\(place)"
                try unit(
                    &builder,
                    "\(depthwise).0",
                    "\(depthwise).1",
                    inner,
                    kernel: 3,
                    stride: stride,
                    groups: inner
                )
                builder.append(Activation(output: builder.shape, kind: .relu6))
                try unit(&builder, "\(prefix).\(place + 1)", "\(prefix).\(place + 2)", filters, kernel: 1)
                if stride == 1, channels == filters { try builder.add(start) }
                channels = filters
                index += 1
            }
        }
        try unit(&builder, "features.\(index).0", "features.\(index).1", 1280, kernel: 1)
        builder.append(Activation(output: builder.shape, kind: .relu6))
        try builder.globalPool()
        builder.dropout(rate)
        builder.dense("classifier.1", builder.classCount, start: .normal(0.01))
    }
}
