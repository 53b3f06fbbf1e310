internal import Basics
internal import Tensors

// What the model is worth on samples that it is not trained on.
extension TrainingLoop {
    /// The loss and accuracy on the validation split; nil without one.
    ///
    /// Block b of 256 samples belongs to lane b mod L; blocks are summed in order within a lane, lanes along the tree.
    func evaluate() throws -> (loss: Double, accuracy: Double)? {
        let laneCount = record.spec.lanes
        let (values, _, _) = try operate(
            sum: UnsafeMutableBufferPointer(start: nil, count: 0),
            contributions: {
                $0.subtrees(laneCount: laneCount).map {
                    Contribution(subtree: $0, values: UnsafeBufferPointer(start: nil, count: 0))
                }
            }
        ) { missing, _ in
            let own = validationBlocks(of: missing)
            let evaluators = evaluators
            let parts = try results(own.count) { index, thread, team in
                if index + pool.size < own.count {
                    samples.expect(own[index + pool.size])
                } else if index + 1 == own.count {
                    expectNextEpoch(lanes: missing, globalStep: state.globalStep)
                }
                let block = own[index]
                if let bad = load(block, into: evaluators[thread]) { return LaneResult(badSample: bad) }
                let (loss, correct) = evaluators[thread].evaluate(
                    count: block.count,
                    weights: served.pointer,
                    team: team
                )
                return LaneResult(loss: loss, correct: correct, count: block.count)
            }
            var rows = [Int: LaneResult]()
            for (block, part) in zip(own, parts) {
                rows[block.startIndex / Self.blockSize % laneCount, default: LaneResult()].add(part)
            }
            return missing.map { rows[$0] ?? LaneResult() }
        }
        let count = LaneTree.sum(values, width: Self.valueCount, column: 2)
        guard count > 0 else { return nil }
        return (
            LaneTree.sum(values, width: Self.valueCount, column: 0) / count,
            LaneTree.sum(values, width: Self.valueCount, column: 1) / count
        )
    }

    /// The blocks of the validation split that belong to some lanes, a lane after the other.
    func validationBlocks(of lanes: [Int]) -> [ArraySlice<Int>] {
        let indices = samples.validationIndices
        let stride = record.spec.lanes * Self.blockSize
        return lanes.flatMap { lane in
            Swift.stride(from: lane * Self.blockSize, to: indices.count, by: stride).map { first in
                indices[first..<min(indices.count, first + Self.blockSize)]
            }
        }
    }
}
