internal import Basics
internal import CKernels

/// Products of matrices, exact or of operands rounded to bfloat16.
extension Kernels {
    /// `c = a · b + beta · c`, summed in single precision in the order of the common dimension; the parameters are those of
    /// ``BLAS/multiply(_:_:_:_:_:lda:_:_:ldb:beta:_:ldc:)``.
    ///
    /// The bits of a number depend on its row and column alone, not on the size of the call. Rounded they are the same in
    /// all sets, exact in those with fused multiply-add.
    ///
    /// - Parameters:
    ///   - beta: 0 or 1.
    ///   - rounds: whether both operands are rounded to the nearest bfloat16.
    public func multiply(
        _ m: Int,
        _ n: Int,
        _ k: Int,
        _ a: UnsafePointer<Float>,
        _ transposeA: BLAS.Transposition,
        lda: Int,
        _ b: UnsafePointer<Float>,
        _ transposeB: BLAS.Transposition,
        ldb: Int,
        beta: Float = 0,
        _ c: UnsafeMutablePointer<Float>,
        ldc: Int,
        rounds: Bool
    ) {
        precondition(beta == 0 || beta == 1, "beta \(beta)")
        withUnsafeTemporaryAllocation(of: Float.self, capacity: coord_product_scratch(m, n, k)) { scratch in
            let product = rounds ? coord_rounded_product : coord_product
            product(
                table,
                c,
                ldc,
                a,
                lda,
                transposeA == .transposed ? 1 : 0,
                b,
                ldb,
                transposeB == .transposed ? 1 : 0,
                m,
                n,
                k,
                beta == 1 ? 1 : 0,
                scratch.baseAddress
            )
        }
    }

    /// The same kernels without instructions that only some CPUs of the set have.
    package var withoutExtensions: Kernels {
        guard set == .v4, let plain = coord_kernels_for(Int32(COORD_PLAIN_V4)) else { return self }
        return Kernels(table: plain, set: set)
    }
}
