public import Basics
internal import Synchronization
internal import Tensors

/// A trained model that answers: raw inputs in, logits or probabilities out.
///
/// Safe to share: calls take turns. Each runs on its caller's thread.
public final class Predictor: @unchecked Sendable {
    // Safety: `weights` is not written after init, `workspace` only used with `lock` held.
    private let lock = Mutex(())
    private let weights: FloatArena
    private let workspace: Workspace
    private let model: Model
    private let kernels: Kernels
    /// What the model takes and gives.
    public let signature: ModelSignature

    /// The most samples of one pass; larger requests run in several.
    private static let capacity = 64

    /// Loads a model.
    ///
    /// - Parameters:
    ///   - model: the bytes of `model.safetensors`.
    ///   - signature: its `model.json`.
    ///   - kernels: a set that this CPU has; OpenBLAS may run any kernels, the outputs then differ in their last digits.
    /// - Throws: ``TrainingError`` for a signature that makes no sense, `TensorsError` for weights that don't fit it.
    public init(model: [UInt8], signature: ModelSignature, kernels: KernelSet) throws {
        try BLAS.pinToOneThread()
        let network = try Model(
            signature.model,
            inputShape: signature.inputShape,
            classCount: signature.classes.count
        )
        let channels = signature.inputShape.count == 3 ? signature.inputShape[0] : 1
        guard signature.mean.count == channels, signature.deviation.count == channels,
            signature.mean.allSatisfy(\.isFinite), signature.deviation.allSatisfy({ $0.isFinite && $0 != 0 })
        else {
            throw TrainingError(
                .badCheckpoint,
                "model.json needs a mean and a deviation for each of \(channels) channels"
            )
        }
        self.kernels = try Kernels(kernels)
        self.model = network
        self.signature = signature
        weights = FloatArena(count: network.parameterCount)
        try network.load(weights.pointer, from: try SafeTensors(reading: model))
        workspace = Workspace(model: network, kernels: self.kernels, capacity: Self.capacity, trains: false)
    }

    /// The kernel set and signature read from a checkpoint's own files.
    ///
    /// - Parameters:
    ///   - model: the bytes of `model.safetensors`.
    ///   - signatureJSON: the bytes of `model.json`.
    ///   - kernels: a set that this CPU has.
    public convenience init(model: [UInt8], signatureJSON: [UInt8], kernels: KernelSet) throws {
        let signature: ModelSignature
        do {
            signature = try CanonicalJSON.decode(ModelSignature.self, signatureJSON)
        } catch {
            throw TrainingError(.badCheckpoint, "model.json can't be read: \(error)")
        }
        try self.init(model: model, signature: signature, kernels: kernels)
    }

    /// The logits of raw inputs.
    ///
    /// - Parameter inputs: `[n, shape]`, row-major, not normalised.
    /// - Returns: `[n, K]`.
    /// - Throws: ``TrainingError`` `.badData` when the count is no multiple of a sample's.
    public func logits(_ inputs: [Float]) throws -> [Float] { try predict(inputs, softmax: false) }

    /// The probabilities of the classes for raw inputs, `[n, shape]` → `[n, K]`.
    ///
    /// - Throws: ``TrainingError`` `.badData` when the count is no multiple of a sample's.
    public func probabilities(_ inputs: [Float]) throws -> [Float] { try predict(inputs, softmax: true) }

    private func predict(_ inputs: [Float], softmax: Bool) throws -> [Float] {
        let size = signature.inputCount
        guard inputs.count % size == 0 else {
            throw TrainingError(
                .badData,
                "\(inputs.count) values are no whole number of samples \(signature.inputShape)"
            )
        }
        guard inputs.allSatisfy(model.accepts) else {
            throw TrainingError(.badData, "an input is no token in 0..<\(model.classCount)")
        }
        var results: [Float] = []
        results.reserveCapacity(inputs.count / size * model.classCount)
        for first in stride(from: 0, to: inputs.count / size, by: Self.capacity) {
            let count = min(Self.capacity, inputs.count / size - first)
            lock.withLock { _ in
                FloatMode.withDeterministicMode {
                    for position in 0..<count {
                        let start = (first + position) * size
                        _ = workspace.raw.update(fromContentsOf: inputs[start..<(start + size)])
                        workspace.accept(
                            position: position,
                            count: count,
                            mean: signature.mean,
                            deviation: signature.deviation
                        )
                    }
                    var logits = workspace.predict(count: count, weights: weights.pointer)
                    if softmax { kernels.softmax(&logits, rows: count, classes: model.classCount) }
                    results += logits
                }
            }
        }
        return results
    }

    /// Proves that the model gives here what it gave where it was trained.
    ///
    /// - Parameters:
    ///   - golden: the bytes of `golden.safetensors`.
    ///   - tolerance: the largest difference of a logit that passes.
    /// - Returns: the largest difference.
    /// - Throws: ``TrainingError`` `.goldenMismatch` above the tolerance; `TensorsError` for a file that does not fit.
    public func goldenCheck(_ golden: [UInt8], tolerance: Float) throws -> Float {
        let file = try SafeTensors(reading: golden)
        let inputs = try file.floats("inputs")
        let expected = try file.floats("logits")
        let found = try logits(inputs)
        guard found.count == expected.count, !found.isEmpty else {
            throw TrainingError(
                .goldenMismatch,
                "the examples have \(expected.count) logits, the model gives \(found.count)"
            )
        }
        // A NaN on either side must not pass, and max() would drop it.
        var largest: Float = 0
        for (a, b) in zip(found, expected) {
            let difference = abs(a - b)
            largest = max(largest, difference.isFinite ? difference : .infinity)
        }
        guard largest <= tolerance else {
            throw TrainingError(
                .goldenMismatch,
                "the model's outputs differ from the trainer's by \(largest), allowed is \(tolerance)",
                hint: "look for a damaged file or another kernel set"
            )
        }
        return largest
    }
}
