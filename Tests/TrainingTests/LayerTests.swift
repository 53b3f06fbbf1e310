import Basics
import Tensors
import Testing

@testable import Training

/// Layers against central differences of their own forward pass, and what PyTorch's numbers don't show.
@Suite struct LayerTests {
    private func numbers(_ count: Int, seed: UInt64) -> [Float] {
        let random = RandomSource(seed: seed)
        return (0..<count).map { RandomSource.unit(random.block(.augmentation, position: $0)[0]) * 2 - 1 }
    }

    private func slice(_ name: String, _ shape: [Int], at offset: Int) -> ParameterSlice {
        ParameterSlice(name: name, shape: shape, offset: offset, start: .constant(0))
    }

    /// Layers that follow a smooth function, with the numbers of one input sample.
    private var smooth: [(String, any Layer, Int)] {
        let planes = SampleShape.planes(channels: 4, height: 3, width: 5)
        let tokens = SampleShape.tokens(length: 5, features: 8)
        let four = (slice("weight", [4], at: 0), slice("bias", [4], at: 16))
        let eight = (slice("weight", [8], at: 0), slice("bias", [8], at: 16))
        var layers: [(String, any Layer, Int)] = [
            (
                "batch-norm",
                BatchNorm(
                    channels: 4,
                    height: 3,
                    width: 5,
                    weight: four.0,
                    bias: four.1,
                    mean: slice("mean", [4], at: 32),
                    variance: slice("variance", [4], at: 48)
                ),
                60
            ),
            (
                "group-norm",
                GroupNorm(channels: 4, height: 3, width: 5, groups: 2, weight: four.0, bias: four.1), 60
            ),
            ("layer-norm", RowNorm(output: tokens, features: 8, weight: eight.0, bias: eight.1), 40),
            ("RMS-norm", RowNorm(output: tokens, features: 8, weight: eight.0, bias: nil), 40),
            ("average pool", AveragePool(channels: 4, height: 3, width: 5, kernel: 2, stride: 1), 60),
            ("global pool", GlobalAveragePool(channels: 4, pixels: 15), 60),
            ("token mean", TokenMean(length: 5, features: 8), 40),
            ("tokens", PlanesToTokens(channels: 4, pixels: 15), 60),
            ("attention", Attention(length: 5, features: 8, heads: 2, isCausal: false, rotary: nil), 120),
            (
                "causal rotary attention",
                Attention(
                    length: 5,
                    features: 8,
                    heads: 2,
                    isCausal: true,
                    rotary: Rotary(length: 5, size: 4)
                ),
                120
            ),
            (
                "grouped, dilated convolution",
                Convolution(
                    channels: 4,
                    height: 6,
                    width: 7,
                    filters: 6,
                    kernel: 3,
                    stride: 2,
                    padding: 2,
                    dilation: 2,
                    groups: 2,
                    weight: slice("weight", [6, 2, 3, 3], at: 0),
                    bias: nil
                ),
                168
            ),
            (
                "dense over tokens",
                Dense(
                    inputs: 8,
                    outputs: 3,
                    weight: slice("weight", [3, 8], at: 0),
                    bias: slice("bias", [3], at: 32),
                    length: 5
                ),
                40
            ),
        ]
        for kind in ActivationKind.allCases where kind != .relu6 {
            layers.append((kind.rawValue, Activation(output: planes, kind: kind), 60))
        }
        return layers
    }

