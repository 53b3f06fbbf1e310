internal import Basics
internal import Tensors

/// Draws how samples are mixed with one another: once for each pass of a lane, from the run's seed and the place in it.
struct Mixup {
    static let type = "mixup"
    /// No transform of an image has this number.
    private static let layer = 0xFFFF
    private static let mostTries = 4096

    private let alpha: Double

    /// - Throws: ``TrainingError`` `.badSpec`.
    init(_ spec: TypedSpec, model: Model) throws {
        var reader = SpecReader(spec, kind: "augment")
        alpha = try reader.number("alpha", default: 0.2, 1e-3...4)
        try reader.finish()
        guard !model.takesTokens else {
            throw TrainingError(.badSpec, "augment mixup: sequences of tokens cannot be mixed")
        }
    }

    /// How far on the sample is that each is mixed with, and the share of the sample itself: Beta(α, α).
    ///
    /// - Source: Jöhnk 1964, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen".
    func mix(_ random: RandomSource, step: Int, position: Int, count: Int) -> (shift: Int, share: Float)? {
        guard count > 1 else { return nil }
        for attempt in 0..<Self.mostTries {
            let bits = random.block(
                .augmentation,
                layer: Self.layer,
                step: step,
                position: position << 12 | attempt
            )
            let x = ExactMath.logarithm((Double(bits[0]) + 0.5) * 0x1p-32) / alpha
            let y = ExactMath.logarithm((Double(bits[1]) + 0.5) * 0x1p-32) / alpha
            // Against the larger of both, so that small α leaves something of them.
            let (a, b) = (ExactMath.exponential(x - max(x, y)), ExactMath.exponential(y - max(x, y)))
            guard max(x, y) + ExactMath.logarithm(a + b) <= 0 else { continue }
            return (1 + Int((UInt64(bits[2]) * UInt64(count - 1)) >> 32), Float(a / (a + b)))
        }
        return nil
    }
}
