internal import Tensors

/// Rows of a table: token numbers `[B, T] → [B, T, C]`, weight `[V, C]`.
///
/// Saved for backward: `x`. Gradients add up in the order of the tokens.
struct Embedding: Layer {
    let length: Int
    let features: Int
    let vocabulary: Int
    let weight: ParameterSlice
    /// True when the last layer shares the weight: its gradient is there already, and this one adds to it.
    var isTied = false

    var output: SampleShape { .tokens(length: length, features: features) }
    var parameters: [ParameterSlice] { [weight] }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        for i in 0..<(pass.count * length) {
            let row = pass.weights + weight.offset + Int(x[i]) * features
            (y + i * features).update(from: row, count: features)
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        let table = way.gradients + weight.offset
        if !isTied { table.update(repeating: 0, count: weight.count) }
        for i in 0..<(pass.count * length) {
            pass.kernels.add(table + Int(way.x[i]) * features, way.dy + i * features, features)
        }
    }
}

/// Learned positions: `y = x + weight`, weight `[T, C]`, for each sample of `[B, T, C]`; in place.
struct Positions: Layer {
    let length: Int
    let features: Int
    let weight: ParameterSlice

    var output: SampleShape { .tokens(length: length, features: features) }
    var isInPlace: Bool { true }
    var parameters: [ParameterSlice] { [weight] }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        for b in 0..<pass.count {
            pass.kernels.add(y + b * output.count, pass.weights + weight.offset, output.count)
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        pass.kernels.columnSums(
            way.gradients + weight.offset,
            way.dy,
            rows: pass.count,
            columns: output.count
        )
    }
}

/// Images as tokens: `[C, B, H, W] → [B, H·W, C]`.
struct PlanesToTokens: Layer {
    let channels: Int
    let pixels: Int

    var output: SampleShape { .tokens(length: pixels, features: channels) }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        for c in 0..<channels {
            for i in 0..<(pass.count * pixels) { y[i * channels + c] = x[c * pass.count * pixels + i] }
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard let dx = way.dx else { return }
        for c in 0..<channels {
            for i in 0..<(pass.count * pixels) { dx[c * pass.count * pixels + i] = way.dy[i * channels + c] }
        }
    }
}

/// Rotary positions: pairs (i, i + D/2) of each head of queries and keys turn by `t / 10000^(2i/D)` at place t.
///
/// Source: Su et al. 2021, in the halves' form of GPT-NeoX. Angles come from own series: they reach weights.
struct Rotary: Sendable {
    /// `[T, D/2]`.
    private let cosines: [Float]
    private let sines: [Float]
    private let half: Int

    /// - Parameter size: numbers of a head, D, even.
    init(length: Int, size: Int) {
        half = size / 2
        // 10000^(-2/D), as the D/2-th root of 1/10000 by bisection: + - × ÷ only.
        var (low, high) = (0.0, 1.0)
        for _ in 0..<200 {
            let middle = (low + high) / 2
            if Scalars.power(middle, size / 2) < 1e-4 { low = middle } else { high = middle }
        }
        var (cosines, sines) = ([Float](), [Float]())
        for t in 0..<length {
            for i in 0..<(size / 2) {
                let turn = Scalars.turn(Double(t) * Scalars.power(high, i))
                cosines.append(Float(turn.cosine))
                sines.append(Float(turn.sine))
            }
        }
        (self.cosines, self.sines) = (cosines, sines)
    }

    /// Turns one head's row at place `t` in place, backwards for gradients.
    func turn(_ x: UnsafeMutablePointer<Float>, at t: Int, isBackward: Bool) {
        for i in 0..<half {
            let c = cosines[t * half + i]
            let s = isBackward ? -sines[t * half + i] : sines[t * half + i]
            let (a, b) = (x[i], x[i + half])
            x[i] = a * c - b * s
            x[i + half] = b * c + a * s
        }
    }
}

/// Multi-head attention without its two dense layers: `[B, T, 3C] → [B, T, C]`, queries, keys and values side by side.
///
/// `softmax(Q·Kᵀ / √D)·V` for each of `heads` heads of D = C / heads numbers; causal: a token sees itself and what
/// stands before it. Saved for backward: `x`, the softmax `[B, heads, T, T]`, and the turned queries and keys when there
/// are rotary positions. Source: Vaswani et al. 2017.
struct Attention: Layer {
    let length: Int
    let features: Int
    let heads: Int
    let isCausal: Bool
    let rotary: Rotary?

