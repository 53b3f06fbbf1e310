internal import Basics
internal import Tensors

// Islands: several steps between two operations.
extension TrainingLoop {
    /// The steps between two meetings of the islands, and the meeting.
    func runRound(_ islands: Islands) throws {
        let start = ContinuousClock.now
        let steps = min(islands.localSteps, samples.stepsPerEpoch - state.step)
        let settles = state.step + steps == samples.stepsPerEpoch
        let elements = settles ? islands.elements : model.parameterCount
        let (values, exchangeSeconds, laneSeconds) = try operate(
            sum: UnsafeMutableBufferPointer(start: sum.pointer, count: elements),
            settles: settles,
            contributions: {
                islands.contributions(of: $0, elements: elements, kernels: kernels, pool: pool)
            },
            compute: { missing, isRetry in
                try islands.compute(missing, anchor: weights, skips: isRetry) { island, lanes in
                    try runIsland(island, lanes, steps: steps)
                }
            }
        )
        let notice = watch(values)
        let loss = LaneTree.sum(values, width: Self.valueCount, column: 0)
        let correct = LaneTree.sum(values, width: Self.valueCount, column: 1)
        let count = LaneTree.sum(values, width: Self.valueCount, column: 2)
        let updateStart = ContinuousClock.now
        if count > 0 {
            islands.meet(
                weights,
                sum: sum,
                samples: count,
                round: Int(state.operation),
                settles: settles,
                optimizer: optimizer,
                kernels: kernels,
                pool: pool
            )
            average?.update(
                weights.pointer,
                trained: model.trainedCount,
                step: Int(state.operation),
                kernels: kernels,
                pool: pool
            )
        }
        let updateSeconds = Self.seconds(since: updateStart)
        islands.keepOnly(exchange.lanes)
        state.epochTotals[0] += loss
        state.epochTotals[1] += correct
        state.epochTotals[2] += count
        state.step += steps
        state.globalStep += steps
        try observer.didFinishStep(
            StepReport(
                epoch: state.epoch,
                step: state.step - 1,
                globalStep: state.globalStep - 1,
                loss: loss / max(1, count),
                accuracy: correct / max(1, count),
                learningRate: schedule.rate(
                    at: state.globalStep - 1,
                    reductions: state.progress?.reductions ?? 0
                ),
                samples: Int(count),
                computedLanes: exchange.lanes,
                secondsCompute: Self.seconds(since: start) - exchangeSeconds,
                secondsExchange: exchangeSeconds,
                secondsLanes: laneSeconds,
                times: spent.times(exchange: exchangeSeconds, update: updateSeconds),
                notice: notice
            )
        )
    }

    /// Some steps of one island, with its own optimizer; the rows of its lanes over all of them.
    private func runIsland(_ island: Islands.Island, _ lanes: [Int], steps: Int) throws -> [LaneResult] {
        var rows = [LaneResult](repeating: LaneResult(), count: lanes.count)
        for step in 0..<steps {
            let results = try computeLanes(lanes, weights: island.weights, step: state.step + step)
            for (index, result) in results.enumerated() { rows[index].add(result) }
            let samples = results.reduce(0) { $0 + $1.count }
            let gradient = tree.contributions(of: LaneSet(lanes), kernels: kernels, pool: pool)
            guard samples > 0, let values = gradient.first?.values else { continue }
            _ = island.gradient.mutableBuffer.update(fromContentsOf: values)
            island.optimizer.apply(
                island.weights.pointer,
                island.gradient.pointer,
                samples: Double(samples),
                rate: schedule.rate(
                    at: state.globalStep + step,
                    reductions: state.progress?.reductions ?? 0
                ),
                step: state.globalStep + step + 1,
                kernels: kernels,
                pool: pool
            )
        }
        return rows
    }
}
