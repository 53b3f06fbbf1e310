internal import CKernels

/// Dense layers for a few rows: each weight is read once, without being packed first.
///
/// A number's bits depend on its row and column alone, not on the rows and columns beside it.
extension Kernels {
    /// `y = x · wᵀ`: `[R, in]`, `[out, in]` → `[R, out]`.
    ///
    /// - Parameter ldy: numbers from one row of `y` to the next.
    public func fewRowsForward(
        _ y: UnsafeMutablePointer<Float>,
        ldy: Int,
        _ x: UnsafePointer<Float>,
        _ w: UnsafePointer<Float>,
        rows: Int,
        inputs: Int,
        outputs: Int
    ) {
        coord_few_forward(table, y, ldy, x, w, rows, inputs, outputs)
    }

    /// `dw = dyᵀ · x`: `[R, out]`, `[R, in]` → `[out, in]`.
    ///
    /// - Parameter lddy: numbers from one row of `dy` to the next.
    public func fewRowsWeights(
        _ dw: UnsafeMutablePointer<Float>,
        _ dy: UnsafePointer<Float>,
        lddy: Int,
        _ x: UnsafePointer<Float>,
        rows: Int,
        inputs: Int,
        outputs: Int
    ) {
        coord_few_weights(table, dw, dy, lddy, x, rows, inputs, outputs)
    }

    /// `dx = dy · w` for some columns: `[R, out]`, `[out, columns]` → `[R, columns]`.
    ///
    /// - Parameters:
    ///   - lddx: numbers from one row of `dx` to the next.
    ///   - ldw: numbers from one row of `w` to the next.
    public func fewRowsInputs(
        _ dx: UnsafeMutablePointer<Float>,
        lddx: Int,
        _ dy: UnsafePointer<Float>,
        _ w: UnsafePointer<Float>,
        ldw: Int,
        rows: Int,
        columns: Int,
        outputs: Int
    ) {
        coord_few_inputs(table, dx, lddx, dy, w, ldw, rows, columns, outputs)
    }
}
