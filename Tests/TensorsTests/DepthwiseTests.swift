import Basics
import Testing

@testable import Tensors

/// Depthwise convolutions against the plain sum in double.
@Suite struct DepthwiseTests {
    struct Shape: Sendable, CustomTestStringConvertible {
        var channels: Int
        var samples: Int
        var height: Int
        var width: Int
        var kernel: Int
        var stride = 1
        var dilation = 1
        var testDescription: String {
            "\(channels)·\(samples)×\(height)×\(width), \(kernel) by \(stride), dilation \(dilation)"
        }
        func window(channels: Int) -> Kernels.Window {
            Kernels.Window(
                channels: channels,
                samples: samples,
                height: height,
                width: width,
                kernel: kernel,
                stride: stride,
                padding: dilation * (kernel / 2),
                dilation: dilation
            )
        }
        var inputs: Int { samples * height * width }
        var outputs: Int { samples * window(channels: 1).outHeight * window(channels: 1).outWidth }
        var taps: Int { kernel * kernel }
    }

    /// More images than a block holds, images larger than one, and down to a pixel.
    static let shapes = [
        Shape(channels: 3, samples: 2, height: 7, width: 9, kernel: 3),
        Shape(channels: 2, samples: 3, height: 1, width: 1, kernel: 3),
        Shape(channels: 2, samples: 5, height: 2, width: 2, kernel: 3, stride: 2),
        Shape(channels: 4, samples: 70, height: 8, width: 8, kernel: 3, stride: 2),
        Shape(channels: 3, samples: 2, height: 15, width: 17, kernel: 5, stride: 2, dilation: 2),
        Shape(channels: 2, samples: 1, height: 70, width: 80, kernel: 3),
        Shape(channels: 3, samples: 3, height: 14, width: 13, kernel: 3, stride: 3),
    ]

    struct Results {
        var y: [Float]
        var dx: [Float]
        var dw: [Float]
    }

    private func run(_ shape: Shape, _ kernels: Kernels, cut: Int) -> Results {
        let x = numbers(shape.channels * shape.inputs, seed: 1)
        let dy = numbers(shape.channels * shape.outputs, seed: 2)
        let filters = numbers(shape.channels * shape.taps, seed: 3)
        let bias = numbers(shape.channels, seed: 4)
        var results = Results(y: [], dx: [], dw: [])
        FloatMode.withDeterministicMode {
            for part in [0..<cut, cut..<shape.channels] where !part.isEmpty {
                let window = shape.window(channels: part.count)
                var scratch = [Float](repeating: .nan, count: window.depthwiseScratch)
                var y = [Float](repeating: .nan, count: part.count * shape.outputs)
                var dx = [Float](repeating: .nan, count: part.count * shape.inputs)
                var dw = [Float](repeating: .nan, count: part.count * shape.taps)
                let own = Array(x[(part.lowerBound * shape.inputs)..<(part.upperBound * shape.inputs)])
                let d = Array(dy[(part.lowerBound * shape.outputs)..<(part.upperBound * shape.outputs)])
                let w = Array(filters[(part.lowerBound * shape.taps)..<(part.upperBound * shape.taps)])
                kernels.depthwiseForward(&y, own, w, bias: Array(bias[part]), window, scratch: &scratch)
                kernels.depthwiseInputs(&dx, d, w, window, scratch: &scratch)
                kernels.depthwiseWeights(&dw, own, d, window, scratch: &scratch)
                results.y += y
                results.dx += dx
                results.dw += dw
            }
        }
        return results
    }

    private func plain(_ shape: Shape) -> (y: [Double], dx: [Double], dw: [Double]) {
        let x = numbers(shape.channels * shape.inputs, seed: 1).map(Double.init)
        let dy = numbers(shape.channels * shape.outputs, seed: 2).map(Double.init)
        let filters = numbers(shape.channels * shape.taps, seed: 3).map(Double.init)
        let bias = numbers(shape.channels, seed: 4).map(Double.init)
        let window = shape.window(channels: 1)
        var y = [Double](repeating: 0, count: dy.count)
        var dx = [Double](repeating: 0, count: x.count)
        var dw = [Double](repeating: 0, count: filters.count)
        for at in 0..<dy.count {
            let (plane, pixel) = at.quotientAndRemainder(dividingBy: window.outHeight * window.outWidth)
            let channel = plane / shape.samples
            y[at] = bias[channel]
            for tap in 0..<shape.taps {
                let row =
                    pixel / window.outWidth * shape.stride
                    + (tap / shape.kernel - shape.kernel / 2) * shape.dilation
                let column =
                    pixel % window.outWidth * shape.stride
                    + (tap % shape.kernel - shape.kernel / 2) * shape.dilation
                guard (0..<shape.height).contains(row), (0..<shape.width).contains(column) else { continue }
                let from = (plane * shape.height + row) * shape.width + column
                let weight = channel * shape.taps + tap
                y[at] += filters[weight] * x[from]
                dx[from] += filters[weight] * dy[at]
                dw[weight] += dy[at] * x[from]
            }
        }
        return (y, dx, dw)
    }

    @Test(arguments: shapes) func everySetIsNearThePlainSumWithTheSameBitsHoweverTheChannelsAreCut(
        shape: Shape
    ) throws {
        let expected = plain(shape)
        var first: [UInt32]?
        for set in presentSets {
            for cut in [0, 1] {
                let found = run(shape, try Kernels(set), cut: cut)
                for (what, values, wanted) in [
                    ("y", found.y, expected.y), ("dx", found.dx, expected.dx), ("dw", found.dw, expected.dw),
                ] {
                    let scale = wanted.map { abs($0) }.max() ?? 1
                    let far = zip(values, wanted).filter { !(abs(Double($0) - $1) <= 1e-5 * scale) }
                    #expect(
                        values.count == wanted.count && far.isEmpty,
                        "\(set.rawValue): \(what) \(far.prefix(3))"
                    )
                }
                // v2 has no fused multiply-add.
                guard set >= .v3 else { continue }
                let bits = (found.y + found.dx + found.dw).map(\.bitPattern)
                #expect(bits == first ?? bits, "\(set.rawValue), cut at \(cut)")
                first = first ?? bits
            }
        }
    }
}
