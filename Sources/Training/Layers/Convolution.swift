internal import Tensors

/// A convolution: `x: [C, B, H, W] → y: [out, B, OH, OW]`, weight `[out, C / groups, k, k]`, bias `[out]`.
///
/// Output channels of a group see the input channels of that group alone; as many groups as channels is a depthwise
/// convolution. 3×3 kernels with stride 1 and padding 1 between 16 channels or more run by Winograd's algorithm. All others
/// run as products with columns (im2col), a few samples at a time so that the columns stay in the cache; how many
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
    /// Parts of the gradient of the weights that threads can sum side by side.
    private static let mostStrands = 4

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

    /// Whether Winograd's algorithm pays: decided by shapes alone, as it has other bits than the columns.
    ///
    /// Transforming the filters takes about as long as 16 tiles.
    private func isWinograd(_ samples: Int) -> Bool {
        kernel == 3 && stride == 1 && padding == 1 && dilation == 1 && groups == 1
            && min(channels, filters) >= 16 && min(height, width) >= 3
            && samples * ((height + 3) / 4) * ((width + 3) / 4) >= 16
    }

    private func winograd(_ samples: Int) -> Kernels.Winograd {
        Kernels.Winograd(
            channels: channels,
            filters: filters,
            samples: samples,
            height: height,
            width: width
        )
    }

    /// Rows of the columns: C/groups·k·k.
    private var depth: Int { channels / groups * kernel * kernel }
    /// Pixels of one output plane.
    private var pixels: Int { output.count / filters }
    /// Samples in one product.
    private var group: Int { max(1, Self.columnsAtOnce / (depth * pixels)) }
    /// Numbers of one product's columns.
    private var columnCount: Int { group * depth * pixels }
    /// Weights of one group.
    private var partCount: Int { filters / groups * depth }

    /// Sums of neighbouring products, each a part of the gradient of the weights.
    private func strands(_ samples: Int) -> Int {
        min(Self.mostStrands, (samples + group - 1) / group)
    }

    func scratchCount(samples: Int, threads: Int) -> Int {
        let columns = threads * columnCount + (strands(samples) - 1) * partCount
        guard isWinograd(samples) else { return columns }
        let shape = winograd(samples)
        let forward =
            max(shape.filterCount, shape.turned.filterCount)
            + threads * max(shape.forwardScratch, shape.turned.forwardScratch)
        let parts = min(threads, shape.filterBlocks)
        return max(columns, forward, parts * shape.weightsScratch((shape.filterBlocks + parts - 1) / parts))
    }

    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass) {
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
                let scratch = pass.scratch + thread * columnCount
                pass.kernels.imageToColumns(scratch, input, window, samples)
                pass.multiply(
                    outputs,
                    columns,
                    depth,
                    pass.weights + weight.offset + part * outputs * depth,
                    .plain,
                    lda: depth,
                    scratch,
                    .plain,
                    ldb: columns,
                    y + part * outputs * row + first * pixels,
                    ldc: row
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

    /// The outputs of Winograd's algorithm, or on the way back the gradient at the inputs.
    private func winograd(
        _ x: UnsafePointer<Float>,
        _ y: UnsafeMutablePointer<Float>,
        _ forward: Kernels.Winograd,
        isTurned: Bool,
        bias: UnsafePointer<Float>?,
        _ pass: LayerPass
    ) {
        let shape = isTurned ? forward.turned : forward
        let turned = pass.scratch
        pass.team.divide(shape.rowBlocks, work: shape.filterCount / shape.rowBlocks) { range, _ in
            let weights = pass.weights + weight.offset
            pass.kernels.winogradFilters(turned, weights, shape, isTurned: isTurned, range)
        }
        let scratch = pass.scratch + shape.filterCount
        pass.team.run(shape.blocks) { block, thread in
            pass.kernels.winogradForward(
                y,
                x,
                turned,
                bias: bias,
                shape,
                block..<(block + 1),
                scratch: scratch + thread * shape.forwardScratch
            )
        }
    }

    func backward(
        _ x: UnsafePointer<Float>,
        _ y: UnsafePointer<Float>,
        _ dy: UnsafeMutablePointer<Float>,
        _ dx: UnsafeMutablePointer<Float>?,
        gradients: UnsafeMutablePointer<Float>,
        _ pass: LayerPass
    ) {
        let row = pass.count * pixels
        if let bias {
            pass.team.divide(filters, work: row) { range, _ in
                pass.kernels.rowSums(
                    gradients + bias.offset + range.lowerBound,
                    dy + range.lowerBound * row,
                    rows: range.count,
                    columns: row
                )
            }
        }
        if isWinograd(pass.count) {
            let shape = winograd(pass.count)
            let parts = min(pass.team.size, shape.filterBlocks)
            let each = (shape.filterBlocks + parts - 1) / parts
            let size = shape.weightsScratch(each)
            pass.team.run(parts) { part, _ in
                let blocks =
                    min(part * each, shape.filterBlocks)..<min(part * each + each, shape.filterBlocks)
                guard !blocks.isEmpty else { return }
                let scratch = pass.scratch + part * size
                pass.kernels.winogradWeights(
                    gradients + weight.offset,
                    x,
                    dy,
                    shape,
                    blocks,
                    scratch: scratch
                )
            }
            if let dx { winograd(dy, dx, shape, isTurned: true, bias: nil, pass) }
            return
        }
        for part in 0..<groups { backward(x, dy, dx, gradients, part, pass) }
    }

    /// One group's gradients by columns: dW: [out, C·k·k] += dy · columnsᵀ, and dColumns: [C·k·k, columns] = Wᵀ · dy.
    private func backward(
        _ x: UnsafePointer<Float>,
        _ dy: UnsafePointer<Float>,
        _ dx: UnsafeMutablePointer<Float>?,
        _ gradients: UnsafeMutablePointer<Float>,
        _ part: Int,
        _ pass: LayerPass
    ) {
        let window = window(pass.count)
        let pixels = pixels
        let row = pass.count * pixels
        let outputs = filters / groups
        let plane = part * (channels / groups) * pass.count * height * width
        let place = weight.offset + part * partCount
        let products = (pass.count + group - 1) / group
        let strands = strands(pass.count)
        let sums = pass.scratch + pass.team.size * columnCount
        pass.team.run(strands) { strand, thread in
            let scratch = pass.scratch + thread * columnCount
            let sum = strand == 0 ? gradients + place : sums + (strand - 1) * partCount
            let (begin, end) = (strand * products / strands, (strand + 1) * products / strands)
            for product in begin..<end {
                let first = product * group
                let samples = first..<min(first + group, pass.count)
                let columns = samples.count * pixels
                let d = dy + part * outputs * row + first * pixels
                pass.kernels.imageToColumns(scratch, x + plane, window, samples)
                pass.multiply(
                    outputs,
                    depth,
                    columns,
                    d,
                    .plain,
                    lda: row,
                    scratch,
                    .transposed,
                    ldb: columns,
                    beta: product == begin ? 0 : 1,
                    sum,
                    ldc: depth
                )
                guard let dx else { continue }
                pass.multiply(
                    depth,
                    columns,
                    outputs,
                    pass.weights + place,
                    .transposed,
                    lda: depth,
                    d,
                    .plain,
                    ldb: row,
                    scratch,
                    ldc: columns
                )
                pass.kernels.columnsToImage(dx + plane, scratch, window, samples)
            }
        }
        for strand in 1..<max(1, strands) {
            pass.kernels.add(gradients + place, sums + (strand - 1) * partCount, partCount)
        }
    }
}
