import Basics
import Tensors
import Testing

@testable import Training

/// Forward passes in double, written from the definitions; activations of images are `[C, B, H, W]`.
private enum Oracle {
    static func dense(_ x: [Double], _ w: [Double], _ b: [Double], batch: Int) -> [Double] {
        let outputs = b.count
        let inputs = w.count / outputs
        return (0..<(batch * outputs)).map { at in
            let (row, o) = (at / outputs, at % outputs)
            return (0..<inputs).reduce(b[o]) { $0 + x[row * inputs + $1] * w[o * inputs + $1] }
        }
    }

    static func convolution(
        _ x: [Double],
        _ w: [Double],
        _ b: [Double],
        _ layer: Convolution,
        batch: Int
    ) -> [Double] {
        guard case .planes(let filters, let rows, let columns) = layer.output else { return [] }
        var y: [Double] = []
        for f in 0..<filters {
            for sample in 0..<batch {
                for oy in 0..<rows {
                    for ox in 0..<columns {
                        var sum = b[f]
                        for c in 0..<layer.channels {
                            for ky in 0..<layer.kernel {
                                for kx in 0..<layer.kernel {
                                    let iy = oy * layer.stride + ky - layer.padding
                                    let ix = ox * layer.stride + kx - layer.padding
                                    guard iy >= 0, iy < layer.height, ix >= 0, ix < layer.width else {
                                        continue
                                    }
                                    let at = ((c * batch + sample) * layer.height + iy) * layer.width + ix
                                    let weight =
                                        ((f * layer.channels + c) * layer.kernel + ky) * layer.kernel + kx
                                    sum += x[at] * w[weight]
                                }
                            }
                        }
                        y.append(sum)
                    }
                }
            }
        }
        return y
    }

    static func maxPool(_ x: [Double], _ layer: MaxPool, batch: Int) -> [Double] {
        guard case .planes(let channels, let rows, let columns) = layer.output else { return [] }
        var y: [Double] = []
        for plane in 0..<(channels * batch) {
            for oy in 0..<rows {
                for ox in 0..<columns {
                    var best = -Double.infinity
                    for ky in 0..<layer.kernel {
                        for kx in 0..<layer.kernel {
                            let at =
                                (plane * layer.height + oy * layer.stride + ky) * layer.width + ox
                                * layer.stride + kx
                            best = max(best, x[at])
                        }
                    }
                    y.append(best)
                }
            }
        }
        return y
    }

    static func flatten(_ x: [Double], _ layer: Flatten, batch: Int) -> [Double] {
        (0..<x.count).map { at in
            let (b, rest) = (at / (layer.channels * layer.pixels), at % (layer.channels * layer.pixels))
            return x[((rest / layer.pixels) * batch + b) * layer.pixels + rest % layer.pixels]
        }
    }

    static func relu(_ x: [Double]) -> [Double] { x.map { max($0, 0) } }

    /// ∂f/∂x by central differences; exact up to rounding where f is piecewise linear.
    static func gradient(_ x: [Double], step: Double = 1e-4, _ f: ([Double]) -> Double) -> [Double] {
        x.indices.map { i in
            var moved = x
            moved[i] = x[i] + step
            let above = f(moved)
            moved[i] = x[i] - step
            return (above - f(moved)) / (2 * step)
        }
    }
}

@Suite struct GradientTests {
    private func numbers(_ count: Int, seed: UInt64) -> [Float] {
        let random = RandomSource(seed: seed)
        return (0..<count).map { RandomSource.unit(random.block(.augmentation, position: $0)[0]) * 2 - 1 }
    }

    private func dot(_ a: [Double], _ b: [Float]) -> Double {
        zip(a, b).reduce(0) { $0 + $1.0 * Double($1.1) }
    }

