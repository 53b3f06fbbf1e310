/// What one lane, or one block of an evaluation, gave.
struct LaneResult {
    var loss = 0.0
    var correct = 0.0
    var count = 0
    /// A sample whose label is out of range, or that holds what is no token of a language model.
    var badSample: Int?
    /// True when the lane was given up, as another member computes it.
    var isDropped = false

    mutating func add(_ other: LaneResult) {
        loss += other.loss
        correct += other.correct
        count += other.count
    }
}
