/// Something odd about a step: a loss far above those before it.
public struct StepNotice: Sendable, Equatable, Hashable {
    /// Steps of the run before this one.
    public var globalStep: Int
    /// The pass over the data, from 0.
    public var epoch: Int
    /// Mean loss over the step's samples.
    public var loss: Double
    /// Mean loss of the steps before.
    public var usual: Double
    /// The lanes that stand out, or the one with the largest loss.
    public var lanes: [Int]
    /// The samples of these lanes with the largest losses, the largest first.
    public var samples: [String]

    /// All fields.
    public init(
        globalStep: Int,
        epoch: Int,
        loss: Double,
        usual: Double,
        lanes: [Int],
        samples: [String]
    ) {
        self.globalStep = globalStep
        self.epoch = epoch
        self.loss = loss
        self.usual = usual
        self.lanes = lanes
        self.samples = samples
    }
}

/// Tells a loss that is out of line from the noise of training.
///
/// A loss is out of line when it lies six deviations and half the mean above the mean of the last steps. It is told once: the
/// next one is told after the loss was back in line. What is out of line does not count for the mean, unless it stays there.
///
/// - Source: llm.c, `outlier_detector.h`.
struct LossWatch: Equatable {
    /// Steps that the mean is over; unit: steps.
    static let window = 64
    /// Steps before anything is told; unit: steps.
    static let least = 16

    private var losses: [Double] = []
    private var next = 0
    /// Steps out of line, one after the other.
    private var strange = 0

    /// What a loss lies above, when the watch knows enough: mean and deviation.
    var usual: (mean: Double, deviation: Double)? {
        guard losses.count >= Self.least else { return nil }
        let mean = losses.reduce(0, +) / Double(losses.count)
        let squares = losses.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
        return (mean, (squares / Double(losses.count)).squareRoot())
    }

    /// Takes the loss of the next step; true when it is the first one out of line.
    mutating func hear(_ loss: Double) -> Bool {
        if let usual, loss > usual.mean + 6 * usual.deviation, loss > 1.5 * usual.mean {
            strange += 1
            if strange <= Self.window { return strange == 1 }
            // This is how it is now.
            self = LossWatch()
        }
        strange = 0
        if losses.count < Self.window {
            losses.append(loss)
        } else {
            losses[next] = loss
            next = (next + 1) % Self.window
        }
        return false
    }
}