    var output: SampleShape { .tokens(length: length, features: features) }
    private var size: Int { features / heads }
    private var square: Int { length * length }
    private var scale: Float { Float(1 / Double(size).squareRoot()) }
    func savedCount(samples: Int) -> Int {
        samples * (heads * square + (rotary == nil ? 0 : 2 * length * features))
    }
    /// The gradient of one square of the softmax, for each thread.
    func scratchCount(samples: Int, threads: Int) -> Int { square * threads }

    /// Queries and keys of a sample, turned; what `x` holds without rotary positions.
    private func turned(_ b: Int, _ pass: LayerPass) -> UnsafeMutablePointer<Float> {
        pass.saved + pass.count * heads * square + b * 2 * length * features
    }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        pass.team.divide(pass.count, work: output.count) { range, _ in forward(x, y, pass, range) }
    }

    private func forward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafeMutablePointer<Float>,
        _ pass: LayerPass,
        _ range: Range<Int>
    ) {
        for b in range {
            let row = 3 * features
            let own = x + b * length * row
            let values = own + 2 * features
            var (queries, keys, wide) = (own, own + features, row)
            if let rotary {
                let target = turned(b, pass)
                wide = 2 * features
                for t in 0..<length {
                    (target + t * wide).update(from: own + t * row, count: wide)
                    for part in 0..<(2 * heads) {
                        rotary.turn(target + t * wide + part * size, at: t, isBackward: false)
                    }
                }
                (queries, keys) = (UnsafePointer(target), UnsafePointer(target + features))
            }
            for h in 0..<heads {
                let p = pass.saved + (b * heads + h) * square
                let at = h * size
                BLAS.multiply(
                    length,
                    length,
                    size,
                    queries + at,
                    .plain,
                    lda: wide,
                    keys + at,
                    .transposed,
                    ldb: wide,
                    p,
                    ldc: length
                )
                pass.kernels.attend(p, rows: length, columns: length, scale: scale, isCausal: isCausal)
                BLAS.multiply(
                    length,
                    size,
                    length,
                    p,
                    .plain,
                    lda: length,
                    values + at,
                    .plain,
                    ldb: row,
                    y + b * length * features + at,
                    ldc: features
                )
            }
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        guard let dx = way.dx else { return }
        pass.team.divide(pass.count, work: output.count) { range, thread in
            backward(way.x, way.dy, dx, pass, range, scratch: pass.scratch + thread * square)
        }
    }

    private func backward(
        _ x: UnsafePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ dx: UnsafeMutablePointer<Float>,
        _ pass: LayerPass,
        _ range: Range<Int>,
        scratch: UnsafeMutablePointer<Float>
    ) {
        let row = 3 * features
        for b in range {
            let own = x + b * length * row
            let target = dx + b * length * row
            var (queries, keys, wide) = (own, own + features, row)
            if rotary != nil {
                let saved = turned(b, pass)
                (queries, keys, wide) = (UnsafePointer(saved), UnsafePointer(saved + features), 2 * features)
            }
            for h in 0..<heads {
                let p = pass.saved + (b * heads + h) * square
                let d = dy + b * length * features + h * size
                let at = h * size
                // dV = Pᵀ·dO;  dP = dO·Vᵀ;  dS = softmax's;  dQ = dS·K;  dK = dSᵀ·Q
                BLAS.multiply(
                    length,
                    size,
                    length,
                    p,
                    .transposed,
                    lda: length,
                    d,
                    .plain,
                    ldb: features,
                    target + 2 * features + at,
                    ldc: row
                )
                BLAS.multiply(
                    length,
                    length,
                    size,
                    d,
                    .plain,
                    lda: features,
                    own + 2 * features + at,
                    .transposed,
                    ldb: row,
                    scratch,
                    ldc: length
                )
                pass.kernels.attendBackward(scratch, p, rows: length, columns: length, scale: scale)
                BLAS.multiply(
                    length,
                    size,
                    length,
                    scratch,
                    .plain,
                    lda: length,
                    keys + at,
                    .plain,
                    ldb: wide,
                    target + at,
                    ldc: row
                )
                BLAS.multiply(
                    length,
                    size,
                    length,
                    scratch,
                    .transposed,
                    lda: length,
                    queries + at,
                    .plain,
                    ldb: wide,
                    target + features + at,
                    ldc: row
                )
            }
            guard let rotary else { continue }
            for t in 0..<length {
                for part in 0..<(2 * heads) {
                    rotary.turn(target + t * row + part * size, at: t, isBackward: true)
                }
            }
        }
    }
}
