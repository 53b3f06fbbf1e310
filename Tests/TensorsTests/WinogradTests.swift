import Basics
import Testing

@testable import Tensors

/// Winograd's convolution against the plain sum in double, for shapes whose tiles reach over borders and blocks.
@Suite struct WinogradTests {
    struct Shape: Sendable, CustomTestStringConvertible {
        var channels: Int
        var filters: Int
        var samples: Int
        var height: Int
        var width: Int
        var testDescription: String { "\(channels)→\(filters), \(samples)×\(height)×\(width)" }
        var winograd: Kernels.Winograd {
            Kernels.Winograd(
                channels: channels,
                filters: filters,
                samples: samples,
                height: height,
                width: width
            )
        }
        var plane: Int { samples * height * width }
    }

    static let shapes = [
        Shape(channels: 3, filters: 5, samples: 2, height: 7, width: 9),
        Shape(channels: 20, filters: 18, samples: 3, height: 14, width: 14),
        Shape(channels: 8, filters: 16, samples: 5, height: 4, width: 4),
        Shape(channels: 33, filters: 8, samples: 1, height: 13, width: 66),
        Shape(channels: 5, filters: 9, samples: 3, height: 6, width: 31),
        Shape(channels: 17, filters: 33, samples: 9, height: 8, width: 8),
    ]

    /// What a convolution and its way back give: outputs, gradients of the inputs and of the filters.
    struct Results {
        var y: [Float]
        var dx: [Float]
        var dw: [Float]
    }

    /// Runs all three, cut into `cuts` pieces.
    private func run(_ shape: Shape, _ kernels: Kernels, rounds: Bool = false, cuts: Int) -> Results {
        let forward = shape.winograd
        let x = numbers(shape.channels * shape.plane, seed: 1)
        let dy = numbers(shape.filters * shape.plane, seed: 2)
        let w = numbers(9 * shape.channels * shape.filters, seed: 3)
        let bias = numbers(shape.filters, seed: 4)
        var results = Results(
            y: [Float](repeating: .nan, count: dy.count),
            dx: [Float](repeating: .nan, count: x.count),
            dw: [Float](repeating: .nan, count: w.count)
        )
        func pieces(_ count: Int) -> [Range<Int>] {
            (0..<cuts).map { $0 * count / cuts..<($0 + 1) * count / cuts }
        }
        func convolve(_ from: [Float], _ into: inout [Float], isTurned: Bool) {
            let own = isTurned ? forward.turned : forward
            var u = [Float](repeating: .nan, count: own.filterCount)
            var scratch = [Float](repeating: .nan, count: own.forwardScratch)
            for rows in pieces(own.rowBlocks) {
                kernels.winogradFilters(&u, w, own, isTurned: isTurned, rounds: rounds, rows)
            }
            for blocks in pieces(own.blocks) {
                for rows in pieces(own.rowBlocks) {
                    bias.withUnsafeBufferPointer {
                        kernels.winogradForward(
                            &into,
                            from,
                            u,
                            bias: isTurned ? nil : $0.baseAddress,
                            own,
                            rounds: rounds,
                            blocks,
                            rows: rows,
                            scratch: &scratch
                        )
                    }
                }
            }
        }
        FloatMode.withDeterministicMode {
            convolve(x, &results.y, isTurned: false)
            convolve(dy, &results.dx, isTurned: true)
            for blocks in pieces(forward.filterBlocks) {
                var scratch = [Float](repeating: .nan, count: forward.weightsScratch(blocks.count))
                kernels.winogradWeights(
                    &results.dw,
                    x,
                    dy,
                    forward,
                    rounds: rounds,
                    blocks,
                    scratch: &scratch
                )
            }
        }
        return results
    }