    /// Compares a layer's forward and backward with an oracle, for the loss Σ c·y.
    private func check(
        _ layer: any Layer,
        input: Int,
        batch: Int,
        _ what: String,
        oracle: (_ x: [Double], _ w: [Double], _ b: [Double]) -> [Double]
    ) throws {
        try BLAS.pinToOneThread()
        let kernels = try Kernels(Made.kernels)
        let x = numbers(batch * input, seed: 1)
        let c = numbers(batch * layer.output.count, seed: 2)
        let slices = layer.parameters
        let weights = FloatArena(count: (slices.last.map { $0.offset + $0.count } ?? 0) + 16)
        for (i, value) in numbers(weights.count, seed: 3).enumerated() { weights.pointer[i] = value }
        let gradients = FloatArena(count: weights.count)
        gradients.pointer.update(repeating: 77, count: gradients.count)
        let scratch = FloatArena(count: layer.scratchCount(samples: 32, threads: 1))
        let saved = FloatArena(count: layer.savedCount(samples: 8))
        let places = UnsafeMutablePointer<UInt8>.allocate(capacity: batch * layer.placesPerSample + 1)
        defer { places.deallocate() }
        let pass = LayerPass(
            kernels: kernels,
            count: batch,
            weights: weights.pointer,
            scratch: scratch.pointer,
            places: places,
            saved: saved.pointer,
            training: nil
        )
        var input = x
        var y = layer.isInPlace ? x : [Float](repeating: 55, count: c.count)
        var dy = c
        var dx = [Float](repeating: 66, count: x.count)
        input.withUnsafeMutableBufferPointer { input in
            y.withUnsafeMutableBufferPointer { y in
                dy.withUnsafeMutableBufferPointer { dy in
                    dx.withUnsafeMutableBufferPointer { dx in
                        guard let input = input.baseAddress, let y = y.baseAddress, let dy = dy.baseAddress,
                            let dx = dx.baseAddress
                        else { return }
                        layer.forward(input, y, pass)
                        let way = Backward(x: input, y: y, dy: dy, dx: dx, gradients: gradients.pointer)
                        layer.backward(way, pass)
                    }
                }
            }
        }
        if layer.isInPlace { dx = dy }
        let doubles = x.map(Double.init)
        func slice(_ index: Int) -> [Double] {
            guard index < slices.count else { return [] }
            return (0..<slices[index].count).map { Double(weights.pointer[slices[index].offset + $0]) }
        }
        let (w, b) = (slice(0), slice(1))
        expectClose(y, oracle(doubles, w, b), atol: 1e-5, rtol: 1e-5, "\(what) forward")
        expectClose(
            dx,
            Oracle.gradient(doubles) { dot(oracle($0, w, b), c) },
            atol: 2e-5,
            rtol: 1e-4,
            "\(what) input gradient"
        )
        guard !slices.isEmpty else { return }
        for (index, slice) in slices.enumerated() {
            let found = (0..<slice.count).map { gradients.pointer[slice.offset + $0] }
            let expected = Oracle.gradient(index == 0 ? w : b) {
                dot(index == 0 ? oracle(doubles, $0, b) : oracle(doubles, w, $0), c)
            }
            expectClose(found, expected, atol: 5e-5, rtol: 1e-4, "\(what) gradient of \(slice.name)")
        }
    }

    private func slice(_ name: String, _ shape: [Int], at offset: Int) -> ParameterSlice {
        ParameterSlice(name: name, shape: shape, offset: offset, start: .fanIn(1))
    }

    @Test func denseMatchesCentralDifferences() throws {
        let layer = Dense(
            inputs: 7,
            outputs: 5,
            weight: slice("weight", [5, 7], at: 16),
            bias: slice("bias", [5], at: 64)
        )
        try check(layer, input: 7, batch: 6, "dense") { x, w, b in Oracle.dense(x, w, b, batch: 6) }
    }

    @Test(arguments: [(3, 1, 1), (5, 2, 2), (1, 1, 0), (3, 2, 0), (2, 1, 1)])
    func convolutionMatchesCentralDifferences(kernel: Int, stride: Int, padding: Int) throws {
        let layer = Convolution(
            channels: 2,
            height: 7,
            width: 6,
            filters: 3,
            kernel: kernel,
            stride: stride,
            padding: padding,
            weight: slice("weight", [3, 2, kernel, kernel], at: 0),
            bias: slice("bias", [3], at: 160)
        )
        try check(layer, input: 2 * 7 * 6, batch: 3, "convolution") { x, w, b in
            Oracle.convolution(x, w, b, layer, batch: 3)
        }
    }

