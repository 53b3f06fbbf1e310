internal import Basics
public import ClusterFile

extension ClusterFile {
    /// The file with the run that a complex model has to beat: a linear model of the same samples, split and batches.
    ///
    /// What only makes sense for the other model is left out; the rate of learning is one that suits normalised inputs.
    public var baseline: ClusterFile {
        var file = self
        guard let run else { return file }
        var spec = RunSpec(
            name: run.name + "-baseline",
            model: TypedSpec(type: "linear"),
            epochs: min(run.epochs, Self.baselineEpochs),
            batch: run.batch,
            lanes: run.lanes,
            optimizer: TypedSpec(type: "adamw", parameters: ["learning_rate": .number(0.01)]),
            schedule: TypedSpec(type: "cosine"),
            seed: run.seed,
            keep: KeepSpec(best: 1, latest: 1),
            monitor: run.monitor,
            split: run.split,
            loss: run.loss,
            sampling: run.sampling,
            normalize: run.normalize
        )
        spec.isBaseline = true
        file.run = spec
        return file
    }

    /// Enough for a linear model to show what it can do.
    private static var baselineEpochs: Int { 20 }
}

/// What the simple ways reach that a complex model has to beat, and whether it does.
public struct BaselineVerdict: Hashable, Sendable {
    /// The class that most training samples have.
    public var majorityClass: String
    /// The share of the validation samples that are of that class.
    public var majority: Double
    /// The best validation accuracy of the linear model.
    public var linear: Double
    /// That of the run's model.
    public var model: Double
    /// Validation samples.
    public var samples: Int

    /// All fields.
    public init(majorityClass: String, majority: Double, linear: Double, model: Double, samples: Int) {
        self.majorityClass = majorityClass
        self.majority = majority
        self.linear = linear
        self.model = model
        self.samples = samples
    }

    /// How far two shares of that many samples may lie apart by chance: two standard errors of their difference.
    public var margin: Double {
        let best = max(linear, majority)
        return 2 * ((best * (1 - best) + model * (1 - model)) / Double(max(1, samples))).squareRoot()
    }

    /// Whether the model is better than both by more than chance.
    public var earnsItsPlace: Bool { model - max(linear, majority) > margin }

    /// For people.
    ///
    /// - Parameter type: the model's.
    public func words(_ type: String) -> String {
        func percent(_ share: Double) -> String { "\((share * 1000).rounded() / 10)" }
        let difference = model - max(linear, majority)
        let points = "\(percent(abs(difference))) points"
        let chance = "on \(samples) validation samples \(percent(margin)) may be chance"
        let judgement =
            earnsItsPlace
            ? "\(points) better (\(chance))"
            : "\(points) \(difference < 0 ? "worse" : "better") (\(chance)): \(type) does not earn its place"
        return "baseline: always \(majorityClass) \(percent(majority)) %, linear \(percent(linear)) %, "
            + "\(type) \(percent(model)) %: \(judgement)"
    }
}
