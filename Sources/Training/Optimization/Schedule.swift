internal import Basics

/// The learning rate of each step.
///
/// Before any of the shapes comes a linear warm-up: `rate · (s + 1) / warmup_steps` at step s.
struct Schedule {
    private enum Shape {
        case constant
        /// Times `factor` after each `everyEpochs`.
        case step(everyEpochs: Int, factor: Double)
        /// From the rate down to `minimum` (`minimum_factor` times the rate) along half a cosine.
        case cosine(minimum: Double)
        /// Up from `rate / start` in the first `rise` of the steps, then down to `rate / start / final`.
        case oneCycle(rise: Double, start: Double, final: Double)
        /// Times `factor` whenever the monitored metric has not become better for more than `patience` epochs.
        case plateau(patience: Int, factor: Double, improvement: Double)
    }

    static let knownTypes = ["constant", "cosine", "one_cycle", "plateau", "step"]

    private let shape: Shape
    private let rate: Double
    private let warmup: Int
    private let total: Int
    private let stepsPerEpoch: Int

    /// - Throws: ``TrainingError`` `.badSpec`, also when the warm-up is longer than the run.
    init(_ spec: TypedSpec, rate: Double, stepsPerEpoch: Int, epochs: Int) throws {
        var reader = SpecReader(spec, kind: "schedule")
        self.rate = rate
        self.stepsPerEpoch = max(1, stepsPerEpoch)
        total = stepsPerEpoch * epochs
        warmup = try reader.integer("warmup_steps", default: 0, 0...Int(Int32.max))
        switch spec.type {
        case "constant": shape = .constant
        case "step":
            shape = .step(
                everyEpochs: try reader.integer("every_epochs", default: 10, 1...Int(Int32.max)),
                factor: try reader.number("factor", default: 0.1, 0...1)
            )
        case "cosine":
            shape = .cosine(minimum: rate * (try reader.number("minimum_factor", default: 0, 0...1)))
        case "one_cycle":
            shape = .oneCycle(
                rise: try reader.number("rise", default: 0.3, 0...1),
                start: try reader.number("start_divisor", default: 25, 1...1e9),
                final: try reader.number("final_divisor", default: 10_000, 1...1e9)
            )
        case "plateau":
            shape = .plateau(
                patience: try reader.integer("patience", default: 10, 0...1_000_000),
                factor: try reader.number("factor", default: 0.1, 0...1),
                improvement: try reader.number("improvement", default: 0, 0...1e30)
            )
        default: throw SpecReader.unknownType(spec, kind: "schedule", known: Self.knownTypes)
        }
        try reader.finish()
        guard warmup <= total else {
            throw TrainingError(
                .badSpec,
                "the warm-up of \(warmup) steps is longer than the run of \(total) steps",
                hint: "use warmup_steps of at most \(total / 10)"
            )
        }
    }

    /// True when validation metrics bend the rate.
    var followsMetric: Bool { if case .plateau = shape { true } else { false } }

    /// Takes an epoch's metric, and counts a reduction when it stays on its plateau too long.
    func hear(_ value: Double, isLargerBetter: Bool, _ progress: inout Progress) {
        guard case .plateau(let patience, _, let improvement) = shape else { return }
        progress.plateau.hear(value, isLargerBetter: isLargerBetter, improvement: improvement)
        guard progress.plateau.waited > patience else { return }
        progress.plateau.waited = 0
        progress.reductions += 1
    }

    /// The rate at a step, 0 for the first one of the run.
    ///
    /// - Parameter reductions: how often ``hear(_:isLargerBetter:_:)`` has counted one.
    func rate(at step: Int, reductions: Int = 0) -> Double {
        if step < warmup { return rate * Double(step + 1) / Double(warmup) }
        let done = Double(step - warmup)
        let length = Double(max(1, total - warmup))
        switch shape {
        case .constant: return rate
        case .plateau(_, let factor, _): return rate * Scalars.power(factor, reductions)
        case .step(let everyEpochs, let factor):
            return rate * Scalars.power(factor, step / stepsPerEpoch / everyEpochs)
        case .cosine(let minimum):
            return Self.bend(from: rate, to: minimum, min(1, done / length))
        case .oneCycle(let rise, let start, let final):
            // Ends as in torch.optim.lr_scheduler.OneCycleLR.
            let peak = rise * length - 1
            if done <= peak { return Self.bend(from: rate / start, to: rate, peak > 0 ? done / peak : 1) }
            let fall = max(1, length - 1 - peak)
            return Self.bend(from: rate, to: rate / start / final, min(1, (done - peak) / fall))
        }
    }

    private static func bend(from a: Double, to b: Double, _ t: Double) -> Double {
        b + (a - b) * 0.5 * (1 + Scalars.cosineOfPi(times: t))
    }
}
