internal import CKernels

/// Functions that are applied to each number.
public enum ActivationKind: String, Sendable, CaseIterable {
    /// `x·Φ(x)`, exact: Hendrycks & Gimpel 2016.
    case gelu
    /// `x·σ(x)`.
    case silu
    /// Hyperbolic tangent.
    case tanh
    /// `1 / (1 + exp(-x))`.
    case sigmoid
    /// `min(max(x, 0), 6)`.
    case relu6

    fileprivate var code: Int32 {
        switch self {
        case .gelu: Int32(COORD_GELU)
        case .silu: Int32(COORD_SILU)
        case .tanh: Int32(COORD_TANH)
        case .sigmoid: Int32(COORD_SIGMOID)
        case .relu6: Int32(COORD_RELU6)
        }
    }
}

/// What a row of logits costs, given its label.
///
/// With class weights a row counts as many times as its class's weight; the mean is still over the samples.
public enum LossKind: Sendable, Hashable {
    /// `-Σ t·log softmax(x)`, with t = 1 - smoothing at the label and smoothing / K spread over all classes.
    case crossEntropy(smoothing: Float)
    /// `-(1 - p)^gamma · log p` of the label's probability p: Lin et al. 2017.
    case focal(gamma: Float)
    /// `Σ (x - onehot)² / K`.
    case meanSquares
    /// `Σ (softplus(x) - x·onehot) / K`: each class against the rest.
    case binary
}

/// Activations, norms, attention, pools and losses.
extension Kernels {
    /// `y = f(x)`, `[n]`; a NaN stays one.
    public func activate(
        _ y: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ kind: ActivationKind,
        _ n: Int
    ) {
        coord_activate(table, y, x, kind.code, n)
    }

    /// `dx = dy · f'(x)`, `[n]`.
    public func activateBackward(
        _ dx: UnsafeMutablePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ kind: ActivationKind,
        _ n: Int
    ) {
        coord_activate_backward(table, dx, dy, x, kind.code, n)
    }

    /// `y = x · a + b`, `[n]`.
    public func scaleAndShift(
        _ y: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        by a: Float,
        plus b: Float,
        _ n: Int
    ) {
        coord_scale_shift(table, y, x, a, b, n)
    }

    /// `y = max(x · a + b, 0)`, `[n]`; a NaN stays one.
    public func scaleShiftAndRelu(
        _ y: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        by a: Float,
        plus b: Float,
        _ n: Int
    ) {
        coord_scale_shift_relu(table, y, x, a, b, n)
    }

    /// `y = a + b`, `[n]`, and no less than 0 when it `rectifies`.
    public func sum(
        _ y: UnsafeMutablePointer<Float>,
        _ a: UnsafePointer<Float>,
        _ b: UnsafePointer<Float>,
        rectifies: Bool,
        _ n: Int
    ) {
        coord_sum(table, y, a, b, rectifies ? 1 : 0, n)
    }

    /// ``reluBackward(_:_:_:)``, with the result also in `copy`.
    public func reluBackward(
        _ d: UnsafeMutablePointer<Float>,
        copy: UnsafeMutablePointer<Float>,
        _ y: UnsafePointer<Float>,
        _ n: Int
    ) {
        coord_relu_backward_twice(table, d, copy, y, n)
    }

    /// ``pairSums(_:_:_:)`` of `y > 0 ? d : 0`.
    public func pairSums(
        _ d: UnsafePointer<Float>,
        _ x: UnsafePointer<Float>,
        rectified y: UnsafePointer<Float>,
        _ n: Int
    ) -> (sum: Double, product: Double) {
        var sum = 0.0
        var product = 0.0
        coord_relu_pair_sums(table, d, x, y, n, &sum, &product)
        return (sum, product)
    }

    /// ``combine(_:_:_:_:_:_:_:)`` of `y > 0 ? dy : 0`.
    public func combine(
        _ dx: UnsafeMutablePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ x: UnsafePointer<Float>,
        rectified y: UnsafePointer<Float>,
        _ a: Float,
        _ b: Float,
        _ c: Float,
        _ n: Int
    ) {
        coord_relu_combine(table, dx, dy, x, y, a, b, c, n)
    }

