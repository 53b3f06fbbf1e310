internal import Tensors

/// A convolution: `x: [C, B, H, W] → y: [out, B, OH, OW]`, weight `[out, C / groups, k, k]`, bias `[out]`.
///
/// Output channels of a group see the input channels of that group alone; as many groups as channels is a depthwise
/// convolution, and runs as one where the padding keeps the size. 3×3 kernels with stride 1 and padding 1 between 16 channels or
/// more run by Winograd's algorithm. All others run as products with columns (im2col), a few samples at a time so that
/// the columns stay in the cache. Saved for backward: `x`; the columns are made again, which is cheaper than keeping them.
/// Initialisation as in ``Dense`` with fan-in C·k·k.
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
    /// Columns at once at least: each call packs the weights again.
    private static let leastColumns = 256
    /// Parts of the gradient of the weights that threads can sum side by side.
    private static let mostStrands = 4

    /// The window of one group, or of some channels.
    func window(_ samples: Int, channels: Int? = nil) -> Kernels.Window {
        Kernels.Window(
            channels: channels ?? self.channels / groups,
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
    private var group: Int {
        max((Self.leastColumns + pixels - 1) / pixels, Self.columnsAtOnce / (depth * pixels))
    }
    /// Numbers of one product's columns.
    private func columnCount(_ samples: Int) -> Int { min(samples, group) * depth * pixels }
    /// Whether the columns are the input itself.
    private var isPointwise: Bool { kernel == 1 && stride == 1 && padding == 0 }
    /// Weights of one group.
    private var partCount: Int { filters / groups * depth }

    /// Sums of neighbouring products, each a part of the gradient of the weights.
    private func strands(_ samples: Int) -> Int {
        min(Self.mostStrands, (samples + group - 1) / group)
    }

    func scratchCount(samples: Int, threads: Int) -> Int {
        let columns = threads * columnCount(samples) + (strands(samples) - 1) * partCount
        if isDepthwise { return threads * window(samples).depthwiseScratch }
        // A pass over fewer samples may take another way.
        return isWinograd(samples) ? max(columns, winogradScratch(samples, threads)) : columns
    }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
        if isDepthwise { return depthwiseForward(x, y, pass) }
        if isWinograd(pass.count) {
            let bias = bias.map { pass.weights + $0.offset }
            return winograd(x, y, winograd(pass.count), isTurned: false, bias: bias, pass)
        }
        let window = window(pass.count)
        let pixels = pixels
        let row = pass.count * pixels
        let outputs = filters / groups
        for part in 0..<groups {
            let input = x + part * (channels / groups) * pass.count * height * width
            pass.team.run((pass.count + group - 1) / group) { index, thread in
                let first = index * group
                let samples = first..<min(first + group, pass.count)
                let columns = samples.count * pixels
                let taken = takeColumns(input, window, samples, thread, pass)
                pass.kernels.multiply(
                    outputs,
                    columns,
                    depth,
                    pass.weights + weight.offset + part * outputs * depth,
                    .plain,
                    lda: depth,
                    taken.columns,
                    .plain,
                    ldb: taken.row,
                    y + part * outputs * row + first * pixels,
                    ldc: row,
                    rounds: pass.rounds
                )
            }
        }
        guard let bias else { return }
        pass.team.divide(filters, work: row) { range, _ in
            pass.kernels.addBiasToPlanes(
                y + range.lowerBound * row,
                pass.weights + bias.offset + range.lowerBound,
                rows: range.count,
                columns: row
            )
        }
    }

    func backward(_ way: Backward, _ pass: LayerPass) {
        let row = pass.count * pixels
        if let bias {
            pass.team.divide(filters, work: row) { range, _ in
                pass.kernels.rowSums(
                    way.gradients + bias.offset + range.lowerBound,
                    way.dy + range.lowerBound * row,
                    rows: range.count,
                    columns: row
                )
            }
        }
        if isDepthwise { return depthwiseBackward(way, pass) }
        if isWinograd(pass.count) { return winogradBackward(way, pass) }
        for part in 0..<groups { backward(way, part, pass) }
    }

    /// The columns of some samples of one group, in the thread's scratch or where they lie, and the numbers from row to row.
    private func takeColumns(
        _ x: UnsafePointer<Float>,
        _ window: Kernels.Window,
        _ samples: Range<Int>,
        _ thread: Int,
        _ pass: LayerPass
    ) -> (columns: UnsafePointer<Float>, row: Int) {
        if isPointwise { return (x + samples.lowerBound * pixels, pass.count * pixels) }
        let scratch = pass.scratch + thread * columnCount(pass.count)
        pass.kernels.imageToColumns(scratch, x, window, samples)
        return (UnsafePointer(scratch), samples.count * pixels)
    }

    /// One group's gradients by columns: dW: [out, C·k·k] += dy · columnsᵀ, and dColumns: [C·k·k, columns] = Wᵀ · dy.
    private func backward(_ way: Backward, _ part: Int, _ pass: LayerPass) {
        let window = window(pass.count)
        let pixels = pixels
        let row = pass.count * pixels
        let outputs = filters / groups
        let plane = part * (channels / groups) * pass.count * height * width
        let place = weight.offset + part * partCount
        let products = (pass.count + group - 1) / group
        let strands = strands(pass.count)
        let rounds = pass.rounds
        let sums = pass.scratch + pass.team.size * columnCount(pass.count)
        pass.team.run(strands) { strand, thread in
            let scratch = pass.scratch + thread * columnCount(pass.count)
            let sum = strand == 0 ? way.gradients + place : sums + (strand - 1) * partCount
            let (begin, end) = (strand * products / strands, (strand + 1) * products / strands)
            for product in begin..<end {
                let first = product * group
                let samples = first..<min(first + group, pass.count)
                let columns = samples.count * pixels
                let d = way.dy + part * outputs * row + first * pixels
                let taken = takeColumns(way.x + plane, window, samples, thread, pass)
                pass.kernels.multiply(
                    outputs,
                    depth,
                    columns,
                    d,
                    .plain,
                    lda: row,
                    taken.columns,
                    .transposed,
                    ldb: taken.row,
                    beta: product == begin ? 0 : 1,
                    sum,
                    ldc: depth,
                    rounds: rounds
                )
                guard let dx = way.dx else { continue }
                pass.kernels.multiply(
                    depth,
                    columns,
                    outputs,
                    pass.weights + place,
                    .transposed,
                    lda: depth,
                    d,
                    .plain,
                    ldb: row,
                    isPointwise ? dx + plane + first * pixels : scratch,
                    ldc: taken.row,
                    rounds: rounds
                )
                if !isPointwise { pass.kernels.columnsToImage(dx + plane, scratch, window, samples) }
            }
        }
        guard strands > 1 else { return }
        pass.team.divide(partCount, multiple: 64) { range, _ in
            let sum = way.gradients + place + range.lowerBound
            for strand in 1..<strands {
                pass.kernels.add(sum, sums + (strand - 1) * partCount + range.lowerBound, range.count)
            }
        }
    }
}
