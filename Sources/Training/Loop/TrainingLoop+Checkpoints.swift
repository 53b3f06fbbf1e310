public import Basics
internal import Tensors

// What a run leaves behind, and what tells replicas that have drifted.
extension TrainingLoop {
    /// SHA-256 of the trained weights as they stand: equal on all members after each step, or a replica has drifted.
    public func weightsDigest() -> Digest { Digest(of: UnsafeRawBufferPointer(weights.buffer)) }

    /// Copies the state as it stands between two steps.
    ///
    /// - Throws: ``TrainingError`` `.diverged` when the model gives outputs that are not finite.
    /// - Cost: a copy and a SHA-256 of the weights and the optimizer state, and one forward pass of 16 samples.
    public func makeCheckpoint(report: EpochReport? = nil) throws -> Checkpoint {
        try catchUp(waits: true)
        let model = SafeTensors.write(model.tensors(served.pointer))
        let optimizer = SafeTensors.write(optimizerTensors())
        var state = standing
        state.weights = Digest(of: model)
        state.optimizer = Digest(of: optimizer)
        return Checkpoint(
            files: [
                ("model.safetensors", model),
                ("optimizer.safetensors", optimizer),
                ("state.json", try CanonicalJSON.encode(state)),
                ("model.json", try CanonicalJSON.encode(signature)),
                ("golden.safetensors", try makeGolden()),
            ],
            weightsDigest: state.weights,
            epoch: state.epoch - 1,
            globalStep: state.globalStep,
            report: report
        )
    }

    /// The state without digests of what it belongs to.
    var standing: TrainingState {
        var state = state
        if let pending = lowRank?.pendingValues {
            // Half of a step is committed: who joins goes on from there.
            state.pendingValues = pending
            state.operation += 1
        }
        return state
    }

    /// What training needs beside the weights that are served.
    func optimizerTensors() -> [SafeTensors.Tensor] {
        islands?.lend(to: optimizer)
        let trained = average == nil ? [] : model.tensors(weights.pointer, prefix: "weights.")
        let rules = (optimizer.state + (islands?.outerState ?? [])).flatMap {
            model.tensors($0.arena.pointer, prefix: $0.name + ".", statistics: false)
        }
        return trained + rules + (lowRank?.tensors ?? [])
    }

    /// Takes over the tensors of a checkpoint.
    func load(_ checkpoint: CheckpointState) throws {
        try model.load((average?.arena ?? weights).pointer, from: checkpoint.weights)
        if average != nil { try model.load(weights.pointer, from: checkpoint.optimizer, prefix: "weights.") }
        for (name, arena) in optimizer.state + (islands?.outerState ?? []) {
            try model.load(
                arena.pointer,
                from: checkpoint.optimizer,
                prefix: name + ".",
                statistics: false
            )
        }
        try lowRank?.restore(
            from: checkpoint.optimizer,
            values: checkpoint.state.pendingValues,
            operation: checkpoint.state.operation
        )
    }

    /// The model's fixed examples: the first 16 of the validation split, or of the training split without one.
    private func makeGolden() throws -> [UInt8] {
        let split = samples.validationIndices.isEmpty ? samples.trainingIndices : samples.validationIndices
        let indices = Array(split.prefix(16))
        let size = signature.inputCount
        let raw = FloatArena(count: indices.count * size)
        for (position, index) in indices.enumerated() {
            samples.read(
                index,
                into: UnsafeMutableBufferPointer(start: raw.pointer + position * size, count: size)
            )
        }
        let workspace = Workspace(model: model, kernels: kernels, capacity: 16, trains: false)
        _ = load(indices[...], into: workspace)
        let logits = FloatMode.withDeterministicMode {
            workspace.predict(count: indices.count, weights: served.pointer)
        }
        // The last update of a run has no later loss that would show it.
        guard logits.allSatisfy(\.isFinite) else {
            throw TrainingError(
                .diverged,
                "the model's outputs are not finite numbers after \(state.globalStep) steps",
                hint: "lower the learning rate, warm up longer or clip with clip_norm"
            )
        }
        let tensor = logits.withUnsafeBufferPointer {
            SafeTensors.Tensor(name: "logits", shape: [indices.count, model.classCount], floats: $0)
        }
        return SafeTensors.write([
            SafeTensors.Tensor(
                name: "inputs",
                shape: [indices.count] + signature.inputShape,
                floats: raw.buffer
            ),
            tensor,
            SafeTensors.Tensor(
                name: "labels",
                shape: [indices.count],
                integers: indices.map { Int64(samples.label($0)) }
            ),
        ])
    }
}
