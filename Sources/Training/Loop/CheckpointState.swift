public import Basics
internal import Tensors

#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

/// JSON with one form for each value: sorted keys, shortest numbers.
enum CanonicalJSON {
    static func encode(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(value))
    }

    static func decode<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) throws -> Value {
        try JSONDecoder().decode(type, from: Data(bytes))
    }
}

/// The file `state.json`: where a run stands, all that resuming needs beside the tensors.
struct TrainingState: Codable, Equatable {
    struct Metrics: Codable, Equatable {
        var trainLoss: Double
        var trainAccuracy: Double
        var valLoss: Double?
        var valAccuracy: Double?
    }

    static let currentFormat = 1
    static let currentSoftware = "coord 0.1"

    var format = currentFormat
    var software = currentSoftware
    /// The next step: its epoch and its place in it.
    var epoch = 0
    var step = 0
    /// Steps done.
    var globalStep = 0
    /// The next operation of the exchange.
    var operation: UInt64 = 0
    /// Loss, right ones and samples of the epoch so far.
    var epochTotals: [Double] = [0, 0, 0]
    var seed: UInt64
    var lanes: Int
    /// SHA-256 of the run record's canonical JSON.
    var configuration: Digest
    /// SHA-256 of `model.safetensors` and `optimizer.safetensors`.
    var weights: Digest
    var optimizer: Digest
    /// Of the last finished epoch.
    var metrics: Metrics?
    /// What validation has said so far; nil when nothing listens.
    var progress: Progress?
    /// The lanes' values of a step of which the first of two operations is committed.
    var pendingValues: [Double]?
}

extension RunRecord {
    /// SHA-256 of the canonical JSON: two runs with the same one end with the same weights.
    public func configurationDigest() throws -> Digest { Digest(of: try CanonicalJSON.encode(self)) }
}

/// A checkpoint that was read and verified, ready to resume from.
public struct CheckpointState: Sendable {
    let state: TrainingState
    let weights: SafeTensors
    let optimizer: SafeTensors
    /// What the model takes and gives.
    public let signature: ModelSignature

    /// The next step's epoch, from 0.
    public var nextEpoch: Int { state.epoch }
    /// Steps done.
    public var globalStep: Int { state.globalStep }
    /// The next operation of the exchange.
    public var nextOperation: UInt64 { state.operation }
    /// SHA-256 of the run record that the checkpoint belongs to.
    public var configuration: Digest { state.configuration }
    /// SHA-256 of `model.safetensors`.
    public var weightsDigest: Digest { state.weights }

    /// Reads and verifies a checkpoint's files.
    ///
    /// - Parameter files: at least `model.safetensors`, `optimizer.safetensors`, `state.json` and `model.json`.
    /// - Throws: ``TrainingError`` `.badCheckpoint` naming the file that is missing or damaged.
    public static func read(files: [(name: String, bytes: [UInt8])]) throws -> CheckpointState {
        func bytes(_ name: String) throws -> [UInt8] {
            guard let file = files.first(where: { $0.name == name }) else {
                throw TrainingError(.badCheckpoint, "the checkpoint has no \(name)")
            }
            return file.bytes
        }
        func decode<Value: Decodable>(_ type: Value.Type, _ name: String) throws -> Value {
            let bytes = try bytes(name)
            do {
                return try CanonicalJSON.decode(type, bytes)
            } catch {
                throw TrainingError(.badCheckpoint, "the checkpoint's \(name) can't be read: \(error)")
            }
        }
        let state = try decode(TrainingState.self, "state.json")
        guard state.format == TrainingState.currentFormat else {
            throw TrainingError(
                .badCheckpoint,
                "the checkpoint has format \(state.format), this program reads \(TrainingState.currentFormat)",
                hint: "resume with the version of coord that wrote it"
            )
        }
        guard state.epoch >= 0, state.step >= 0, state.globalStep >= 0, state.epochTotals.count == 3 else {
            throw TrainingError(.badCheckpoint, "the checkpoint's state.json holds impossible numbers")
        }
        let weights = try bytes("model.safetensors")
        let optimizer = try bytes("optimizer.safetensors")
        for (name, file, digest) in [
            ("model.safetensors", weights, state.weights),
            ("optimizer.safetensors", optimizer, state.optimizer),
        ] where Digest(of: file) != digest {
            throw TrainingError(
                .badCheckpoint,
                "the checkpoint's \(name) is damaged: its SHA-256 is not \(digest.short)…",
                hint: "use another checkpoint"
            )
        }
        // Our own files of our own digest may be large: the limits are for strangers.
        var limits = SafeTensors.Limits()
        limits.headerBytes = 1 << 24
        return CheckpointState(
            state: state,
            weights: try SafeTensors(reading: weights, limits: limits),
            optimizer: try SafeTensors(reading: optimizer, limits: limits),
            signature: try decode(ModelSignature.self, "model.json")
        )
    }
}
