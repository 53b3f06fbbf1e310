internal import Basics
internal import Tensors

/// Mean and deviation of the training samples: one a channel of images, or one for all features.
struct Normalization {
    var mean: [Float]
    var deviation: [Float]

    /// What a run's spec says of itself; nil when it has to be measured.
    ///
    /// - Throws: ``TrainingError`` `.badSpec` when it does not fit the samples.
    static func given(
        _ spec: TypedSpec?,
        _ samples: any SampleSource,
        _ model: Model
    ) throws -> Normalization? {
        guard let spec else { return model.takesTokens ? Normalization(mean: [0], deviation: [1]) : nil }
        guard !model.takesTokens else {
            throw TrainingError(
                .badSpec,
                "normalize \(spec.type): a text's tokens are not normalised",
                hint: "remove `normalize` from the run"
            )
        }
        let channels = channelCount(samples.shape)
        var reader = SpecReader(spec, kind: "normalize")
        guard spec.type == "given" else {
            try reader.finish()
            guard spec.type == "none" else {
                throw SpecReader.unknownType(spec, kind: "normalize", known: ["measured", "none", "given"])
            }
            return Normalization(
                mean: [Float](repeating: 0, count: channels),
                deviation: [Float](repeating: 1, count: channels)
            )
        }
        let mean = try reader.numbers(
            "mean",
            -Double.greatestFiniteMagnitude...Double.greatestFiniteMagnitude
        )
        let deviation = try reader.numbers(
            "std",
            Double.leastNormalMagnitude...Double.greatestFiniteMagnitude
        )
        try reader.finish()
        guard let mean, let deviation, mean.count == channels, deviation.count == channels else {
            throw TrainingError(
                .badSpec,
                "normalize given: mean has \(mean?.count ?? 0) numbers and std \(deviation?.count ?? 0), "
                    + "for samples \(samples.shape) it takes \(channels) each"
            )
        }
        let unit = Double(samples.unit)
        let result = Normalization(
            mean: mean.map { Float($0 * unit) },
            deviation: deviation.map { Float($0 * unit) }
        )
        guard result.mean.allSatisfy(\.isFinite), result.deviation.allSatisfy(\.isNormal) else {
            throw TrainingError(.badSpec, "normalize given: mean or std is beyond single precision")
        }
        return result
    }

    /// One a channel of images, one for all features.
    private static func channelCount(_ shape: [Int]) -> Int { shape.count == 3 ? shape[0] : 1 }

    /// Measures over the training split.
    ///
    /// Blocks of 256 samples are summed in double, then the blocks in order: the threads leave no trace.
    /// A channel that never varies gets the deviation 1.
    static func measure(_ samples: any SampleSource, kernels: Kernels, pool: LanePool) throws -> Normalization
    {
        let indices = samples.trainingIndices
        let channels = channelCount(samples.shape)
        let size = samples.shape.reduce(1, *)
        let each = size / channels
        guard !indices.isEmpty else { throw TrainingError(.badData, "the training split holds no sample") }
        let blocks = (indices.count + 255) / 256
        var sums = [(sum: Double, squares: Double)](repeating: (0, 0), count: blocks * channels)
        sums.withUnsafeMutableBufferPointer { sums in
            let raw = FloatArena(count: pool.size * size)
            pool.run(blocks) { block, thread in
                let sample = UnsafeMutableBufferPointer(start: raw.pointer + thread * size, count: size)
                for index in indices[(block * 256)..<min(indices.count, block * 256 + 256)] {
                    samples.read(index, into: sample)
                    for c in 0..<channels {
                        let part = kernels.moments(raw.pointer + thread * size + c * each, each)
                        sums[block * channels + c].sum += part.sum
                        sums[block * channels + c].squares += part.squares
                    }
                }
            }
        }
        let count = Double(indices.count) * Double(each)
        var result = Normalization(mean: [], deviation: [])
        for c in 0..<channels {
            var total = (sum: 0.0, squares: 0.0)
            for block in 0..<blocks {
                total.sum += sums[block * channels + c].sum
                total.squares += sums[block * channels + c].squares
            }
            let mean = total.sum / count
            let variance = total.squares / count - mean * mean
            guard mean.isFinite, variance.isFinite else {
                throw TrainingError(
                    .badData,
                    "channel \(c) of the training samples holds a value that is no number"
                )
            }
            let deviation = variance > 1e-12 * (1 + mean * mean) ? variance.squareRoot() : 1
            result.mean.append(Float(mean))
            result.deviation.append(Float(deviation))
        }
        return result
    }
}
