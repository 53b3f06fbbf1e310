public import Basics

/// Changes images at random before they are trained on, so that no two epochs see the same.
///
/// What happens to a sample follows from (seed, step, the sample's place in the step's batch) alone: whoever reads it, on
/// whichever thread, sees the same values.
public struct Augmentation: Sendable {
    /// Mixes samples and their labels; the training does so, as it alone knows both.
    public static let mixup = "mixup"

    private let transforms: [(layer: Int, transform: any ImageTransform)]
    private let random: RandomSource
    private let shape: ImageShape

    /// - Parameters:
    ///   - specs: in their order; what mixes samples is left to others.
    ///   - shape: of a sample.
    ///   - seed: the run's.
    /// - Throws: ``DatasetError`` `.badInput` for a type or a value that is not known, or samples that are no images.
    public init(_ specs: [TypedSpec], shape: [Int], seed: UInt64) throws {
        random = RandomSource(seed: seed)
        let own = ImageShape(
            channels: shape.count == 3 ? shape[0] : 1,
            height: shape.count == 3 ? shape[1] : 1,
            width: shape[shape.count - 1]
        )
        self.shape = own
        guard specs.isEmpty || shape.count == 3 else {
            throw DatasetError(
                .badInput,
                "augment is for images, and a sample has the shape \(shape)",
                hint: "leave augment out"
            )
        }
        transforms = try specs.enumerated().filter { $1.type != Self.mixup }.map { layer, spec in
            (layer, try Self.make(spec, own))
        }
    }

    /// True when nothing happens.
    public var isEmpty: Bool { transforms.isEmpty }

    /// Changes a sample in place.
    ///
    /// - Parameters:
    ///   - values: `[C, H, W]`, 0 to 255.
    ///   - step: of the whole run.
    ///   - position: in the step's batch.
    public func apply(_ values: UnsafeMutableBufferPointer<Float>, step: Int, position: Int) {
        for (layer, transform) in transforms {
            let bits = random.block(.augmentation, layer: layer, step: step, position: position)
            transform.apply(values, shape, bits)
        }
    }

    private static func make(_ spec: TypedSpec, _ shape: ImageShape) throws -> any ImageTransform {
        func bad(_ words: String) -> DatasetError {
            DatasetError(.badInput, "augment \(spec.type): \(words)", hint: "see docs/guides/data.md")
        }
        func number(_ name: String, _ fallback: Double, _ range: ClosedRange<Double>) throws -> Double {
            guard let value = spec.parameters[name] else { return fallback }
            guard let number = value.number, range.contains(number) else {
                throw bad("\(name) must be from \(range.lowerBound) to \(range.upperBound)")
            }
            return number
        }
        let probability = Float(try number("probability", spec.type == "cutout" ? 1 : 0.5, 0...1))
        switch spec.type {
        case "flip":
            return Flip(
                isVertical: spec.parameters["axis"]?.text == "vertical",
                probability: probability
            )
        case "crop":
            return PaddedCrop(padding: Int(try number("padding", 4, 1...1024)))
        case "rotate": return Rotation(degrees: try number("degrees", 15, 0...180))
        case "color":
            return ColorJitter(
                brightness: Float(try number("brightness", 0.2, 0...1)),
                contrast: Float(try number("contrast", 0.2, 0...1)),
                saturation: Float(try number("saturation", 0.2, 0...1)),
                hue: Float(try number("hue", 0, 0...0.5))
            )
        case "blur":
            let sigma = try number("sigma", 1, 0.1...16)
            guard Blur.radius(sigma) < min(shape.height, shape.width) else {
                throw bad("sigma \(sigma) is too much for \(shape.width) by \(shape.height) pixels")
            }
            return Blur(sigma: sigma, probability: probability)
        case "cutout":
            return CutOut(size: Int(try number("size", 8, 1...1024)), probability: probability)
        default: throw bad("there is no such type")
        }
    }
}
