internal import Tensors

/// One step's move of the weights, beside the sum of its gradients.
struct Update {
    var samples: Double
    var rate: Double
    /// From 1, of the whole run.
    var step: Int
}

/// What a member did not apply yet, as it still waits for the weights that it belongs to.
///
/// To take part in an operation without lanes nobody needs the weights: the sum comes from the others. So a member that
/// joins keeps the sums from where the run stood when its state was copied, and applies them once that has come.
struct Backlog {
    /// What may be kept; unit: bytes.
    let room: Int
    /// The operation before which the state was copied.
    let begins: UInt64
    private(set) var updates: [(update: Update, sum: FloatArena)] = []

    init(room: Int, begins: UInt64) { (self.room, self.begins) = (room, begins) }

    /// Keeps an update with a copy of its sum.
    ///
    /// - Returns: false when there is no room for another one.
    mutating func keep(_ update: Update, _ sum: FloatArena) -> Bool {
        let copy = FloatArena(count: sum.count)
        copy.pointer.update(from: sum.pointer, count: sum.count)
        updates.append((update, copy))
        return (updates.count + 1) * sum.count * 4 <= room
    }
}

// A member that joins a run: it takes part before it has the state.
extension TrainingLoop {
    /// Copies the state for those who join.
    ///
    /// - Cost: a copy of the weights and the optimizer state.
    func copyState() throws -> StateCopy {
        try StateCopy(
            state: standing,
            signature: signature,
            weights: model.tensors(served.pointer),
            optimizer: optimizerTensors()
        )
    }

    /// Takes the state that this member joined without, once it has come, and applies what was kept for it.
    ///
    /// - Parameter waits: nothing can be done without it.
    func catchUp(waits: Bool) throws {
        guard let backlog, let arrived = try exchange.takeState(waits: waits) else { return }
        guard arrived.state.operation == backlog.begins, arrived.state.configuration == state.configuration
        else {
            throw TrainingError(
                .badCheckpoint,
                "the state that came is that of operation \(arrived.state.operation), not \(backlog.begins)"
            )
        }
        try load(arrived)
        self.backlog = nil
        for (update, sum) in backlog.updates { apply(update, sum) }
        exchange.didCatchUp()
    }
}
