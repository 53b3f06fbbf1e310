internal import Basics

/// Which validation metric says what `best` means.
public enum Monitor: String, Hashable, Sendable, Codable, CaseIterable {
    /// Larger is better.
    case valAccuracy = "val_accuracy"
    /// Smaller is better.
    case valLoss = "val_loss"

    /// The monitor that a run file names.
    ///
    /// - Throws: ``RegistryError`` `.notFound`, which lists the names.
    public init(named name: String) throws {
        guard let monitor = Monitor(rawValue: name) else {
            let names = Monitor.allCases.map(\.rawValue).joined(separator: " or ")
            throw RegistryError(.notFound, "there is no metric '\(name)' to watch", hint: "use \(names)")
        }
        self = monitor
    }

    /// The metric's value; nil when it was not measured.
    public func value(_ metrics: CheckpointMetrics) -> Double? {
        switch self {
        case .valAccuracy: metrics.valAccuracy?.ifFinite
        case .valLoss: metrics.valLoss?.ifFinite
        }
    }

    /// Whether `a` is better than `b` by the metric alone, for "beats what is deployed by `minimum`".
    ///
    /// What was not measured beats nothing and is beaten by everything that was.
    public func improves(_ a: CheckpointMetrics, on b: CheckpointMetrics, by minimum: Double = 0) -> Bool {
        guard let new = value(a) else { return false }
        guard let old = value(b) else { return true }
        let gain = self == .valAccuracy ? new - old : old - new
        return gain > 0 && gain >= minimum
    }

    /// The checkpoints that have the metric, the best first; ties: lower validation loss, then earlier step.
    ///
    /// Depends on the values alone, never on the order of `checkpoints`.
    public func ranked(_ checkpoints: [CheckpointRow]) -> [CheckpointRow] {
        checkpoints.filter { value($0.metrics) != nil }.sorted(by: precedes)
    }

    private func precedes(_ a: CheckpointRow, _ b: CheckpointRow) -> Bool {
        let gains = [a, b].map { row in
            let value = value(row.metrics) ?? 0
            return self == .valAccuracy ? value : -value
        }
        if gains[0] != gains[1] { return gains[0] > gains[1] }
        let losses = [a, b].map { $0.metrics.valLoss?.ifFinite ?? .infinity }
        if losses[0] != losses[1] { return losses[0] < losses[1] }
        return (a.step, a.run, a.manifest) < (b.step, b.run, b.manifest)
    }
}