    @Test func aConvolutionInSeveralGroupsMatchesItsForward() throws {
        // 9 · 64 columns of 60 × 60: four samples make several products.
        let layer = Convolution(
            channels: 8,
            height: 60,
            width: 60,
            filters: 2,
            kernel: 3,
            stride: 1,
            padding: 1,
            weight: slice("weight", [2, 8, 3, 3], at: 0),
            bias: slice("bias", [2], at: 144)
        )
        #expect(layer.scratchCount(samples: 4, threads: 1) < 4 * 72 * 3600)
        let kernels = try Kernels(Made.kernels)
        let x = numbers(4 * 8 * 3600, seed: 4)
        let weights = FloatArena(count: 160)
        for (i, value) in numbers(160, seed: 5).enumerated() { weights.pointer[i] = value }
        let scratch = FloatArena(count: layer.scratchCount(samples: 32, threads: 1))
        let saved = FloatArena(count: layer.savedCount(samples: 8))
        let places = UnsafeMutablePointer<UInt8>.allocate(capacity: 1)
        defer { places.deallocate() }
        let pass = LayerPass(
            kernels: kernels,
            count: 4,
            weights: weights.pointer,
            scratch: scratch.pointer,
            places: places,
            saved: saved.pointer,
            training: nil
        )
        let y = FloatArena(count: 4 * 2 * 3600)
        let input = FloatArena(count: x.count)
        input.pointer.update(from: x, count: x.count)
        layer.forward(input.pointer, y.pointer, pass)
        let expected = Oracle.convolution(
            x.map(Double.init),
            (0..<144).map { Double(weights.pointer[$0]) },
            (144..<146).map { Double(weights.pointer[$0]) },
            layer,
            batch: 4
        )
        expectClose(Array(y.buffer), expected, atol: 2e-5, rtol: 1e-5, "convolution in groups")
        // The weight gradient adds up over the groups: Σ dW·W = Σ dy·(y − b) with dy = y.
        let gradients = FloatArena(count: 160)
        let dy = FloatArena(count: y.count)
        dy.pointer.update(from: y.pointer, count: y.count)
        let dx = FloatArena(count: x.count)
        let way = Backward(
            x: input.pointer,
            y: y.pointer,
            dy: dy.pointer,
            dx: dx.pointer,
            gradients: gradients.pointer
        )
        layer.backward(way, pass)
        let left = (0..<144).reduce(0.0) { $0 + Double(gradients.pointer[$1]) * Double(weights.pointer[$1]) }
        let right = (0..<y.count).reduce(0.0) { sum, i in
            let bias = Double(weights.pointer[144 + i / (4 * 3600)])
            return sum + Double(y.pointer[i]) * (Double(y.pointer[i]) - bias)
        }
        #expect(abs(left - right) < 1e-5 * right)
        // And so does the input gradient: Σ dx·x is the same number.
        let third = (0..<x.count).reduce(0.0) { $0 + Double(dx.pointer[$1]) * Double(x[$1]) }
        #expect(abs(third - right) < 1e-5 * right)
    }

    @Test(arguments: [(2, 2), (3, 2), (3, 1)])
    func maxPoolMatchesCentralDifferences(kernel: Int, stride: Int) throws {
        let layer = MaxPool(channels: 2, height: 7, width: 5, kernel: kernel, stride: stride)
        try check(layer, input: 70, batch: 3, "max pool") { x, _, _ in Oracle.maxPool(x, layer, batch: 3) }
    }

    @Test func reluAndFlattenMatchCentralDifferences() throws {
        try check(Relu(output: .flat(9)), input: 9, batch: 4, "relu") { x, _, _ in Oracle.relu(x) }
        let layer = Flatten(channels: 3, pixels: 5)
        try check(layer, input: 15, batch: 4, "flatten") { x, _, _ in Oracle.flatten(x, layer, batch: 4) }
    }

    @Test func aPixelTiedInAWindowSendsItsGradientToTheFirst() throws {
        let layer = MaxPool(channels: 1, height: 2, width: 2, kernel: 2, stride: 2)
        let kernels = try Kernels(Made.kernels)
        var y: [Float] = [0]
        var places: [UInt8] = [9]
        var dx: [Float] = [1, 1, 1, 1]
        let window = Kernels.Window(
            channels: 1,
            samples: 1,
            height: 2,
            width: 2,
            kernel: layer.kernel,
            stride: layer.stride,
            padding: 0
        )
        kernels.maxPool(&y, &places, [3, 3, 3, 3], window)
        kernels.maxPoolBackward(&dx, places, [5], window)
        #expect(dx == [5, 0, 0, 0])
    }
}
