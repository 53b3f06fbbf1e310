internal import Basics
internal import Tensors

/// Mean and deviation of the training samples: one a channel of images, or one for all features.
struct Normalization {
    var mean: [Float]
    var deviation: [Float]

    /// Measures over the training split.
    ///
    /// Blocks of 256 samples are summed in double, then the blocks in order: the threads leave no trace.
    /// A channel that never varies gets the deviation 1.
    static func measure(_ samples: any SampleSource, kernels: Kernels, pool: LanePool) throws -> Normalization
    {
        let indices = samples.trainingIndices
        let channels = samples.shape.count == 3 ? samples.shape[0] : 1
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
