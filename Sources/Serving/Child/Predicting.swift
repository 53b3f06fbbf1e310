internal import Basics

/// A loaded model.
protocol Predicting: Sendable {
    /// What it takes and gives.
    var signature: ModelSignature { get }
    /// Computes the outputs before softmax.
    ///
    /// - Parameters:
    ///   - inputs: `[count, signature.inputCount]`, raw; the model's mean and deviation are applied inside.
    ///   - count: rows.
    /// - Returns: `[count, K]`.
    func logits(_ inputs: [Float], count: Int) throws -> [Float]
}

extension Predicting {
    /// Logits and probabilities of some rows.
    ///
    /// - Throws: ``ServingError`` `.failed` when the model gives another number of values.
    func predict(_ inputs: [Float], count: Int) throws -> Prediction {
        let logits = try logits(inputs, count: count)
        guard logits.count == count * signature.classes.count else {
            throw ServingError(.failed, "the model gave \(logits.count) values for \(count) rows")
        }
        return Prediction(
            logits: logits,
            probabilities: Softmax.probabilities(logits, classes: signature.classes.count)
        )
    }
}
