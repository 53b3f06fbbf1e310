#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// `p[i] = exp(z[i] − max z) / Σ exp(z[j] − max z)`, row by row.
enum Softmax {
    /// Turns logits into probabilities, in double so that each row sums to 1 within 1e-15·K.
    ///
    /// - Parameters:
    ///   - logits: `[n, K]`.
    ///   - classes: K.
    /// - Returns: `[n, K]`.
    static func probabilities(_ logits: [Float], classes: Int) -> [Double] {
        var out = logits.map { Double($0) }
        for start in stride(from: 0, to: out.count, by: classes) {
            let row = start..<(start + classes)
            let top = row.reduce(-Double.infinity) { max($0, out[$1]) }
            var sum = 0.0
            for index in row {
                out[index] = exp(out[index] - top)
                sum += out[index]
            }
            for index in row { out[index] /= sum }
        }
        return out
    }
}
