internal import Basics
internal import Tensors
internal import Wire

/// A folder with `model.safetensors`, `model.json` and `golden.safetensors`.
struct ModelFolder: Sendable {
    /// Where it is.
    var path: String

    /// Reads the weights and what they are for.
    ///
    /// - Throws: ``ServingError`` `.badModel`, `FileError`.
    func load(kernels: KernelSet?) throws -> any Predicting {
        let signature: ModelSignature
        do {
            signature = try MessageCoding.decode(
                ModelSignature.self,
                from: try Files.read("\(path)/model.json", limit: 16 << 20)
            )
        } catch is DecodingError {
            throw ServingError(.badModel, "\(path)/model.json does not describe a model")
        }
        guard signature.classes.count >= 1, signature.inputCount >= 1,
            signature.inputShape.allSatisfy({ $0 >= 1 }), signature.inputCount <= 1 << 22
        else {
            throw ServingError(
                .badModel,
                "\(path)/model.json has input shape \(signature.inputShape) and \(signature.classes.count) classes"
            )
        }
        return try ModelLoading.load(
            try Files.read("\(path)/model.safetensors"),
            signature: signature,
            kernels: kernels,
            path: path
        )
    }

    /// Computes the golden examples.
    ///
    /// - Returns: the largest absolute difference between a recorded and a computed logit; NaN when one is NaN.
    /// - Throws: ``ServingError`` `.badModel` when the file does not fit the model, `TensorsError` when it is none.
    func goldenDifference(_ model: any Predicting) throws -> Double {
        let name = "\(path)/golden.safetensors"
        let file = try SafeTensors(reading: try Files.read(name, limit: 1 << 30))
        let inputs = try file.floats("inputs")
        let recorded = try file.floats("logits")
        let inputShape = file["inputs"]?.shape ?? []
        let logitShape = file["logits"]?.shape ?? []
        let rows = inputShape.first ?? 0
        let size = model.signature.inputCount
        guard rows >= 1, inputs.count == rows * size, logitShape == [rows, model.signature.classes.count]
        else {
            throw ServingError(
                .badModel,
                "\(name) holds inputs \(inputShape) and logits \(logitShape), the model takes [n, "
                    + "\(model.signature.inputShape)] and gives [n, \(model.signature.classes.count)]"
            )
        }
        var computed: [Float] = []
        for start in stride(from: 0, to: rows, by: 32) {
            let count = min(32, rows - start)
            computed += try model.logits(Array(inputs[start * size..<(start + count) * size]), count: count)
        }
        guard computed.count == recorded.count else {
            throw ServingError(
                .badModel,
                "the model gave \(computed.count) values for \(rows) golden examples"
            )
        }
        var largest = 0.0
        for (a, b) in zip(computed, recorded) {
            let difference = Double(a) - Double(b)
            if difference.isNaN { return .nan }
            largest = max(largest, difference.magnitude)
        }
        return largest
    }
}
