internal import CKernels

/// The optimizers beside SGD and AdamW, element by element.
extension Kernels {
    /// `y += a · x`, `[n]`.
    public func add(_ y: UnsafeMutablePointer<Float>, _ x: UnsafePointer<Float>, times a: Float, _ n: Int) {
        coord_axpy(table, y, x, a, n)
    }

    /// `y += t · (x - y)`, `[n]`.
    public func move(_ y: UnsafeMutablePointer<Float>, towards x: UnsafePointer<Float>, by t: Float, _ n: Int)
    {
        coord_lerp(table, y, x, t, n)
    }

    /// One RMSprop step, as `torch.optim.RMSprop` without centring:
    /// `v = alpha·v + (1 - alpha)·g²; d = g / (√v + epsilon); b = momentum·b + d; p -= rate·b`.
    ///
    /// - Parameter b: `[n]`; nil without momentum, where `d` takes its place.
    /// - Source: Tieleman & Hinton 2012, lecture 6.5.
    public func rmsProp(
        _ p: UnsafeMutablePointer<Float>,
        _ g: UnsafePointer<Float>,
        _ v: UnsafeMutablePointer<Float>,
        _ b: UnsafeMutablePointer<Float>?,
        rate: Double,
        alpha: Double,
        epsilon: Double,
        momentum: Double,
        _ n: Int
    ) {
        var scalars = coord_rmsprop_scalars(
            rate: Float(rate),
            alpha: Float(alpha),
            take: Float(1 - alpha),
            epsilon: Float(epsilon),
            momentum: Float(momentum)
        )
        coord_rmsprop(table, p, g, v, b, &scalars, n)
    }

    /// One Lion step: `p = p·(1 - rate·decay) - rate·sign(beta1·m + (1 - beta1)·g); m = beta2·m + (1 - beta2)·g`.
    ///
    /// - Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms".
    public func lion(
        _ p: UnsafeMutablePointer<Float>,
        _ g: UnsafePointer<Float>,
        _ m: UnsafeMutablePointer<Float>,
        rate: Double,
        beta1: Double,
        beta2: Double,
        decay: Double,
        _ n: Int
    ) {
        var scalars = coord_lion_scalars(
            rate: Float(rate),
            keep: Float(1 - rate * decay),
            beta1: Float(beta1),
            take1: Float(1 - beta1),
            beta2: Float(beta2),
            take2: Float(1 - beta2)
        )
        coord_lion(table, p, g, m, &scalars, n)
    }

    /// The direction of a LAMB step, before it is scaled by the ratio of norms.
    ///
    /// - Parameters:
    ///   - g: `[n]`, the gradient; on return `m̂ / (√v̂ + epsilon) + decay·p`.
    ///   - correction1: `1 - beta1^t`.
    ///   - correction2: `1 - beta2^t`.
    /// - Source: You et al. 2020, "Large batch optimization for deep learning".
    public func lambDirection(
        _ p: UnsafePointer<Float>,
        _ g: UnsafeMutablePointer<Float>,
        _ m: UnsafeMutablePointer<Float>,
        _ v: UnsafeMutablePointer<Float>,
        beta1: Double,
        beta2: Double,
        epsilon: Double,
        decay: Double,
        correction1: Double,
        correction2: Double,
        _ n: Int
    ) {
        var scalars = coord_lamb_scalars(
            take1: Float(1 - beta1),
            beta2: Float(beta2),
            take2: Float(1 - beta2),
            correction1: Float(correction1),
            root2: Float(correction2.squareRoot()),
            epsilon: Float(epsilon),
            decay: Float(decay)
        )
        coord_lamb(table, p, g, m, v, &scalars, n)
    }
}
