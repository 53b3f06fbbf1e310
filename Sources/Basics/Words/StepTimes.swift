/// Where the time of a training step went, on the member that tells it; unit: seconds of the wall clock.
public struct StepTimes: Hashable, Sendable, Codable {
    /// Reading, decoding and changing samples that were not ready.
    public var data: Double
    /// From the input to the loss.
    public var forward: Double
    /// From the loss to the gradients.
    public var backward: Double
    /// Adding up over lanes and members, waiting included.
    public var exchange: Double
    /// The optimizer.
    public var update: Double

    /// All parts.
    public init(data: Double, forward: Double, backward: Double, exchange: Double, update: Double) {
        self.data = data
        self.forward = forward
        self.backward = backward
        self.exchange = exchange
        self.update = update
    }

    /// All of them by their names, in the order of a step.
    public var parts: [(name: String, seconds: Double)] {
        [
            ("data", data), ("forward", forward), ("backward", backward), ("exchange", exchange),
            ("update", update),
        ]
    }

    /// The mean of some; nil of none.
    public static func mean(_ all: [StepTimes]) -> StepTimes? {
        guard !all.isEmpty else { return nil }
        func mean(_ value: (StepTimes) -> Double) -> Double {
            all.reduce(0) { $0 + value($1) } / Double(all.count)
        }
        return StepTimes(
            data: mean(\.data),
            forward: mean(\.forward),
            backward: mean(\.backward),
            exchange: mean(\.exchange),
            update: mean(\.update)
        )
    }
}