    /// Runs a layer on copies; returns `y`, and after backward `dx` and the gradients.
    private func run(
        _ layer: any Layer,
        _ x: [Float],
        _ weights: [Float],
        _ dy: [Float],
        batch: Int
    ) throws -> (y: [Float], dx: [Float], gradients: [Float]) {
        try BLAS.pinToOneThread()
        let arenas = [x.count, weights.count, dy.count, x.count, weights.count].map { FloatArena(count: $0) }
        let y = FloatArena(count: dy.count)
        for (arena, values) in zip(arenas, [x, weights, dy]) {
            _ = arena.mutableBuffer.update(fromContentsOf: values)
        }
        let places = UnsafeMutablePointer<UInt8>.allocate(capacity: batch * layer.placesPerSample + 1)
        defer { places.deallocate() }
        let scratch = FloatArena(count: layer.scratchCount(samples: 32, threads: 1))
        let saved = FloatArena(count: layer.savedCount(samples: batch))
        let pass = LayerPass(
            kernels: try Kernels(Made.kernels),
            count: batch,
            weights: arenas[1].pointer,
            scratch: scratch.pointer,
            places: places,
            saved: saved.pointer,
            training: TrainingPass(
                gradients: arenas[4].pointer,
                random: RandomSource(seed: 3),
                step: 7,
                position: 0
            )
        )
        layer.forward(arenas[0].pointer, y.pointer, pass)
        let way = Backward(
            x: arenas[0].pointer,
            y: y.pointer,
            dy: arenas[2].pointer,
            dx: arenas[3].pointer,
            gradients: arenas[4].pointer
        )
        layer.backward(way, pass)
        return withExtendedLifetime((arenas, y, scratch, saved)) {
            (Array(y.buffer), Array(arenas[3].buffer), Array(arenas[4].buffer))
        }
    }

