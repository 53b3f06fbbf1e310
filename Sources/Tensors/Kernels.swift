public import Basics
internal import CKernels

/// The element-wise and reducing kernels of one kernel set.
///
/// Each gives the same bits in every set. Shape letters: B samples, C channels, H and W pixels, K classes; image
/// activations are `[C, B, H, W]`.
public struct Kernels: @unchecked Sendable {
    // Safety: points at a constant table of function pointers.
    let table: UnsafePointer<coord_kernels>
    /// Which set.
    public let set: KernelSet

    init(table: UnsafePointer<coord_kernels>, set: KernelSet) {
        self.table = table
        self.set = set
    }

    /// The kernels of a set.
    ///
    /// - Throws: ``TensorsError`` `.kernelsUnavailable` when this CPU lacks it.
    public init(_ set: KernelSet) throws {
        let level: Int32 =
            switch set {
            case .v2: 2
            case .v3: 3
            case .v4: 4
            }
        guard let best = Machine.kernels, set <= best, let table = coord_kernels_for(level) else {
            throw TensorsError(
                .kernelsUnavailable,
                "this CPU has no \(set.rawValue) kernels (best: \(Machine.kernels?.rawValue ?? "none"))",
                hint: "choose kernels that every host of the run has"
            )
        }
        self.table = table
        self.set = set
    }

    /// `into += from`, `[n]`.
    public func add(_ into: UnsafeMutablePointer<Float>, _ from: UnsafePointer<Float>, _ n: Int) {
        coord_add(table, into, from, n)
    }

    /// The sum of vectors along a binary tree on their order.
    ///
    /// - Parameters:
    ///   - into: `[N]`; must not be one of `from`.
    ///   - from: a power of two of vectors `[N]`, at most 64.
    ///   - range: which elements, so that threads can share the work.
    public func treeSum(
        _ into: UnsafeMutablePointer<Float>,
        _ from: [UnsafePointer<Float>],
        _ range: Range<Int>
    ) {
        precondition(
            from.count & (from.count - 1) == 0 && (1...64).contains(from.count),
            "\(from.count) vectors"
        )
        from.map { Optional($0) }.withUnsafeBufferPointer {
            coord_tree_sum(table, into, $0.baseAddress, from.count, range.lowerBound, range.upperBound)
        }
    }

    /// `x /= by`, `[n]`.
    public func divide(_ x: UnsafeMutablePointer<Float>, by: Float, _ n: Int) {
        coord_divide(table, x, by, n)
    }
    /// `x *= by`, `[n]`.
    public func scale(_ x: UnsafeMutablePointer<Float>, by: Float, _ n: Int) { coord_scale(table, x, by, n) }
    /// The sum of `x²` in double, `[n]`.
    public func sumOfSquares(_ x: UnsafePointer<Float>, _ n: Int) -> Double { coord_sum_squares(table, x, n) }

    /// The sums of `x` and of `x²` in double, `[n]`.
    public func moments(_ x: UnsafePointer<Float>, _ n: Int) -> (sum: Double, squares: Double) {
        var sum = 0.0
        var squares = 0.0
        coord_moments(table, x, n, &sum, &squares)
        return (sum, squares)
    }

    /// `y = (x - mean) / deviation`, `[n]`.
    public func normalize(
        _ y: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        mean: Float,
        deviation: Float,
        _ n: Int
    ) {
        coord_normalize(table, y, x, mean, deviation, n)
    }

    /// `y[r, c] += bias[c]`.
    public func addBiasToRows(
        _ y: UnsafeMutablePointer<Float>,
        _ bias: UnsafePointer<Float>,
        rows: Int,
        columns: Int
    ) {
        coord_bias_rows(table, y, bias, rows, columns)
    }

    /// `y[r, c] += bias[r]`.
    public func addBiasToPlanes(
        _ y: UnsafeMutablePointer<Float>,
        _ bias: UnsafePointer<Float>,
        rows: Int,
        columns: Int
    ) {
        coord_bias_planes(table, y, bias, rows, columns)
    }

    /// `into[c] = sum over r of x[r, c]`, in the order of the rows.
    public func columnSums(
        _ into: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        rows: Int,
        columns: Int
    ) {
        coord_column_sums(table, into, x, rows, columns)
    }

    /// `into[r] = sum over c of x[r, c]`, in one virtual width of 16.
    public func rowSums(
        _ into: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        rows: Int,
        columns: Int
    ) {
        coord_row_sums(table, into, x, rows, columns)
    }

    /// `x = max(x, 0)` in place; a NaN stays one.
    public func relu(_ x: UnsafeMutablePointer<Float>, _ n: Int) { coord_relu(table, x, n) }
    /// `d = y > 0 ? d : 0` in place, with the `y` that ``relu(_:_:)`` left.
    public func reluBackward(_ d: UnsafeMutablePointer<Float>, _ y: UnsafePointer<Float>, _ n: Int) {
        coord_relu_backward(table, d, y, n)
    }

    /// Softmax of each row in place, `[B, K]`.
    public func softmax(_ x: UnsafeMutablePointer<Float>, rows: Int, classes: Int) {
        coord_softmax(table, x, rows, classes)
    }

