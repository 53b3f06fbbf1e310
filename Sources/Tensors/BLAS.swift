public import Basics
internal import COpenBLAS

/// OpenBLAS on one thread, with the kernels of the run's record.
///
/// The bits of a product depend on the number of threads, on the call's size and on the kernels that OpenBLAS chose
/// when the process started. So: one thread, asserted; whoever starts the process sets `OPENBLAS_CORETYPE`; here
/// it is only checked.
public enum BLAS {
    /// The name of the kernels that OpenBLAS uses in this process (`SkylakeX`, `Haswell`, `Nehalem`, `Zen`, …).
    public static var coreName: String { String(cString: openblas_get_corename()) }

    /// The kernel set of ours that OpenBLAS runs in this process; nil when it runs another core's kernels.
    public static var kernelsInForce: KernelSet? {
        KernelSet.allCases.first { matches(coreName: coreName, kernels: $0) }
    }

    /// Fixes one thread and proves that OpenBLAS runs the kernels of the record.
    ///
    /// - Throws: ``TensorsError`` `.kernelsDiffer` when `OPENBLAS_CORETYPE` was not set before the start of
    ///   this process, `.threadsDiffer` when OpenBLAS keeps more than one thread.
    public static func prepare(kernels: KernelSet) throws {
        try pinToOneThread()
        guard matches(coreName: coreName, kernels: kernels) else {
            throw TensorsError(
                .kernelsDiffer,
                "OpenBLAS runs the \(coreName) kernels, the run asks for \(kernels.openBLASCoreType) "
                    + "(kernels \(kernels.rawValue))",
                hint:
                    "start the process with OPENBLAS_CORETYPE=\(kernels.openBLASCoreType) in its environment"
            )
        }
    }

    /// Fixes one thread.
    ///
    /// - Throws: ``TensorsError`` `.threadsDiffer` when OpenBLAS keeps more than one.
    public static func pinToOneThread() throws {
        openblas_set_num_threads(1)
        let threads = openblas_get_num_threads()
        guard threads == 1 else {
            throw TensorsError(
                .threadsDiffer,
                "OpenBLAS keeps \(threads) threads",
                hint: "start the process with OPENBLAS_NUM_THREADS=1"
            )
        }
    }

    /// True when OpenBLAS's own name for a core stands for a kernel set.
    static func matches(coreName: String, kernels: KernelSet) -> Bool {
        coreName.lowercased() == kernels.openBLASCoreType.lowercased()
    }

    /// Whether an operand of a product is transposed.
    public enum Transposition: Sendable {
        /// As it is stored.
        case plain
        /// Rows and columns exchanged.
        case transposed
    }

    /// `c = a · b + beta · c`, all row-major.
    ///
    /// - Parameters:
    ///   - m: rows of `c`.
    ///   - n: columns of `c`.
    ///   - k: the common dimension.
    ///   - a: `[m, k]`, or `[k, m]` when transposed, with `lda` numbers a row.
    ///   - b: `[k, n]`, or `[n, k]` when transposed, with `ldb` numbers a row.
    ///   - c: `[m, n]` with `ldc` numbers a row.
    /// - Cost: 2·m·n·k operations on the calling thread.
    public static func multiply(
        _ m: Int,
        _ n: Int,
        _ k: Int,
        _ a: UnsafePointer<Float>,
        _ transposeA: Transposition,
        lda: Int,
        _ b: UnsafePointer<Float>,
        _ transposeB: Transposition,
        ldb: Int,
        beta: Float = 0,
        _ c: UnsafeMutablePointer<Float>,
        ldc: Int
    ) {
        cblas_sgemm(
            CblasRowMajor,
            transposeA == .plain ? CblasNoTrans : CblasTrans,
            transposeB == .plain ? CblasNoTrans : CblasTrans,
            Int32(m),
            Int32(n),
            Int32(k),
            1,
            a,
            Int32(lda),
            b,
            Int32(ldb),
            beta,
            c,
            Int32(ldc)
        )
    }
}
