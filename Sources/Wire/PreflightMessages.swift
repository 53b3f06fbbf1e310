public import Basics

/// What one host did with two training steps of a run, computed alone.
public struct PreflightReport: Codable, Sendable, Hashable {
    /// One step.
    public struct Step: Codable, Sendable, Hashable {
        /// SHA-256 of the summed gradient.
        public var gradient: Digest
        /// Samples in the step.
        public var samples: Int
        /// Wall time; unit: seconds.
        public var seconds: Double

        /// All fields.
        public init(gradient: Digest, samples: Int, seconds: Double) {
            self.gradient = gradient
            self.samples = samples
            self.seconds = seconds
        }
    }

    /// The steps, in order; the first one also warms caches up.
    public var steps: [Step]
    /// The shapes of the model's parameters.
    public var shapes: [[Int]]
    /// Numbers that the optimizer keeps for each parameter.
    public var optimizerParts: Int

    /// All fields.
    public init(steps: [Step], shapes: [[Int]], optimizerParts: Int) {
        self.steps = steps
        self.shapes = shapes
        self.optimizerParts = optimizerParts
    }
}
