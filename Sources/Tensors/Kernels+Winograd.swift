internal import CKernels

/// 3×3 convolutions by Winograd's F(4×4, 3×3).
extension Kernels {
    /// A convolution with a 3×3 kernel, stride 1 and padding 1 over `[C, B, H, W]`.
    public struct Winograd: Sendable {
        let inC: coord_winograd

        /// The shapes of a convolution's input and output.
        public init(channels: Int, filters: Int, samples: Int, height: Int, width: Int) {
            inC = coord_winograd(
                channels: Int32(channels),
                filters: Int32(filters),
                samples: Int32(samples),
                height: Int32(height),
                width: Int32(width)
            )
        }

        private func with<Result>(_ body: (UnsafePointer<coord_winograd>) -> Result) -> Result {
            withUnsafePointer(to: inC, body)
        }

        /// The same convolution on the way back: gradients of the outputs in, gradients of the inputs out.
        public var turned: Winograd {
            Winograd(
                channels: Int(inC.filters),
                filters: Int(inC.channels),
                samples: Int(inC.samples),
                height: Int(inC.height),
                width: Int(inC.width)
            )
        }
        /// Blocks of tiles, the parts into which the outputs fall.
        public var blocks: Int { with { coord_winograd_blocks($0) } }
        /// Blocks of 16 filters, the parts into which their gradient falls.
        public var filterBlocks: Int { (Int(inC.filters) + 15) / 16 }
        /// Blocks of 8 filters, the parts into which the transformed filters fall.
        public var rowBlocks: Int { (Int(inC.filters) + 7) / 8 }
        /// Numbers of the transformed filters.
        public var filterCount: Int { with { coord_winograd_filter_count($0, 0) } }
        /// Numbers of scratch that each thread of a forward pass needs.
        public var forwardScratch: Int { with { coord_winograd_forward_scratch($0) } }
        /// Numbers of scratch for the gradient of `count` blocks of filters.
        public func weightsScratch(_ count: Int) -> Int {
            with { coord_winograd_weights_scratch($0, Int32(count)) }
        }
    }

    /// Transforms the filters of some blocks of rows.
    ///
    /// - Parameters:
    ///   - u: `filterCount` numbers.
    ///   - w: `[K, C, 3, 3]` of the convolution on its way forward.
    ///   - shape: for the way back, the turned one.
    ///   - isTurned: whether it is.
    ///   - rounds: whether the transformed numbers are rounded to bfloat16, as `winogradForward` must be told, too.
    public func winogradFilters(
        _ u: UnsafeMutablePointer<Float>,
        _ w: UnsafePointer<Float>,
        _ shape: Winograd,
        isTurned: Bool,
        rounds: Bool = false,
        _ rows: Range<Int>
    ) {
        var s = isTurned ? shape.turned.inC : shape.inC
        let transform = rounds ? coord_rounded_winograd_filters : coord_winograd_filters
        transform(table, u, w, &s, isTurned ? 1 : 0, Int32(rows.lowerBound), Int32(rows.upperBound))
    }

    /// The outputs of some blocks of tiles and of rows of filters; how they are cut leaves no trace.
    ///
    /// - Parameters:
    ///   - rounds: whether the transformed inputs are rounded to bfloat16.
    ///   - rows: which of the `rowBlocks`.
    ///   - scratch: `forwardScratch` numbers.
    public func winogradForward(
        _ y: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ u: UnsafePointer<Float>,
        bias: UnsafePointer<Float>?,
        _ shape: Winograd,
        rounds: Bool = false,
        _ blocks: Range<Int>,
        rows: Range<Int>,
        scratch: UnsafeMutablePointer<Float>
    ) {
        var s = shape.inC
        let convolve = rounds ? coord_rounded_winograd_forward : coord_winograd_forward
        convolve(
            table,
            y,
            x,
            u,
            bias,
            &s,
            Int32(blocks.lowerBound),
            Int32(blocks.upperBound),
            Int32(rows.lowerBound),
            Int32(rows.upperBound),
            scratch
        )
    }

    /// The gradient of some blocks of filters; how they are cut leaves no trace.
    ///
    /// - Parameters:
    ///   - rounds: whether the transformed inputs and gradients are rounded to bfloat16.
    ///   - scratch: `weightsScratch(filterBlocks.count)` numbers.
    public func winogradWeights(
        _ dw: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ shape: Winograd,
        rounds: Bool = false,
        _ filterBlocks: Range<Int>,
        scratch: UnsafeMutablePointer<Float>
    ) {
        var s = shape.inC
        let sum = rounds ? coord_rounded_winograd_weights : coord_winograd_weights
        sum(
            table,
            dw,
            x,
            dy,
            &s,
            Int32(filterBlocks.lowerBound),
            Int32(filterBlocks.upperBound),
            scratch
        )
    }
}
