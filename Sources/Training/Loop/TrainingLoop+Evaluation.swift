internal import Basics
internal import Tensors

// What the model is worth on samples that it is not trained on.
extension TrainingLoop {
    /// The loss and accuracy on the validation split; nil without one.
    ///
    /// Block b of 256 samples belongs to lane b mod L; blocks are summed in order within a lane, lanes along the tree.
    func evaluate() throws -> (loss: Double, accuracy: Double)? {
        let indices = samples.validationIndices
        let laneCount = record.spec.lanes
        let blocks = (indices.count + Self.blockSize - 1) / Self.blockSize
        let (values, _, _) = try operate(
            sum: UnsafeMutableBufferPointer(start: nil, count: 0),
            contributions: {
                $0.subtrees(laneCount: laneCount).map {
                    Contribution(subtree: $0, values: UnsafeBufferPointer(start: nil, count: 0))
                }
            }
        ) { missing, _ in
            let own = missing.flatMap { Array(stride(from: $0, to: blocks, by: laneCount)) }
            let evaluators = evaluators
            let parts = try results(own.count) { index, thread, team in
                let first = own[index] * Self.blockSize
                let block = indices[first..<min(indices.count, first + Self.blockSize)]
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
                rows[block % laneCount, default: LaneResult()].add(part)
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
}
