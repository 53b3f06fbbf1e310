internal import Basics

/// What one lane, or one block of an evaluation, gave.
struct LaneResult {
    var loss = 0.0
    var correct = 0.0
    var count = 0
    /// A sample whose label is out of range, or that holds what is no token of a language model.
    var badSample: Int?
    /// True when the lane was given up, as another member computes it.
    var isDropped = false
    /// What it took.
    var times = LaneTimes()

    mutating func add(_ other: LaneResult) {
        loss += other.loss
        correct += other.correct
        count += other.count
        times.add(other.times)
    }
}

/// Seconds that a lane's parts took, on its thread.
struct LaneTimes {
    var data = 0.0
    var forward = 0.0
    var backward = 0.0

    mutating func add(_ other: LaneTimes) {
        data += other.data
        forward += other.forward
        backward += other.backward
    }

    var all: Double { data + forward + backward }
}

/// Where the time of one operation went.
struct Spent {
    /// Over all lanes that were computed here, each on its thread.
    var lanes = LaneTimes()
    /// While they were computed, by the clock on the wall; unit: seconds.
    var wall = 0.0
    /// Adding lanes up here; unit: seconds.
    var adding = 0.0

    /// The wall's seconds, parted as the lanes' were.
    func times(exchange: Double, update: Double) -> StepTimes {
        let scale = lanes.all > 0 ? wall / lanes.all : 0
        return StepTimes(
            data: lanes.data * scale,
            forward: lanes.forward * scale,
            backward: lanes.backward * scale,
            exchange: exchange + adding,
            update: update
        )
    }
}