    @Test func gradientsAreTheSlopesOfTheForwardPass() throws {
        let batch = 3
        for (name, layer, size) in smooth {
            let x = numbers(batch * size, seed: 1)
            let end = layer.parameters.map { $0.offset + $0.count }.max() ?? 1
            let weights = numbers(end, seed: 2)
            let dy = numbers(batch * layer.output.count, seed: 3)
            let found = try run(layer, x, weights, dy, batch: batch)
            func cost(_ x: [Float], _ weights: [Float]) throws -> Double {
                try zip(run(layer, x, weights, dy, batch: batch).y, dy).reduce(0) {
                    $0 + Double($1.0) * Double($1.1)
                }
            }
            // Single precision forward: a wide step, and a tolerance for its curvature.
            let step: Float = 0.01
            for i in stride(from: 0, to: x.count, by: 7) {
                var (above, below) = (x, x)
                above[i] += step
                below[i] -= step
                let slope = try (cost(above, weights) - cost(below, weights)) / Double(above[i] - below[i])
                #expect(
                    abs(slope - Double(found.dx[i])) < 3e-3 * max(1, abs(slope)),
                    "\(name): dx[\(i)] \(found.dx[i]), slope \(slope)"
                )
            }
            for slice in layer.parameters where !["mean", "variance"].contains(slice.name) {
                for i in stride(from: slice.offset, to: slice.offset + slice.count, by: 3) {
                    var (above, below) = (weights, weights)
                    above[i] += step
                    below[i] -= step
                    let slope = try (cost(x, above) - cost(x, below)) / Double(above[i] - below[i])
                    #expect(
                        abs(slope - Double(found.gradients[i])) < 3e-3 * max(1, abs(slope)),
                        "\(name): \(slice.name)[\(i)] \(found.gradients[i]), slope \(slope)"
                    )
                }
            }
        }
    }

    @Test(arguments: [
        SampleShape.flat(1000), .planes(channels: 10, height: 10, width: 10),
        .tokens(length: 50, features: 20),
    ])
    func dropoutHangsOnTheSampleAndNotOnItsNeighbours(shape: SampleShape) throws {
        let layer = Dropout(output: shape, rate: 0.25, index: 2)
        let kernels = try Kernels(Made.kernels)
        let places = UnsafeMutablePointer<UInt8>.allocate(capacity: 4000)
        defer { places.deallocate() }
        func masked(_ count: Int, position: Int, step: Int = 7, trains: Bool = true) -> [Float] {
            let y = FloatArena(count: count * 1000)
            y.pointer.update(repeating: 1, count: y.count)
            let training = TrainingPass(
                gradients: y.pointer,
                random: RandomSource(seed: 3),
                step: step,
                position: position
            )
            let pass = LayerPass(
                kernels: kernels,
                count: count,
                weights: y.pointer,
                scratch: y.pointer,
                places: places,
                saved: y.pointer,
                training: trains ? training : nil
            )
            layer.forward(y.pointer, y.pointer, pass)
            // Sample by sample, whatever the layout.
            return withExtendedLifetime(y) {
                guard case .planes = shape else { return Array(y.buffer) }
                return (0..<count).flatMap { b in
                    (0..<10).flatMap { c in (0..<100).map { y.pointer[(c * count + b) * 100 + $0] } }
                }
            }
        }
        let four = masked(4, position: 8)
        #expect(Set(four) == [0, Float(1 / 0.75)])
        let kept = four.count { $0 != 0 }
        #expect(abs(kept - 3000) < 150)
        for i in 0..<4 { #expect(Array(four[(i * 1000)..<(i * 1000 + 1000)]) == masked(1, position: 8 + i)) }
        #expect(masked(4, position: 8, step: 8) != four)
        #expect(masked(2, position: 0, trains: false).allSatisfy { $0 == 1 })
    }

    @Test func everyLayerKernelGivesTheSameBitsInEverySet() throws {
        let x = numbers(640, seed: 4).map { $0 * 6 }
        let d = numbers(640, seed: 5)
        let labels = (0..<40).map { Int32($0 * 3 % 16) }
        var first: [UInt32]?
        for set in KernelSet.allCases {
            guard let best = Machine.kernels, set <= best else { continue }
            let k = try Kernels(set)
            var all: [Float] = []
            FloatMode.withDeterministicMode {
                var (y, dx) = (x, x)
                for kind in ActivationKind.allCases {
                    k.activate(&y, x, kind, 640)
                    k.activateBackward(&dx, d, x, kind, 640)
                    all += y + dx
                }
                k.scaleAndShift(&y, x, by: 0.3, plus: 0.7, 640)
                k.combine(&dx, d, x, 0.1, 0.2, 0.3, 640)
                let sums = k.pairSums(d, x, 633)
                all += y + dx + [Float(sums.sum), Float(sums.product)]
                var (saved, dw, db) = ([Float](repeating: 0, count: 80), x, x)
                for bias in [true, false] {
                    d.withUnsafeBufferPointer { d in
                        k.normalizeRows(
                            &y,
                            saved: &saved,
                            x,
                            weight: x,
                            bias: bias ? d.baseAddress : nil,
                            rows: 40,
                            columns: 16,
                            epsilon: 1e-5
                        )
                    }
                    k.normalizeRowsBackward(
                        &dx,
                        weight: &dw,
                        bias: &db,
                        d,
                        x,
                        saved: saved,
                        weight: x,
                        rows: 40,
                        columns: 16
                    )
                    all += y + dx + saved + dw + db
                }
                y = x
                dx = d
                k.attend(&y, rows: 32, columns: 16, scale: 0.5, isCausal: true)
                k.attendBackward(&dx, y, rows: 32, columns: 16, scale: 0.5)
                all += y + dx
                for kind in [
                    LossKind.crossEntropy(smoothing: 0.1), .focal(gamma: 1.5), .meanSquares, .binary,
                ] {
                    let loss = k.loss(kind, &dx, x, labels, classWeights: nil, rows: 40, classes: 16)
                    all += dx + [Float(loss.loss), Float(loss.correct)]
                }
            }
            let bits = all.map(\.bitPattern)
            #expect(first == nil || bits == first, "\(set.rawValue)")
            first = bits
        }
    }

    @Test func aNumberThatIsNoneStaysOneThroughEveryActivation() throws {
        let k = try Kernels(Made.kernels)
        for kind in ActivationKind.allCases {
            var y: [Float] = [0, 0]
            k.activate(&y, [.nan, 1], kind, 2)
            #expect(y[0].isNaN && y[1].isFinite, "\(kind)")
        }
    }
}