    /// The sums of `d` and of `d · x` in double, `[n]`.
    public func pairSums(
        _ d: UnsafePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ n: Int
    ) -> (sum: Double, product: Double) {
        var sum = 0.0
        var product = 0.0
        coord_pair_sums(table, d, x, n, &sum, &product)
        return (sum, product)
    }

    /// `dx = a·dy + b·x + c`, `[n]`.
    public func combine(
        _ dx: UnsafeMutablePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ a: Float,
        _ b: Float,
        _ c: Float,
        _ n: Int
    ) {
        coord_combine(table, dx, dy, x, a, b, c, n)
    }

    /// Layer-norm of each row, `[R, C]`; RMS-norm when there is no bias.
    ///
    /// - Parameter saved: `[R, 2]`: mean and 1 / deviation, for backward.
    public func normalizeRows(
        _ y: UnsafeMutablePointer<Float>,
        saved: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        weight: UnsafePointer<Float>,
        bias: UnsafePointer<Float>?,
        rows: Int,
        columns: Int,
        epsilon: Double
    ) {
        coord_norm_rows(table, y, saved, x, weight, bias, rows, columns, epsilon)
    }

    /// The gradients of ``normalizeRows(_:saved:_:weight:bias:rows:columns:epsilon:)``; overwrites all three.
    public func normalizeRowsBackward(
        _ dx: UnsafeMutablePointer<Float>,
        weight dWeight: UnsafeMutablePointer<Float>,
        bias dBias: UnsafeMutablePointer<Float>?,
        _ dy: UnsafePointer<Float>,
        _ x: UnsafePointer<Float>,
        saved: UnsafePointer<Float>,
        weight: UnsafePointer<Float>,
        rows: Int,
        columns: Int
    ) {
        coord_norm_rows_backward(table, dx, dWeight, dBias, dy, x, saved, weight, rows, columns)
    }

    /// Softmax of the scaled rows of squares `[T, T]`, in place; a causal row looks at itself and what stands before it.
    public func attend(
        _ x: UnsafeMutablePointer<Float>,
        rows: Int,
        columns: Int,
        scale: Float,
        isCausal: Bool
    ) {
        coord_attend(table, x, rows, columns, scale, isCausal ? 1 : 0)
    }

    /// `d = scale · p · (d - Σ d·p)` for each row, in place.
    public func attendBackward(
        _ d: UnsafeMutablePointer<Float>,
        _ p: UnsafePointer<Float>,
        rows: Int,
        columns: Int,
        scale: Float
    ) {
        coord_attend_backward(table, d, p, rows, columns, scale)
    }

    /// The mean of each window; windows lie inside the image.
    public func averagePool(
        _ y: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ window: Window
    ) {
        var w = window.inC
        coord_average_pool(table, y, x, &w)
    }

    /// Spreads each gradient over its window; clears `dx` first.
    public func averagePoolBackward(
        _ dx: UnsafeMutablePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ window: Window
    ) {
        var w = window.inC
        coord_average_pool_backward(table, dx, dy, &w)
    }

    /// A loss, summed over the rows in double, and its gradient.
    ///
    /// - Parameters:
    ///   - d: `[B, K]`, set to the gradient, not divided by B; not the memory of the logits.
    ///   - classWeights: `[K]`, or nil for ones.
    /// - Returns: the sum of the losses, and how many rows have their largest logit (the first of equals) at the label.
    public func loss(
        _ kind: LossKind,
        _ d: UnsafeMutablePointer<Float>,
        _ logits: UnsafePointer<Float>,
        _ labels: UnsafePointer<Int32>,
        classWeights: UnsafePointer<Float>?,
        rows: Int,
        classes: Int
    ) -> (loss: Double, correct: Int) {
        var scalars = coord_loss(kind: 0, smoothing: 0, gamma: 0, weights: classWeights)
        switch kind {
        case .crossEntropy(let smoothing):
            scalars.kind = Int32(COORD_CROSS_ENTROPY)
            scalars.smoothing = smoothing
        case .focal(let gamma):
            scalars.kind = Int32(COORD_FOCAL)
            scalars.gamma = gamma
        case .meanSquares: scalars.kind = Int32(COORD_MSE)
        case .binary: scalars.kind = Int32(COORD_BCE)
        }
        var loss = 0.0
        var correct: Int64 = 0
        coord_loss_rows(table, d, logits, labels, rows, classes, &scalars, &loss, &correct)
        return (loss, Int(correct))
    }
}
