internal import CKernels

/// Depthwise convolutions: each channel of `[C, B, H, W]` has one filter of its own.
///
/// The kernel is odd and the padding keeps the size of an image, but for a stride: `2·padding = dilation·(kernel - 1)`. A number's
/// bits depend on its channel alone; the gradient of the filters is summed in one virtual width of 16. Scratch:
/// ``Window/depthwiseScratch`` numbers.
extension Kernels {
    /// `[C, B, H, W]` → `[C, B, OH, OW]`; filters `[C, k, k]`, bias `[C]` or nil.
    public func depthwiseForward(
        _ y: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ filters: UnsafePointer<Float>,
        bias: UnsafePointer<Float>?,
        _ window: Window,
        scratch: UnsafeMutablePointer<Float>
    ) {
        var w = window.inC
        coord_depthwise_forward(table, y, x, filters, bias, &w, scratch)
    }

    /// The gradient at the inputs: `[C, B, OH, OW]` → `[C, B, H, W]`.
    public func depthwiseInputs(
        _ dx: UnsafeMutablePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ filters: UnsafePointer<Float>,
        _ window: Window,
        scratch: UnsafeMutablePointer<Float>
    ) {
        var w = window.inC
        coord_depthwise_inputs(table, dx, dy, filters, &w, scratch)
    }

    /// The gradient of the filters, `[C, k, k]`.
    public func depthwiseWeights(
        _ dw: UnsafeMutablePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ window: Window,
        scratch: UnsafeMutablePointer<Float>
    ) {
        var w = window.inC
        coord_depthwise_weights(table, dw, x, dy, &w, scratch)
    }
}

extension Kernels.Window {
    /// Numbers of scratch that a depthwise convolution over this window needs; the channels don't matter.
    public var depthwiseScratch: Int { withUnsafePointer(to: inC) { coord_depthwise_scratch($0) } }
}