    /// The same by its definition.
    private func plain(_ shape: Shape) -> (y: [Double], dx: [Double], dw: [Double]) {
        let x = numbers(shape.channels * shape.plane, seed: 1).map(Double.init)
        let dy = numbers(shape.filters * shape.plane, seed: 2).map(Double.init)
        let w = numbers(9 * shape.channels * shape.filters, seed: 3).map(Double.init)
        let bias = numbers(shape.filters, seed: 4).map(Double.init)
        var y = [Double](repeating: 0, count: dy.count)
        var dx = [Double](repeating: 0, count: x.count)
        var dw = [Double](repeating: 0, count: w.count)
        for f in 0..<shape.filters {
            for at in 0..<shape.plane {
                let (row, column) = (at / shape.width % shape.height, at % shape.width)
                y[f * shape.plane + at] += bias[f]
                for tap in 0..<9 {
                    let (i, j) = (row + tap / 3 - 1, column + tap % 3 - 1)
                    guard (0..<shape.height).contains(i), (0..<shape.width).contains(j) else { continue }
                    let from = at + (tap / 3 - 1) * shape.width + tap % 3 - 1
                    for c in 0..<shape.channels {
                        let weight = (f * shape.channels + c) * 9 + tap
                        y[f * shape.plane + at] += w[weight] * x[c * shape.plane + from]
                        dx[c * shape.plane + from] += w[weight] * dy[f * shape.plane + at]
                        dw[weight] += dy[f * shape.plane + at] * x[c * shape.plane + from]
                    }
                }
            }
        }
        return (y, dx, dw)
    }

    @Test(arguments: shapes) func everySetIsNearThePlainSum(shape: Shape) throws {
        let expected = plain(shape)
        for set in presentSets {
            let found = run(shape, try Kernels(set), cuts: 1)
            for (what, values, wanted) in [
                ("y", found.y, expected.y), ("dx", found.dx, expected.dx), ("dw", found.dw, expected.dw),
            ] {
                let scale = wanted.map { abs($0) }.max() ?? 1
                // Not max() of the differences: it would drop a NaN.
                let far = zip(values, wanted).filter { !(abs(Double($0) - $1) <= 3e-5 * scale) }
                #expect(far.isEmpty, "\(set.rawValue): \(far.count) of \(what), first \(far.prefix(3))")
            }
        }
    }

    /// With the points 3/4 and 3/2 the rounding leaves 1 to 1.5 % of the norm; with 1 and 2 it would be twice that.
    @Test(arguments: shapes) func roundedItIsNearThePlainSumWithTheSameBitsInEverySetHoweverCut(
        shape: Shape
    ) throws {
        let expected = plain(shape)
        var first: [UInt32]?
        for (name, kernels) in try presentVariants {
            for cuts in 1...3 {
                let found = run(shape, kernels, rounds: true, cuts: cuts)
                let bits = (found.y + found.dx + found.dw).map(\.bitPattern)
                #expect(bits == first ?? bits, "\(name) in \(cuts) pieces differs")
                first = first ?? bits
                for (what, values, wanted) in [
                    ("y", found.y, expected.y), ("dx", found.dx, expected.dx), ("dw", found.dw, expected.dw),
                ] {
                    let square = wanted.reduce(0) { $0 + $1 * $1 }
                    let off = zip(values, wanted).reduce(0) {
                        $0 + (Double($1.0) - $1.1) * (Double($1.0) - $1.1)
                    }
                    let part = (off / square).squareRoot()
                    #expect(part < 0.018 && part > 1e-4, "\(name): \(part) of \(what)")
                }
            }
        }
    }

    @Test(arguments: shapes) func theSetsWithFusedMultiplyAddGiveTheSameBitsHoweverTheWorkIsCut(
        shape: Shape
    ) throws {
        var first: [UInt32]?
        for set in presentSets where set >= .v3 {
            for cuts in 1...3 {
                let found = run(shape, try Kernels(set), cuts: cuts)
                let bits = (found.y + found.dx + found.dw).map(\.bitPattern)
                #expect(bits == first ?? bits, "\(set.rawValue) in \(cuts) pieces differs")
                first = first ?? bits
            }
        }
    }
}
