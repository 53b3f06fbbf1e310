public import Basics

/// What one step did.
public struct StepReport: Sendable, Equatable {
    /// The pass over the data, from 0.
    public var epoch: Int
    /// The step within the epoch, from 0.
    public var step: Int
    /// Steps before this one in the run.
    public var globalStep: Int
    /// Mean loss over the step's training samples, before the update.
    public var loss: Double
    /// Fraction of the step's training samples that the model had right, before the update.
    public var accuracy: Double
    /// The learning rate of the update.
    public var learningRate: Double
    /// Samples of the step, over all lanes.
    public var samples: Int
    /// Lanes that this member computed.
    public var computedLanes: LaneSet
    /// Seconds spent on forward, backward and the update here.
    public var secondsCompute: Double
    /// Seconds spent in the exchange, waiting included.
    public var secondsExchange: Double
    /// Seconds that all of `computedLanes` took; nil when lanes came or went during the step.
    public var secondsLanes: Double?
    /// Where the time went.
    public var times: StepTimes
    /// What was odd about the step; nil when nothing was.
    public var notice: StepNotice?
}

/// What one epoch did.
public struct EpochReport: Sendable, Equatable {
    /// The pass over the data, from 0.
    public var epoch: Int
    /// Steps of the run so far.
    public var globalStep: Int
    /// Mean loss over the epoch's training samples, each before its own update.
    public var trainLoss: Double
    /// Fraction of the epoch's training samples that the model had right, each before its own update.
    public var trainAccuracy: Double
    /// Mean loss over the validation split; nil without one.
    public var valLoss: Double?
    /// Fraction of the validation split that the model has right; nil without one.
    public var valAccuracy: Double?
    /// Wall-clock seconds of the epoch, evaluation included.
    public var seconds: Double
}

/// A checkpoint in memory: the files' bytes, copied, ready to be stored.
///
/// Equal runs give equal bytes: nothing in them names a run, a time or a host.
public struct Checkpoint: Sendable {
    /// `model.safetensors`, `optimizer.safetensors`, `state.json`, `model.json`, `golden.safetensors`.
    public var files: [(name: String, bytes: [UInt8])]
    /// SHA-256 of `model.safetensors`.
    public var weightsDigest: Digest
    /// The last finished epoch; -1 before the first.
    public var epoch: Int
    /// Steps of the run so far.
    public var globalStep: Int
    /// The epoch's metrics; nil before the first epoch's end.
    public var report: EpochReport?
}

/// Who hears what a training loop does; called on the loop's thread, between steps.
public protocol TrainingObserver: AnyObject {
    /// After each step's update.
    func didFinishStep(_ report: StepReport) throws
    /// After each epoch's evaluation.
    func didFinishEpoch(_ report: EpochReport) throws
    /// Whether a checkpoint shall be taken at the end of this epoch; the last epoch's is always taken.
    func wantsCheckpoint(epoch: Int) -> Bool
    /// Takes a checkpoint.
    func takeCheckpoint(_ checkpoint: Checkpoint) throws
}
