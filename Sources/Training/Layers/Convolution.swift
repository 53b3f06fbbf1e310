internal import Tensors

/// A convolution: `x: [C, B, H, W] → y: [out, B, OH, OW]`, weight `[out, C / groups, k, k]`, bias `[out]`.
///
/// Output channels of a group see the input channels of that group alone; as many groups as channels is a depthwise
/// convolution. Runs as products with columns (im2col), a few samples at a time so that the columns stay in the cache; how many
/// follows from the shapes alone. Saved for backward: `x`; the columns are made again, which is cheaper than keeping
/// them. Initialisation as in ``Dense`` with fan-in C·k·k.
struct Convolution: Layer {
    let channels: Int
    let height: Int
    let width: Int
    let filters: Int
    let kernel: Int
    let stride: Int
    let padding: Int
    /// Distance of neighbouring taps of the kernel; 1 = side by side.
    var dilation = 1
    /// Divides `channels` and `filters`.
    var groups = 1
    let weight: ParameterSlice
    /// Nil for none.
    let bias: ParameterSlice?

    /// Half a MiB of columns at once.
    private static let columnsAtOnce = 1 << 17

    private func window(_ samples: Int) -> Kernels.Window {
        Kernels.Window(
            channels: channels / groups,
            samples: samples,
            height: height,
            width: width,
            kernel: kernel,
            stride: stride,
            padding: padding,
            dilation: dilation
        )
    }

    var output: SampleShape {
        let window = window(1)
        return .planes(channels: filters, height: window.outHeight, width: window.outWidth)
    }
    var parameters: [ParameterSlice] { [weight] + (bias.map { [$0] } ?? []) }

    /// Rows of the columns: C/groups·k·k.
    private var depth: Int { channels / groups * kernel * kernel }
    /// Pixels of one output plane.
    private var pixels: Int { output.count / filters }
    /// Samples in one product.
    private var group: Int { max(1, Self.columnsAtOnce / (depth * pixels)) }
    var scratchCount: Int { group * depth * pixels }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        let window = window(pass.count)
        let pixels = pixels
        let row = pass.count * pixels
        let outputs = filters / groups
        for part in 0..<groups {
            let input = x + part * (channels / groups) * pass.count * height * width
            for first in stride(from: 0, to: pass.count, by: group) {
                let samples = first..<min(first + group, pass.count)
                let columns = samples.count * pixels
                pass.kernels.imageToColumns(pass.scratch, input, window, samples)
                BLAS.multiply(
                    outputs,
                    columns,
                    depth,
                    pass.weights + weight.offset + part * outputs * depth,
                    .plain,
                    lda: depth,
                    pass.scratch,
                    .plain,
                    ldb: columns,
                    y + part * outputs * row + first * pixels,
                    ldc: row
                )
            }
        }
        guard let bias else { return }
        pass.kernels.addBiasToPlanes(y, pass.weights + bias.offset, rows: filters, columns: row)
    }

    func backward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafePointer<Float>,
        _ dy: UnsafeMutablePointer<Float>,
        _ dx: UnsafeMutablePointer<Float>?,
        gradients: UnsafeMutablePointer<Float>,
        _ pass: LayerPass
    ) {
        let window = window(pass.count)
        let pixels = pixels
        let row = pass.count * pixels
        let outputs = filters / groups
        if let bias { pass.kernels.rowSums(gradients + bias.offset, dy, rows: filters, columns: row) }
        for part in 0..<groups {
            let plane = part * (channels / groups) * pass.count * height * width
            let weight = weight.offset + part * outputs * depth
            for first in stride(from: 0, to: pass.count, by: group) {
                let samples = first..<min(first + group, pass.count)
                let columns = samples.count * pixels
                let d = dy + part * outputs * row + first * pixels
                // dW: [out, C·k·k] += dy · columnsᵀ
                pass.kernels.imageToColumns(pass.scratch, x + plane, window, samples)
                BLAS.multiply(
                    outputs,
                    depth,
                    columns,
                    d,
                    .plain,
                    lda: row,
                    pass.scratch,
                    .transposed,
                    ldb: columns,
                    beta: first == 0 ? 0 : 1,
                    gradients + weight,
                    ldc: depth
                )
                guard let dx else { continue }
                // dColumns: [C·k·k, columns] = Wᵀ · dy
                BLAS.multiply(
                    depth,
                    columns,
                    outputs,
                    pass.weights + weight,
                    .transposed,
                    lda: depth,
                    d,
                    .plain,
                    ldb: row,
                    pass.scratch,
                    ldc: columns
                )
                pass.kernels.columnsToImage(dx + plane, pass.scratch, window, samples)
            }
        }
    }

    private func stride(from first: Int, to end: Int, by step: Int) -> StrideTo<Int> {
        Swift.stride(from: first, to: end, by: step)
    }
}
