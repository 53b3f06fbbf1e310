internal import Basics
internal import Registry
internal import Wire

/// Puts what was noticed about a run into words that help.
enum RunWatch {
    /// Epochs in a row that must be worse than the best; unit: epochs.
    static let patience = 3
    /// How much worse the validation loss must be than its best.
    static let worse = 1.05
    /// How far the training loss must have fallen since then.
    static let better = 0.97

    /// The kind of event and the words for a report of a trainer; nil for reports that are about something else.
    static func words(_ report: TrainerReport, member: Int, host: String) -> (kind: String, message: String)?
    {
        switch report {
        case .memory(_, let way, let summary):
            ("memory.plan", "trainer \(member) on \(host): \(summary) planned, \(way)")
        case .peakMemory(let bytes):
            ("memory.peak", "trainer \(member) on \(host) had \(ByteCount(bytes)) in memory at most")
        case .spike(let step, let epoch, let loss, let usual, let lanes, let samples):
            (
                "watch.spike",
                "step \(step) (epoch \(epoch)): the loss \(short(loss)) is far above the usual \(short(usual)), in "
                    + "\(lanes.count == 1 ? "lane" : "lanes") \(lanes.map { "\($0)" }.joined(separator: ", "))"
                    + (samples.isEmpty ? "" : "; samples \(samples.joined(separator: ", "))")
            )
        default: nil
        }
    }

    /// What to do when validation becomes worse while training becomes better; nil while it does not.
    static func advice(on epochs: [EpochMetrics], spec: RunSpec) -> String? {
        let rows = epochs.compactMap { row -> (epoch: Int, training: Double, validation: Double)? in
            guard let training = row.trainLoss, let validation = row.valLoss else { return nil }
            return (row.epoch, training, validation)
        }
        guard let best = rows.min(by: { $0.validation < $1.validation }), let last = rows.last else {
            return nil
        }
        let since = rows.filter { $0.epoch > best.epoch }
        guard since.count >= patience, last.validation >= worse * best.validation,
            since.suffix(patience).allSatisfy({ $0.validation > best.validation }),
            last.training <= better * best.training
        else { return nil }
        return
            "overfitting: since epoch \(best.epoch) the validation loss rose from \(short(best.validation)) to "
            + "\(short(last.validation)) while the training loss fell from \(short(best.training)) to "
            + "\(short(last.training)); \(suggestions(spec).joined(separator: "; "))"
    }

    /// What the run does not do yet, in the words of the cluster file.
    static func suggestions(_ spec: RunSpec) -> [String] {
        var words: [String] = []
        if spec.earlyStop == nil {
            words.append("`early_stop: { patience: \(patience) }` would end such a run")
        }
        let looksAtImages =
            ["simple_cnn", "tiny_net", "mobilenet_v2", "vit_tiny"].contains(spec.model.type)
            || spec.model.type.hasPrefix("resnet")
        if looksAtImages, spec.augment == nil {
            words.append("`augment: [ crop, flip ]` makes more of the images, where mirrored ones are alike")
        }
        if let dropout = spec.model.parameters["dropout"]?.number, dropout < 0.1 {
            words.append("`dropout: 0.1` in the model")
        }
        let decay = spec.optimizer.parameters["weight_decay"]?.number ?? 0
        if decay < 0.05 {
            words.append("`weight_decay: \(decay < 0.005 ? "0.01" : "0.05")` in the optimizer")
        }
        words.append("a smaller model, or more samples")
        return words
    }

    private static func short(_ number: Double) -> String {
        guard number.isFinite, abs(number) < 1e9 else { return "\(number)" }
        return "\((number * 10_000).rounded() / 10_000)"
    }
}
