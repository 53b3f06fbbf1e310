/// Where the samples come from; implemented by the agent over `Datasets`.
public protocol SampleSource: Sendable {
    /// Shape of one sample: `[features]` or `[C, H, W]`.
    var shape: [Int] { get }
    /// What stands for 1 in the raw values: 255 where they are an image's bytes.
    var unit: Float { get }
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
    /// Writes the values of a sample as it is trained on in a step: the raw ones, or changed at random.
    ///
    /// - Parameters:
    ///   - step: of the whole run.
    ///   - position: the sample's place in the step's batch.
    ///   - target: `[shape.product]`.
    func read(_ index: Int, step: Int, position: Int, into target: UnsafeMutableBufferPointer<Float>)
    /// Tells which samples will be trained on next, so that they may be made ready.
    ///
    /// - Parameters:
    ///   - step: within the epoch.
    ///   - globalStep: of the whole run.
    func expect(lanes: [Int], epoch: Int, step: Int, globalStep: Int)
    /// Tells which samples will be read as they are, in this order, so that they may be made ready.
    func expect(_ indices: ArraySlice<Int>)
    /// What a message calls a sample.
    func name(of index: Int) -> String
}

extension SampleSource {
    /// Numbers stand for themselves.
    public var unit: Float { 1 }

    /// The raw values.
    public func read(
        _ index: Int,
        step: Int,
        position: Int,
        into target: UnsafeMutableBufferPointer<Float>
    ) { read(index, into: target) }

    /// Nothing is made ready.
    public func expect(lanes: [Int], epoch: Int, step: Int, globalStep: Int) {}

    /// Nothing is made ready.
    public func expect(_ indices: ArraySlice<Int>) {}

    /// Its number.
    public func name(of index: Int) -> String { "\(index)" }
}
