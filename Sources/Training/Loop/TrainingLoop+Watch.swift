internal import Basics
internal import Tensors

// Losses that are no numbers, or far from those before.
extension TrainingLoop {
    /// Samples that a message names at most.
    private static let mostNames = 5
    /// Lanes whose samples are looked at one by one at most.
    private static let mostLanes = 4

    /// Looks at the committed rows of a step: all members see the same and stop at the same place.
    ///
    /// - Throws: ``TrainingError`` `.diverged` naming step, lanes and samples of a loss that is no finite number.
    func checkFinite(_ values: [Double]) throws {
        let bad = (0..<record.spec.lanes).filter { !values[$0 * Self.valueCount].isFinite }
        guard !bad.isEmpty else { return }
        let isEvaluation = state.step >= samples.stepsPerEpoch
        let place =
            isEvaluation
            ? "the validation of epoch \(state.epoch + 1)"
            : "step \(state.globalStep + 1) (epoch \(state.epoch + 1))"
        let hint = "lower the learning rate, warm up longer or clip with clip_norm"
        guard weights.buffer.allSatisfy(\.isFinite) else {
            var before = ""
            if let last = lastValues {
                let lanes = standingOut(last.values, above: .infinity)
                before =
                    "; that of step \(last.step + 1) did it, whose largest loss, \(worst(last.values)), was in lane "
                    + "\(lanes.first ?? 0)"
            }
            throw TrainingError(
                .diverged,
                "the loss is no finite number in \(place), lanes \(Self.list(bad)): an update has made weights "
                    + "infinite\(before)",
                hint: hint
            )
        }
        let names = worstSamples(of: bad).filter { !$0.loss.isFinite }.prefix(Self.mostNames)
        let words =
            names.isEmpty
            ? "" : ", samples " + names.map { samples.name(of: $0.index) }.joined(separator: ", ")
        throw TrainingError(
            .diverged,
            "the loss is no finite number in \(place), \(bad.count == 1 ? "lane" : "lanes") \(Self.list(bad))\(words)",
            hint: names.isEmpty ? hint : "look at these samples; else \(hint)"
        )
    }

    /// Takes the committed rows of a step; something to tell when its loss is far above those before.
    func watch(_ values: [Double]) -> StepNotice? {
        let count = LaneTree.sum(values, width: Self.valueCount, column: 2)
        guard count > 0 else { return nil }
        lastValues = (state.globalStep, values)
        let loss = LaneTree.sum(values, width: Self.valueCount, column: 0) / count
        let usual = lossWatch.usual
        guard lossWatch.hear(loss), let usual else { return nil }
        let lanes = standingOut(values, above: usual.mean + 6 * usual.deviation)
        return StepNotice(
            globalStep: state.globalStep,
            epoch: state.epoch,
            loss: loss,
            usual: usual.mean,
            lanes: lanes,
            samples: worstSamples(of: lanes).prefix(Self.mostNames).map { samples.name(of: $0.index) }
        )
    }

    /// The lanes whose mean loss is above a bound, the worst first; the worst one when none is.
    private func standingOut(_ values: [Double], above bound: Double) -> [Int] {
        let means = (0..<record.spec.lanes).compactMap { lane -> (lane: Int, loss: Double)? in
            let count = values[lane * Self.valueCount + 2]
            return count > 0 ? (lane, values[lane * Self.valueCount] / count) : nil
        }.sorted { ($1.loss, $0.lane) < ($0.loss, $1.lane) }
        let above = means.filter { $0.loss > bound }.map(\.lane)
        return above.isEmpty ? means.prefix(1).map(\.lane) : above
    }

    private func worst(_ values: [Double]) -> Double {
        (0..<record.spec.lanes).map { lane in
            values[lane * Self.valueCount] / max(1, values[lane * Self.valueCount + 2])
        }.max() ?? 0
    }

    /// The samples of some lanes' part of the step in hand with their losses, the largest and those that are none first.
    ///
    /// Each alone, as validation would look at it, but with the values that it was trained on.
    private func worstSamples(of lanes: [Int]) -> [(index: Int, loss: Double)] {
        // Islands are some steps ahead, each with weights of its own.
        guard islands == nil else { return [] }
        let share = record.spec.batch / record.spec.lanes
        let workspace = evaluators[0]
        var found: [(index: Int, loss: Double)] = []
        for lane in lanes.prefix(Self.mostLanes) {
            let batch = samples.microbatch(lane: lane, epoch: state.epoch, step: state.step)
            for (offset, index) in batch.enumerated() {
                let place = (step: state.globalStep, position: lane * share + offset)
                guard load([index], into: workspace, training: place) == nil else { continue }
                found.append((index, workspace.evaluate(count: 1, weights: weights.pointer).loss))
            }
        }
        return found.sorted { a, b in
            guard a.loss.isFinite, b.loss.isFinite else { return !a.loss.isFinite && b.loss.isFinite }
            return a.loss > b.loss
        }
    }

    private static func list(_ numbers: [Int]) -> String {
        numbers.map { "\($0)" }.joined(separator: ", ")
    }
}
