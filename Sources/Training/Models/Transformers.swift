internal import Basics
internal import Tensors

extension ModelRegistry {
    /// What the transformers share.
    private struct Transformer {
        var layers: Int
        var heads: Int
        var features: Int
        var dropout: Double
        /// Behind attention and feed-forward, where the residual is added.
        var projection: ParameterSlice.Start
        var isCausal: Bool
        var rotary: Rotary?

        /// A block before its norms: attention, then a dense layer of four times the width with GELU.
        func block(_ builder: inout ModelBuilder, _ prefix: String, length: Int) throws {
            let normal = ParameterSlice.Start.normal(0.02)
            var start = builder.mark
            try builder.rowNorm("\(prefix).ln_1")
            builder.dense("\(prefix).attn.c_attn", 3 * features, start: normal)
            builder.append(
                Attention(
                    length: length,
                    features: features,
                    heads: heads,
                    isCausal: isCausal,
                    rotary: rotary
                )
            )
            builder.dense("\(prefix).attn.c_proj", features, start: projection)
            builder.dropout(dropout)
            try builder.add(start)
            start = builder.mark
            try builder.rowNorm("\(prefix).ln_2")
            builder.dense("\(prefix).mlp.c_fc", 4 * features, start: normal)
            builder.append(Activation(output: builder.shape, kind: .gelu))
            builder.dense("\(prefix).mlp.c_proj", features, start: projection)
            builder.dropout(dropout)
            try builder.add(start)
        }
    }

    private static func transformer(
        _ reader: inout SpecReader,
        _ model: String,
        layers: Int,
        heads: Int,
        features: Int
    ) throws -> Transformer {
        let layers = try reader.integer("layers", default: layers, 1...256)
        let heads = try reader.integer("heads", default: heads, 1...256)
        let features = try reader.integer("features", default: features, 1...16384)
        guard features % (2 * heads) == 0 else {
            throw TrainingError(
                .badSpec,
                "\(model): \(features) features can't be cut into \(heads) heads of an even size"
            )
        }
        return Transformer(
            layers: layers,
            heads: heads,
            features: features,
            dropout: try reader.number("dropout", default: 0, 0...0.99),
            projection: .normal(Float(0.02 / (2 * Double(layers)).squareRoot())),
            isCausal: true
        )
    }

    /// A language model of nanoGPT's shape and names: the next token of each of the T tokens of a sample.
    ///
    /// Blocks of norm, causal attention, norm, and a dense layer of four times the width; the last layer shares the
    /// embedding's weight. `positions`: `learned` or `rotary`. Source: Radford et al. 2019.
    static func languageModel(_ builder: inout ModelBuilder, _ reader: inout SpecReader) throws {
        var shape = try transformer(&reader, "gpt", layers: 6, heads: 6, features: 384)
        let positions = try reader.choice("positions", default: "learned", among: ["learned", "rotary"])
        let length = try builder.takeTokens("gpt")
        let table = builder.slice(
            "transformer.wte.weight",
            [builder.classCount, shape.features],
            .normal(0.02)
        )
        builder.append(
            Embedding(
                length: length,
                features: shape.features,
                vocabulary: builder.classCount,
                weight: table,
                isTied: true
            )
        )
        if positions == "learned" {
            let weight = builder.slice("transformer.wpe.weight", [length, shape.features], .normal(0.02))
            builder.append(Positions(length: length, features: shape.features, weight: weight))
        } else {
            shape.rotary = Rotary(length: length, size: shape.features / shape.heads)
        }
        builder.dropout(shape.dropout)
        for layer in 0..<shape.layers {
            try shape.block(&builder, "transformer.h.\(layer)", length: length)
        }
        try builder.rowNorm("transformer.ln_f")
        builder.dense("lm_head", builder.classCount, bias: false, tied: table)
    }

    /// A vision transformer: patches as tokens, learned positions, and the mean over the tokens for a class token.
    ///
    /// Source: Dosovitskiy et al. 2021; Beyer, Zhai & Kolesnikov 2022 for the mean.
    static func visionTransformer(_ builder: inout ModelBuilder, _ reader: inout SpecReader) throws {
        var shape = try transformer(&reader, "vit_tiny", layers: 12, heads: 3, features: 192)
        shape.isCausal = false
        let patch = try reader.integer("patch", default: 4, 1...16)
        let image = try builder.takeImages("vit_tiny")
        guard image.height % patch == 0, image.width % patch == 0 else {
            throw TrainingError(
                .badSpec,
                "vit_tiny: images of \(image.height) × \(image.width) can't be cut into patches of \(patch)",
                hint: "choose a patch that divides both sides"
            )
        }
        let length = (image.height / patch) * (image.width / patch)
        try builder.convolution(
            "patch_embed",
            shape.features,
            kernel: patch,
            stride: patch
        )
        builder.append(PlanesToTokens(channels: shape.features, pixels: length))
        let weight = builder.slice("pos_embed", [length, shape.features], .normal(0.02))
        builder.append(Positions(length: length, features: shape.features, weight: weight))
        builder.dropout(shape.dropout)
        for layer in 0..<shape.layers { try shape.block(&builder, "blocks.\(layer)", length: length) }
        try builder.rowNorm("norm")
        try builder.globalPool()
        builder.dense("head", builder.classCount)
    }
}
