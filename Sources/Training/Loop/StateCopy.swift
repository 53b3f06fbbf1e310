internal import Basics
internal import Tensors

/// A run's state between two operations: copied, and written down later.
///
/// What a member that joins begins with: ``standing`` at once, and ``files()`` as soon as they have come.
public struct StateCopy: Sendable {
    /// Where the run stands and what its model takes, as ``Standing`` reads it.
    public let standing: String
    private let state: TrainingState
    private let signature: ModelSignature
    private let weights: [SafeTensors.Tensor]
    private let optimizer: [SafeTensors.Tensor]

    init(
        state: TrainingState,
        signature: ModelSignature,
        weights: [SafeTensors.Tensor],
        optimizer: [SafeTensors.Tensor]
    ) throws {
        let standing = Standing(state: state, signature: signature)
        self.standing = String(decoding: try CanonicalJSON.encode(standing), as: UTF8.self)
        (self.state, self.signature) = (state, signature)
        (self.weights, self.optimizer) = (weights, optimizer)
    }

    /// The files that ``CheckpointState/read(files:)`` reads.
    ///
    /// - Cost: a copy and a SHA-256 of the weights and the optimizer state.
    public func files() throws -> [(name: String, bytes: [UInt8])] {
        let model = SafeTensors.write(weights)
        let optimizer = SafeTensors.write(optimizer)
        var state = state
        state.weights = Digest(of: model)
        state.optimizer = Digest(of: optimizer)
        return [
            ("model.safetensors", model),
            ("optimizer.safetensors", optimizer),
            ("state.json", try CanonicalJSON.encode(state)),
            ("model.json", try CanonicalJSON.encode(signature)),
        ]
    }
}

/// Where a run stands: all of its state but the tensors.
public struct Standing: Codable, Sendable {
    var state: TrainingState
    var signature: ModelSignature

    /// Reads ``StateCopy/standing``.
    ///
    /// - Throws: ``TrainingError`` `.badCheckpoint`.
    public init(reading text: String) throws {
        do {
            self = try CanonicalJSON.decode(Standing.self, Array(text.utf8))
        } catch {
            throw TrainingError(.badCheckpoint, "where the run stands can't be read: \(error)")
        }
    }

    init(state: TrainingState, signature: ModelSignature) {
        (self.state, self.signature) = (state, signature)
    }

    /// The next operation of the exchange.
    public var nextOperation: UInt64 { state.operation }
}
