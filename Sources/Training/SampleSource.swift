/// Where the samples come from; implemented by the agent over `Datasets`.
public protocol SampleSource: Sendable {
    /// Shape of one sample: `[features]` or `[C, H, W]`.
    var shape: [Int] { get }
    /// The names of the classes, in label order.
    var classes: [String] { get }
    /// Steps in an epoch: the longest lane decides.
    var stepsPerEpoch: Int { get }
    /// The samples of the training split; used to measure mean and deviation.
    var trainingIndices: [Int] { get }
    /// The samples of the validation split, in a fixed order.
    var validationIndices: [Int] { get }
    /// The samples that a lane contributes in a step of an epoch: at most batch / lanes, fewer or none at the end.
    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int]
    /// Writes the raw values of one sample.
    ///
    /// - Parameter target: `[shape.product]`.
    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>)
    /// The label of one sample, `0 ..< classes.count`.
    func label(_ index: Int) -> Int
}
