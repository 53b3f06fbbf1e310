public import Basics

/// What one committed step gave, computed on the samples that it trained on.
public struct StepMetrics: Hashable, Sendable, Codable {
    /// The run.
    public var run: RunID
    /// The step, from 1 over the whole run.
    public var step: Int
    /// The epoch it belongs to.
    public var epoch: Int
    /// Mean training loss of the batch; nil when it was not a finite number.
    public var loss: Double?
    /// Fraction of the batch that was classified right, before the update.
    public var accuracy: Double?
    /// The learning rate of the update.
    public var learningRate: Double?
    /// Samples in the batch.
    public var samples: Int
    /// Wall time of the step.
    public var seconds: Double
    /// Where the time went; nil when it was not told.
    public var times: StepTimes?
    /// When it was committed; Unix seconds, the host's clock.
    public var time: Double

    /// All fields.
    public init(
        run: RunID,
        step: Int,
        epoch: Int,
        loss: Double?,
        accuracy: Double? = nil,
        learningRate: Double? = nil,
        samples: Int,
        seconds: Double,
        times: StepTimes? = nil,
        time: Double
    ) {
        self.times = times
        self.run = run
        self.step = step
        self.epoch = epoch
        self.loss = loss
        self.accuracy = accuracy
        self.learningRate = learningRate
        self.samples = samples
        self.seconds = seconds
        self.time = time
    }
}

/// What one epoch gave.
public struct EpochMetrics: Hashable, Sendable, Codable {
    /// The run.
    public var run: RunID
    /// The epoch, from 1.
    public var epoch: Int
    /// The last step of the epoch.
    public var step: Int
    /// Mean loss on training samples, while they were trained on.
    public var trainLoss: Double?
    /// Accuracy on training samples, while they were trained on.
    public var trainAccuracy: Double?
    /// Mean loss on the validation samples, after the epoch.
    public var valLoss: Double?
    /// Accuracy on the validation samples, after the epoch.
    public var valAccuracy: Double?
    /// When; Unix seconds.
    public var time: Double

    /// All fields.
    public init(
        run: RunID,
        epoch: Int,
        step: Int,
        trainLoss: Double? = nil,
        trainAccuracy: Double? = nil,
        valLoss: Double? = nil,
        valAccuracy: Double? = nil,
        time: Double
    ) {
        self.run = run
        self.epoch = epoch
        self.step = step
        self.trainLoss = trainLoss
        self.trainAccuracy = trainAccuracy
        self.valLoss = valLoss
        self.valAccuracy = valAccuracy
        self.time = time
    }
}
