internal import Basics
internal import Training

/// The one place that knows how weights become a model.
enum ModelLoading {
    /// Builds the model of a signature from its weights.
    ///
    /// - Parameters:
    ///   - weights: the bytes of `model.safetensors`.
    ///   - kernels: nil on a CPU for which we have none.
    ///   - path: the folder, for messages.
    /// - Throws: ``ServingError`` `.badModel`.
    static func load(
        _ weights: [UInt8],
        signature: ModelSignature,
        kernels: KernelSet?,
        path: String
    ) throws -> any Predicting {
        guard let kernels else {
            throw ServingError(
                .badModel,
                "this CPU has none of our kernel sets",
                hint: "serve on another host"
            )
        }
        do {
            return TrainedModel(
                predictor: try Predictor(model: weights, signature: signature, kernels: kernels)
            )
        } catch {
            let explained = error as? any ExplainedError
            throw ServingError(
                .badModel,
                "\(path)/model.safetensors: \(explained?.message ?? "\(error)")",
                hint: explained?.hint
            )
        }
    }
}

/// A model of the native engine.
private struct TrainedModel: Predicting {
    let predictor: Predictor

    var signature: ModelSignature { predictor.signature }

    func logits(_ inputs: [Float], count: Int) throws -> [Float] { try predictor.logits(inputs) }
}
