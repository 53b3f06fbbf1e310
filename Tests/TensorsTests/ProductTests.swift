import Basics
import Testing

@testable import Tensors

/// Products against the chains that they are defined as, bit for bit.
@Suite struct ProductTests {
    private func rounded(_ x: Float) -> Float {
        let bits = x.bitPattern
        guard x == x else { return x }
        return Float(bitPattern: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) & 0xFFFF_0000)
    }

    @Test(arguments: [(1, 1, 1), (7, 5, 3), (17, 33, 31), (64, 70, 129), (8, 32, 16), (100, 96, 64)])
    func everySetGivesTheBitsOfTheChain(m: Int, n: Int, k: Int) throws {
        let a = numbers(m * k, seed: 1)
        let b = numbers(n * k, seed: 2)
        let before = numbers(m * n, seed: 3)
        for isATurned in [false, true] {
            for isBTurned in [false, true] {
                for beta in [Float(0), 1] {
                    func chain(_ i: Int, _ j: Int, rounds: Bool) -> Float {
                        var sum = beta == 1 ? before[i * n + j] : 0
                        for p in 0..<k {
                            let left = isATurned ? a[p * m + i] : a[i * k + p]
                            let right = isBTurned ? b[j * k + p] : b[p * n + j]
                            // Rounded, the product is exact: fused or not is the same.
                            sum.addProduct(rounds ? rounded(left) : left, rounds ? rounded(right) : right)
                        }
                        return sum
                    }
                    for (name, kernels) in try presentVariants {
                        // v2 has no fused multiply-add.
                        for rounds in [true, false] where rounds || kernels.set >= .v3 {
                            var c = before
                            var expected: [Float] = []
                            FloatMode.withDeterministicMode {
                                expected = (0..<(m * n)).map { chain($0 / n, $0 % n, rounds: rounds) }
                                kernels.multiply(
                                    m,
                                    n,
                                    k,
                                    a,
                                    isATurned ? .transposed : .plain,
                                    lda: isATurned ? m : k,
                                    b,
                                    isBTurned ? .transposed : .plain,
                                    ldb: isBTurned ? k : n,
                                    beta: beta,
                                    &c,
                                    ldc: n,
                                    rounds: rounds
                                )
                            }
                            #expect(
                                c.map(\.bitPattern) == expected.map(\.bitPattern),
                                "\(name), rounds: \(rounds)"
                            )
                        }
                    }
                }
            }
        }
    }

    @Test func whatIsNoNumberStaysSo() throws {
        for (name, kernels) in try presentVariants {
            for bad in [Float.nan, .infinity, Float(bitPattern: 0x7F80_0001)] {
                var c: [Float] = [0]
                kernels.multiply(
                    1,
                    1,
                    1,
                    [bad],
                    .plain,
                    lda: 1,
                    [2],
                    .plain,
                    ldb: 1,
                    &c,
                    ldc: 1,
                    rounds: true
                )
                #expect(bad.isNaN ? c[0].isNaN : c[0] == .infinity, "\(name): \(bad) became \(c[0])")
            }
        }
    }

    @Test(arguments: [(1, 5, 3), (4, 100, 33), (3, 37, 19), (8, 70, 6)])
    func fewRowsAreNearThePlainSumsAndKeepTheirBits(rows: Int, inputs: Int, outputs: Int) throws {
        let x = numbers(rows * inputs, seed: 1)
        let w = numbers(outputs * inputs, seed: 2)
        let dy = numbers(rows * outputs, seed: 3)
        var expected = [[Double]](repeating: [], count: 3)
        expected[0] = (0..<(rows * outputs)).map { at in
            (0..<inputs).reduce(0.0) {
                $0 + Double(x[at / outputs * inputs + $1]) * Double(w[at % outputs * inputs + $1])
            }
        }
        expected[1] = (0..<(outputs * inputs)).map { at in
            (0..<rows).reduce(0.0) {
                $0 + Double(dy[$1 * outputs + at / inputs]) * Double(x[$1 * inputs + at % inputs])
            }
        }
        expected[2] = (0..<(rows * inputs)).map { at in
            (0..<outputs).reduce(0.0) {
                $0 + Double(dy[at / inputs * outputs + $1]) * Double(w[$1 * inputs + at % inputs])
            }
        }
        var first: [UInt32]?
        for set in presentSets {
            let kernels = try Kernels(set)
            // Whole, and as two pieces of the outputs and of the columns.
            for cut in [0, 1, outputs / 2] {
                var y = [Float](repeating: .nan, count: rows * outputs)
                var dw = [Float](repeating: .nan, count: outputs * inputs)
                var dx = [Float](repeating: .nan, count: rows * inputs)
                y.withUnsafeMutableBufferPointer { y in
                    dw.withUnsafeMutableBufferPointer { dw in
                        dx.withUnsafeMutableBufferPointer { dx in
                            w.withUnsafeBufferPointer { w in
                                dy.withUnsafeBufferPointer { dy in
                                    guard let y = y.baseAddress, let dw = dw.baseAddress,
                                        let dx = dx.baseAddress, let w = w.baseAddress,
                                        let dy = dy.baseAddress
                                    else { return }
                                    for part in [0..<cut, cut..<outputs] where !part.isEmpty {
                                        let at = part.lowerBound
                                        kernels.fewRowsForward(
                                            y + at,
                                            ldy: outputs,
                                            x,
                                            w + at * inputs,
                                            rows: rows,
                                            inputs: inputs,
                                            outputs: part.count
                                        )
                                        kernels.fewRowsWeights(
                                            dw + at * inputs,
                                            dy + at,
                                            lddy: outputs,
                                            x,
                                            rows: rows,
                                            inputs: inputs,
                                            outputs: part.count
                                        )
                                    }
                                    for part in [0..<cut, cut..<inputs] where !part.isEmpty {
                                        kernels.fewRowsInputs(
                                            dx + part.lowerBound,
                                            lddx: inputs,
                                            dy,
                                            w + part.lowerBound,
                                            ldw: inputs,
                                            rows: rows,
                                            columns: part.count,
                                            outputs: outputs
                                        )
                                    }
                                }
                            }
                        }
                    }
                }
                for (found, wanted) in zip([y, dw, dx], expected) {
                    let far = zip(found, wanted).filter { !(abs(Double($0) - $1) <= 1e-4) }
                    #expect(far.isEmpty, "\(set.rawValue): \(far.prefix(3))")
                }
                // v2 has no fused multiply-add.
                guard set >= .v3 else { continue }
                let bits = (y + dw + dx).map(\.bitPattern)
                #expect(bits == first ?? bits, "\(set.rawValue), cut at \(cut)")
                first = first ?? bits
            }
        }
    }
}
