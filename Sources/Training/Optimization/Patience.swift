/// How long a validation metric has not become better; told once an epoch.
///
/// All members hear the same reduced values, so all come to the same end.
struct Patience: Codable, Equatable, Sendable {
    /// The best value so far; nil before the first one.
    var best: Double?
    /// Epochs since.
    var waited = 0

    /// Takes an epoch's value.
    ///
    /// - Parameters:
    ///   - isLargerBetter: true for an accuracy, false for a loss.
    ///   - improvement: how much better counts; equal values never do.
    mutating func hear(_ value: Double, isLargerBetter: Bool, improvement: Double) {
        let isBetter =
            best.map { isLargerBetter ? value > $0 + improvement : value < $0 - improvement } ?? true
        if isBetter { best = value }
        waited = isBetter ? 0 : waited + 1
    }
}

/// What a run's course so far decides: when to stop, how far a plateau has brought the rate down.
struct Progress: Codable, Equatable, Sendable {
    /// Of `early_stop`.
    var stop = Patience()
    /// Of the schedule `plateau`.
    var plateau = Patience()
    /// How often the plateau has reduced the rate.
    var reductions = 0
}
