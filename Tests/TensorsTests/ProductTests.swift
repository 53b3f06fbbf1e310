import Basics
import Testing

@testable import Tensors

/// Products of rounded operands against the chain of additions that they are defined as, bit for bit.
@Suite struct ProductTests {
    private func rounded(_ x: Float) -> Float {
        let bits = x.bitPattern
        guard x == x else { return x }
        return Float(bitPattern: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) & 0xFFFF_0000)
    }

    /// Every set that this CPU has, and those that have instructions of their own also without them.
    private var all: [(String, Kernels)] {
        get throws {
            try presentSets.flatMap { set in
                let kernels = try Kernels(set)
                return [(set.rawValue, kernels), ("\(set.rawValue), plain", kernels.withoutExtensions)]
            }
        }
    }

    @Test(arguments: [(1, 1, 1), (7, 5, 3), (17, 33, 31), (64, 70, 129), (8, 32, 16), (100, 96, 64)])
    func everySetGivesTheBitsOfTheChain(m: Int, n: Int, k: Int) throws {
        let a = numbers(m * k, seed: 1)
        let b = numbers(n * k, seed: 2)
        let before = numbers(m * n, seed: 3)
        for isATurned in [false, true] {
            for isBTurned in [false, true] {
                for beta in [Float(0), 1] {
                    var expected = [Float](repeating: 0, count: m * n)
                    FloatMode.withDeterministicMode {
                        for i in 0..<m {
                            for j in 0..<n {
                                var sum = beta == 1 ? before[i * n + j] : 0
                                for p in 0..<k {
                                    let left = rounded(isATurned ? a[p * m + i] : a[i * k + p])
                                    sum += left * rounded(isBTurned ? b[j * k + p] : b[p * n + j])
                                }
                                expected[i * n + j] = sum
                            }
                        }
                    }
                    for (name, kernels) in try all {
                        var c = before
                        FloatMode.withDeterministicMode {
                            kernels.multiplyRounded(
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
                                ldc: n
                            )
                        }
                        #expect(c.map(\.bitPattern) == expected.map(\.bitPattern), "\(name)")
                    }
                }
            }
        }
    }

    @Test func whatIsNoNumberStaysSo() throws {
        for (name, kernels) in try all {
            for bad in [Float.nan, .infinity, Float(bitPattern: 0x7F80_0001)] {
                var c: [Float] = [0]
                kernels.multiplyRounded(1, 1, 1, [bad], .plain, lda: 1, [2], .plain, ldb: 1, &c, ldc: 1)
                #expect(bad.isNaN ? c[0].isNaN : c[0] == .infinity, "\(name): \(bad) became \(c[0])")
            }
        }
    }
}