    /// Softmax cross-entropy, summed over the rows in double, and its gradient.
    ///
    /// - Parameters:
    ///   - d: `[B, K]`, set to `softmax(logits) - onehot(label)`, not divided by B.
    ///   - logits: `[B, K]`.
    ///   - labels: `[B]`, each `0 ..< K`.
    /// - Returns: the sum of the losses, and how many rows have their largest logit (the first of equals) at the label.
    public func crossEntropy(
        _ d: UnsafeMutablePointer<Float>,
        _ logits: UnsafePointer<Float>,
        _ labels: UnsafePointer<Int32>,
        rows: Int,
        classes: Int
    ) -> (loss: Double, correct: Int) {
        var loss = 0.0
        var correct: Int64 = 0
        coord_cross_entropy(table, d, logits, labels, rows, classes, &loss, &correct)
        return (loss, Int(correct))
    }

    /// `x: [C, B, H, W]` → `columns: [C·k·k, count·OH·OW]` for `samples`.
    public func imageToColumns(
        _ columns: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ window: Window,
        _ samples: Range<Int>
    ) {
        var w = window.inC
        coord_im2col(table, columns, x, &w, Int32(samples.lowerBound), Int32(samples.count))
    }

    /// The transpose of ``imageToColumns(_:_:_:_:)``; clears `dx` of `samples` first.
    public func columnsToImage(
        _ dx: UnsafeMutablePointer<Float>,
        _ columns: UnsafePointer<Float>,
        _ window: Window,
        _ samples: Range<Int>
    ) {
        var w = window.inC
        coord_col2im(table, dx, columns, &w, Int32(samples.lowerBound), Int32(samples.count))
    }

    /// Largest value of each window, and its place in the window.
    public func maxPool(
        _ y: UnsafeMutablePointer<Float>,
        _ places: UnsafeMutablePointer<UInt8>,
        _ x: UnsafePointer<Float>,
        _ window: Window
    ) {
        var w = window.inC
        coord_maxpool(table, y, places, x, &w)
    }

    /// Sends each gradient to the place that won; clears `dx` first.
    public func maxPoolBackward(
        _ dx: UnsafeMutablePointer<Float>,
        _ places: UnsafePointer<UInt8>,
        _ dy: UnsafePointer<Float>,
        _ window: Window
    ) {
        var w = window.inC
        coord_maxpool_backward(table, dx, places, dy, &w)
    }

    /// One SGD step, as `torch.optim.SGD`: `g += decay·p; m = momentum·m + g; p -= rate·(nesterov ? g + momentum·m : m)`.
    public func sgd(
        _ p: UnsafeMutablePointer<Float>,
        _ g: UnsafePointer<Float>,
        _ m: UnsafeMutablePointer<Float>,
        rate: Float,
        momentum: Float,
        decay: Float,
        isNesterov: Bool,
        _ n: Int
    ) {
        var scalars = coord_sgd_scalars(
            rate: rate,
            momentum: momentum,
            decay: decay,
            nesterov: isNesterov ? 1 : 0
        )
        coord_sgd(table, p, g, m, &scalars, n)
    }

    /// One AdamW step, as `torch.optim.AdamW`.
    ///
    /// - Parameters:
    ///   - rate: the learning rate.
    ///   - correction1: `1 - beta1^t`.
    ///   - correction2: `1 - beta2^t`.
    /// - Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization".
    public func adamW(
        _ p: UnsafeMutablePointer<Float>,
        _ g: UnsafePointer<Float>,
        _ m: UnsafeMutablePointer<Float>,
        _ v: UnsafeMutablePointer<Float>,
        rate: Double,
        beta1: Double,
        beta2: Double,
        epsilon: Double,
        decay: Double,
        correction1: Double,
        correction2: Double,
        _ n: Int
    ) {
        var scalars = coord_adamw_scalars(
            keep: Float(1 - rate * decay),
            step: Float(rate / correction1),
            root2: Float(correction2.squareRoot()),
            take1: Float(1 - beta1),
            beta2: Float(beta2),
            take2: Float(1 - beta2),
            epsilon: Float(epsilon)
        )
        coord_adamw(table, p, g, m, v, &scalars, n)
    }
}

extension Kernels {
    /// The window of a convolution or a pooling over `[C, B, H, W]`.
    public struct Window: Sendable {
        let inC: coord_window

        /// A square kernel; the output has `(size + 2·padding - dilation·(kernel - 1) - 1) / stride + 1` rows and columns,
        /// rounded down.
        public init(
            channels: Int,
            samples: Int,
            height: Int,
            width: Int,
            kernel: Int,
            stride: Int,
            padding: Int,
            dilation: Int = 1
        ) {
            let reach = dilation * (kernel - 1) + 1
            precondition(kernel <= 16 && kernel > 0 && stride > 0, "kernel \(kernel), stride \(stride)")
            inC = coord_window(
                channels: Int32(channels),
                samples: Int32(samples),
                height: Int32(height),
                width: Int32(width),
                kernel: Int32(kernel),
                stride: Int32(stride),
                padding: Int32(padding),
                dilation: Int32(dilation),
                out_height: Int32((height + 2 * padding - reach) / stride + 1),
                out_width: Int32((width + 2 * padding - reach) / stride + 1)
            )
        }

        /// Rows of the output.
        public var outHeight: Int { Int(inC.out_height) }
        /// Columns of the output.
        public var outWidth: Int { Int(inC.out_width) }
    }
}

/// The floating-point mode in which everything that reaches weights is computed.
public enum FloatMode {
    /// Runs `body` with denormals flushed to zero and rounding to nearest on the calling thread.
    public static func withDeterministicMode<Result>(_ body: () throws -> Result) rethrows -> Result {
        let before = coord_float_mode_enter()
        defer { coord_float_mode_leave(before) }
        return try body()
    }
}
