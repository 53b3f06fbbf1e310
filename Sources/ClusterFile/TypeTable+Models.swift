internal import Basics

extension TypeTable {
    private static let sizes = 1...65536
    private static let stem = Parameter("stem", .choice(["auto", "cifar", "imagenet"]), .text("auto"))
    private static let width = Parameter("width", .integer(1...1024), .integer(64))

    private static func transformer(_ layers: Int, _ heads: Int, _ features: Int) -> [Parameter] {
        [
            Parameter("layers", .integer(1...256), .integer(layers)),
            Parameter("heads", .integer(1...256), .integer(heads)),
            Parameter("features", .integer(1...16384), .integer(features)),
            Parameter("dropout", .number(.fraction), .integer(0)),
        ]
    }

    static let models = TypeTable(types: [
        ("linear", []),
        ("mlp", [Parameter("hidden", .integers(1...1_000_000), .list([.integer(128)]))]),
        (
            "simple_cnn",
            [
                Parameter("channels", .integers(sizes), .list([.integer(16), .integer(32)])),
                Parameter("hidden", .integer(1...1_000_000), .integer(64)),
            ]
        ),
        ("tiny_net", [Parameter("width", .integer(1...1024), .integer(16))]),
        ("resnet18", [stem, width]),
        ("resnet34", [stem, width]),
        ("resnet50", [stem, width]),
        ("mobilenet_v2", [stem, Parameter("dropout", .number(.fraction), .number(0.2))]),
        ("vit_tiny", [Parameter("patch", .integer(1...16), .integer(4))] + transformer(12, 3, 192)),
        (
            "gpt",
            [Parameter("positions", .choice(["learned", "rotary"]), .text("learned"))]
                + transformer(6, 6, 384)
        ),
        ("sequential", [Parameter("layers", .layers, nil)]),
    ])

    /// The layers that `sequential` may list.
    static let layers = TypeTable(
        types: [
            (
                "conv",
                [
                    Parameter("filters", .integer(sizes), .integer(32)),
                    Parameter("kernel", .integer(1...16), .integer(3)),
                    Parameter("stride", .integer(1...16), .integer(1)),
                    Parameter("padding", .integer(0...64), .integer(0)),
                    Parameter("dilation", .integer(1...16), .integer(1)),
                    Parameter("groups", .integer(sizes), .integer(1)),
                    Parameter("bias", .boolean, .boolean(true)),
                ]
            ),
            (
                "dense",
                [
                    Parameter("units", .integer(sizes), .integer(128)),
                    Parameter("bias", .boolean, .boolean(true)),
                ]
            ),
            (
                "max_pool",
                [
                    Parameter("kernel", .integer(1...15), .integer(2)),
                    Parameter("stride", .integer(1...16), .integer(2)),
                    Parameter("padding", .integer(0...7), .integer(0)),
                ]
            ),
            (
                "average_pool",
                [
                    Parameter("kernel", .integer(1...16), .integer(2)),
                    Parameter("stride", .integer(1...16), .integer(2)),
                ]
            ),
            ("batch_norm", [Parameter("momentum", .number(.fraction), .number(0.1))]),
            ("group_norm", [Parameter("groups", .integer(sizes), .integer(8))]),
            ("dropout", [Parameter("rate", .number(.fraction), .number(0.5))]),
            ("embedding", [Parameter("features", .integer(1...16384), .integer(64))]),
            (
                "attention",
                [
                    Parameter("heads", .integer(1...256), .integer(4)),
                    Parameter("causal", .boolean, .boolean(true)),
                    Parameter("rotary", .boolean, .boolean(false)),
                ]
            ),
            ("residual", [Parameter("layers", .layers, nil)]),
        ]
            + [
                "relu", "relu6", "gelu", "silu", "tanh", "sigmoid", "layer_norm", "rms_norm", "flatten",
                "global_pool",
                "positions",
            ].map { ($0, []) }
    )

    // No class weights are the default, so they are left out of the record when the file does not give them.
    private static let classWeights = Parameter("class_weights", .numbers(.notNegative), nil)

    static let losses = TypeTable(
        types: [
            (
                "cross_entropy",
                [Parameter("label_smoothing", .number(.fraction), .integer(0)), classWeights]
            ),
            ("focal", [Parameter("gamma", .number(.notNegative), .integer(2)), classWeights]),
            ("mse", [classWeights]),
            ("bce", [classWeights]),
        ],
        fallback: "cross_entropy"
    )

    /// What may happen to images before they are trained on.
    static let augmentations = TypeTable(types: [
        (
            "flip",
            [
                Parameter("axis", .choice(["horizontal", "vertical"]), .text("horizontal")),
                Parameter("probability", .number(.share), .number(0.5)),
            ]
        ),
        ("crop", [Parameter("padding", .integer(1...1024), .integer(4))]),
        ("rotate", [Parameter("degrees", .number(.positive), .integer(15))]),
        (
            "color",
            [
                Parameter("brightness", .number(.fraction), .number(0.2)),
                Parameter("contrast", .number(.fraction), .number(0.2)),
                Parameter("saturation", .number(.fraction), .number(0.2)),
                Parameter("hue", .number(.fraction), .integer(0)),
            ]
        ),
        (
            "blur",
            [
                Parameter("sigma", .number(.positive), .integer(1)),
                Parameter("probability", .number(.share), .number(0.5)),
            ]
        ),
        (
            "cutout",
            [
                Parameter("size", .integer(1...1024), .integer(8)),
                Parameter("probability", .number(.share), .integer(1)),
            ]
        ),
        ("mixup", [Parameter("alpha", .number(.positive), .number(0.2))]),
    ])
}
