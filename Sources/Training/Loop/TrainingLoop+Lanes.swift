internal import Basics
internal import Tensors

// What a member computes of a step: its lanes, each in parts, each of samples that were read.
extension TrainingLoop {
    /// Forward and backward of some lanes, side by side.
    func computeLanes(_ lanes: [Int], weights: FloatArena, step: Int) throws -> [LaneResult] {
        let batches = try lanes.map { lane in
            let indices = samples.microbatch(lane: lane, epoch: state.epoch, step: step)
            guard indices.count <= record.spec.batch / record.spec.lanes else {
                throw TrainingError(
                    .badData,
                    "lane \(lane) has \(indices.count) samples, more than its share"
                )
            }
            return indices
        }
        let gradients = lanes.map { tree.gradient(of: $0) }
        // Islands are ahead of the operation by some steps.
        let globalStep = state.globalStep + step - state.step
        expectNext(lanes: lanes, step: step, globalStep: globalStep)
        return try results(lanes.count) { index, thread, team in
            guard !batches[index].isEmpty else {
                gradients[index].clear()
                stream.map(GradientStream.Lane.init)?.passedAll()
                return LaneResult()
            }
            // An island is ahead of the others: its lanes stay.
            let isWanted = { self.islands != nil || !self.exchange.hasMoved(lane: lanes[index]) }
            return computeParts(
                of: batches[index],
                from: lanes[index] * (record.spec.batch / record.spec.lanes),
                step: globalStep,
                in: workspaces[thread],
                gradients[index],
                weights: weights,
                team: team,
                isWanted: isWanted
            )
        }
    }

    /// Tells what the lanes will read after a step: the samples of the next one, or the first blocks of validation.
    private func expectNext(lanes: [Int], step: Int, globalStep: Int) {
        guard step + 1 >= samples.stepsPerEpoch else {
            return samples.expect(
                lanes: lanes,
                epoch: state.epoch,
                step: step + 1,
                globalStep: globalStep + 1
            )
        }
        let blocks = validationBlocks(of: lanes).prefix(pool.size)
        for block in blocks { samples.expect(block) }
        if blocks.isEmpty { expectNextEpoch(lanes: lanes, globalStep: globalStep + 1) }
    }

    /// Tells what the lanes will read in the first step of the next epoch, if there is one.
    func expectNextEpoch(lanes: [Int], globalStep: Int) {
        guard state.epoch + 1 < record.spec.epochs else { return }
        samples.expect(lanes: lanes, epoch: state.epoch + 1, step: 0, globalStep: globalStep)
    }

    /// One lane's microbatch, in parts one after the other; their gradients add up in their order.
    ///
    /// - Parameters:
    ///   - place: of the first sample in the step's batch.
    ///   - step: of the whole run.
    private func computeParts(
        of batch: [Int],
        from place: Int,
        step: Int,
        in workspace: Workspace,
        _ gradient: FloatArena,
        weights: FloatArena,
        team: Team,
        isWanted: @escaping () -> Bool
    ) -> LaneResult {
        var result = LaneResult()
        let lane = stream.map(GradientStream.Lane.init)
        for first in stride(from: 0, to: batch.count, by: workspace.capacity) {
            let part = batch[first..<min(batch.count, first + workspace.capacity)]
            let begun = ContinuousClock.now
            if let bad = load(part, into: workspace, training: (step, place + first)) {
                return LaneResult(badSample: bad)
            }
            let mix = mixup?.mix(random, step: step, position: place + first, count: part.count)
            workspace.mix(mix, count: part.count)
            let loaded = ContinuousClock.now
            let target = first == 0 ? gradient : workspace.partGradient
            func addUp(_ range: Range<Int>) {
                guard first > 0 else { return }
                let first = range.lowerBound
                kernels.add(gradient.pointer + first, target.pointer + first, range.count)
            }
            let isLast = first + workspace.capacity >= batch.count
            let (loss, correct) = workspace.train(
                count: part.count,
                weights: weights.pointer,
                TrainingPass(
                    gradients: target.pointer,
                    random: random,
                    step: step,
                    position: place + first,
                    precision: record.spec.precision ?? .float32,
                    isWanted: isWanted,
                    didPass: { node in if isLast { lane?.passed(node, finish: addUp) } }
                ),
                team: team
            )
            guard !workspace.wasDropped else { return LaneResult(isDropped: true) }
            if isLast, let lane { lane.passedAll(finish: addUp) } else { addUp(0..<gradient.count) }
            let times = LaneTimes(
                data: Self.seconds(begun, loaded),
                forward: Self.seconds(loaded, workspace.forwardEnded),
                backward: Self.seconds(workspace.forwardEnded, .now)
            )
            result.add(LaneResult(loss: loss, correct: correct, count: part.count, times: times))
        }
        return result
    }

    /// Runs `body` for each index on the pool and gives the results in order.
    ///
    /// As many as there are threads go side by side, unless memory is short; the rest one after the other, each by all threads.
    func results(
        _ count: Int,
        _ body: (_ index: Int, _ thread: Int, _ team: Team) -> LaneResult
    ) throws -> [LaneResult] {
        var results = [LaneResult](repeating: LaneResult(), count: count)
        let abreast = fit.sharesLanes ? 0 : count / pool.size * pool.size
        results.withUnsafeMutableBufferPointer { results in
            pool.run(abreast) { index, thread in results[index] = body(index, thread, .alone) }
            for index in abreast..<count { results[index] = body(index, 0, Team(pool: pool)) }
        }
        if let bad = results.compactMap(\.badSample).min() {
            throw TrainingError(
                .badData,
                model.takesTokens
                    ? "sample \(bad) holds a token that is not in 0..<\(model.classCount)"
                    : "sample \(bad) has label \(samples.label(bad)), there are \(model.classCount) classes"
            )
        }
        return results
    }

    /// Reads samples into a workspace; returns the first one whose label is out of range.
    ///
    /// - Parameter training: the step and the first sample's place in its batch; nil reads them as they are.
    func load(
        _ indices: ArraySlice<Int>,
        into workspace: Workspace,
        training: (step: Int, position: Int)? = nil
    ) -> Int? {
        for (position, index) in indices.enumerated() {
            let label = samples.label(index)
            guard label >= 0, label < model.classCount else { return index }
            if let training {
                samples.read(
                    index,
                    step: training.step,
                    position: training.position + position,
                    into: workspace.raw
                )
            } else {
                samples.read(index, into: workspace.raw)
            }
            guard workspace.rawIsUsable else { return index }
            workspace.accept(
                position: position,
                count: indices.count,
                mean: signature.mean,
                deviation: signature.deviation
            )
            workspace.setTargets(position: position, label: label)
        }
        return nil
    }
}
