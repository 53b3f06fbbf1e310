import Basics
import Testing

@testable import Tensors

/// The kernel sets that this CPU has, the plainest first.
let presentSets: [KernelSet] = KernelSet.allCases.filter { set in Machine.kernels.map { set <= $0 } ?? false }

/// Every set that this CPU has, and those that have instructions of their own also without them.
var presentVariants: [(name: String, kernels: Kernels)] {
    get throws {
        try presentSets.flatMap { set in
            let kernels = try Kernels(set)
            return [(set.rawValue, kernels), ("\(set.rawValue), plain", kernels.withoutExtensions)]
        }
    }
}

/// Numbers from a counter: about normal, some tiny, some zero.
func numbers(_ count: Int, seed: UInt64, scale: Float = 1) -> [Float] {
    let random = RandomSource(seed: seed)
    return (0..<count).map { i in
        let four = random.block(.augmentation, position: i)
        let value =
            (RandomSource.unit(four[0]) + RandomSource.unit(four[1]) + RandomSource.unit(four[2]) - 1.5) * 2
        return four[3] % 64 == 0 ? 0 : value * scale
    }
}

@Suite struct KernelsTests {
    /// Runs `body` with each set that this CPU has and expects the same bits.
    private func expectSameBits(_ what: String, _ body: (Kernels) -> [Float]) throws {
        var first: [UInt32]?
        for set in presentSets {
            let kernels = try Kernels(set)
            let bits = FloatMode.withDeterministicMode { body(kernels).map(\.bitPattern) }
            if let first {
                #expect(bits == first, "\(what): \(set.rawValue) differs from \(presentSets[0].rawValue)")
            } else {
                first = bits
            }
        }
    }

    @Test(arguments: [1, 15, 16, 17, 1000, 4099])
    func everyKernelGivesTheSameBitsInEverySet(n: Int) throws {
        let x = numbers(n, seed: 1, scale: 3)
        let g = numbers(n, seed: 2)
        let m = numbers(n, seed: 3)
        let v = numbers(n, seed: 4).map { abs($0) }
        try expectSameBits("add") { k in
            var y = x
            k.add(&y, g, n)
            k.scale(&y, by: 0.37, n)
            k.divide(&y, by: 7, n)
            k.relu(&y, n)
            k.reluBackward(&y, x, n)
            return y
        }
        try expectSameBits("moments") { k in
            let parts = k.moments(x, n)
            return [Float(parts.sum), Float(parts.squares), Float(k.sumOfSquares(g, n))]
        }
        try expectSameBits("normalize") { k in
            var y = x
            k.normalize(&y, x, mean: 0.13, deviation: 0.31, n)
            return y
        }
        try expectSameBits("sgd") { k in
            var (p, momentum) = (x, m)
            for isNesterov in [true, false] {
                k.sgd(&p, g, &momentum, rate: 0.1, momentum: 0.9, decay: 0.01, isNesterov: isNesterov, n)
            }
            return p + momentum
        }
        try expectSameBits("adamw") { k in
            var (p, first, second) = (x, m, v)
            k.adamW(
                &p,
                g,
                &first,
                &second,
                rate: 0.001,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                decay: 0.01,
                correction1: 0.1,
                correction2: 0.001,
                n
            )
            return p + first + second
        }
    }

    @Test(arguments: [2, 10, 16, 100])
    func softmaxAndCrossEntropyGiveTheSameBitsInEverySet(classes: Int) throws {
        let rows = 37
        let logits = numbers(rows * classes, seed: 5, scale: 8)
        let labels = (0..<rows).map { Int32($0 * 5 % classes) }
        try expectSameBits("cross-entropy") { k in
            var d = logits
            let result = k.crossEntropy(&d, logits, labels, rows: rows, classes: classes)
            var p = logits
            k.softmax(&p, rows: rows, classes: classes)
            return d + p + [Float(result.loss), Float(result.correct)]
        }
        // Against the textbook in double.
        let kernels = try Kernels(presentSets[0])
        var d = logits
        let result = kernels.crossEntropy(&d, logits, labels, rows: rows, classes: classes)
        var loss = 0.0
        for r in 0..<rows {
            let row = logits[(r * classes)..<((r + 1) * classes)].map(Double.init)
            let largest = row.max() ?? 0
            let e = row.map { Reference.exp($0 - largest) }
            let sum = e.reduce(0, +)
            loss += Reference.log(sum) - (row[Int(labels[r])] - largest)
            for j in 0..<classes {
                let expected = e[j] / sum - (j == Int(labels[r]) ? 1 : 0)
                #expect(abs(Double(d[r * classes + j]) - expected) < 4e-7)
            }
        }
        #expect(abs(result.loss - loss) < 1e-6 * loss)
    }

    @Test func imagesGiveTheSameBitsInEverySet() throws {
        for (kernel, stride, padding) in [(3, 1, 1), (5, 2, 2), (2, 2, 0), (1, 1, 0), (3, 2, 0)] {
            let (channels, samples, height, width) = (3, 4, 11, 9)
            let window = Kernels.Window(
                channels: channels,
                samples: samples,
                height: height,
                width: width,
                kernel: kernel,
                stride: stride,
                padding: padding
            )
            let x = numbers(channels * samples * height * width, seed: 6)
            let pixels = window.outHeight * window.outWidth
            let columnsCount = channels * kernel * kernel * 3 * pixels
            try expectSameBits("im2col") { k in
                var columns = [Float](repeating: 9, count: columnsCount)
                var dx = [Float](repeating: 0, count: x.count)
                k.imageToColumns(&columns, x, window, 1..<4)
                k.columnsToImage(&dx, columns, window, 1..<4)
                return columns + dx
            }
            // col2im is the transpose of im2col: <im2col(x), c> = <x, col2im(c)>.
            let kernels = try Kernels(presentSets[0])
            let c = numbers(columnsCount, seed: 7)
            var columns = c
            var dx = [Float](repeating: 0, count: x.count)
            kernels.imageToColumns(&columns, x, window, 1..<4)
            kernels.columnsToImage(&dx, c, window, 1..<4)
            let left = zip(columns, c).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
            let right = zip(x, dx).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
            #expect(abs(left - right) < 1e-4 * max(1, abs(left)), "kernel \(kernel) stride \(stride)")
            guard padding == 0 else { continue }
            try expectSameBits("maxpool") { k in
                var y = [Float](repeating: 0, count: channels * samples * pixels)
                var places = [UInt8](repeating: 0, count: y.count)
                var back = [Float](repeating: 5, count: x.count)
                k.maxPool(&y, &places, x, window)
                k.maxPoolBackward(&back, places, y, window)
                return y + back + places.map { Float($0) }
            }
        }
    }

    @Test func sumsOfRowsAndColumnsGiveTheSameBitsInEverySet() throws {
        let x = numbers(23 * 101, seed: 8)
        let bias = numbers(101, seed: 9)
        try expectSameBits("sums") { k in
            var rows = [Float](repeating: 0, count: 23)
            var columns = [Float](repeating: 0, count: 101)
            var y = x
            k.rowSums(&rows, x, rows: 23, columns: 101)
            k.columnSums(&columns, x, rows: 23, columns: 101)
            k.addBiasToRows(&y, bias, rows: 23, columns: 101)
            k.addBiasToPlanes(&y, bias, rows: 23, columns: 101)
            return rows + columns + y
        }
    }

    @Test(arguments: [1, 2, 4, 8, 32, 64])
    func theTreeSumIsTheSumAlongTheTree(count: Int) throws {
        let n = 1300
        let vectors = (0..<count).map { numbers(n, seed: UInt64(100 + $0)) }
        var level = vectors
        while level.count > 1 {
            level = stride(from: 0, to: level.count, by: 2).map { i in
                zip(level[i], level[i + 1]).map { $0 + $1 }
            }
        }
        let arena = FloatArena(count: n * count)
        for (i, vector) in vectors.enumerated() {
            for (j, value) in vector.enumerated() { arena.pointer[i * n + j] = value }
        }
        for set in presentSets {
            let result = FloatArena(count: n)
            let parts = (0..<count).map { UnsafePointer(arena.pointer + $0 * n) }
            let kernels = try Kernels(set)
            kernels.treeSum(result.pointer, parts, 0..<777)
            kernels.treeSum(result.pointer, parts, 777..<n)
            #expect(Array(result.buffer) == level[0])
        }
    }

    @Test func denormalsAreZeroInTheDeterministicModeOnly() throws {
        let kernels = try Kernels(presentSets[0])
        var x: [Float] = [1e-30]
        FloatMode.withDeterministicMode { kernels.scale(&x, by: 1e-10, 1) }
        #expect(x == [0])
        x = [1e-30]
        kernels.scale(&x, by: 1e-10, 1)
        #expect(x[0] > 0)
    }

    @Test func aSetThatTheCPULacksIsRefused() throws {
        guard let best = Machine.kernels, best < .v4 else { return }
        #expect(throws: TensorsError.self) { try Kernels(.v4) }
    }

    @Test func openBLASRunsOneThreadAndItsCoreIsChecked() throws {
        try BLAS.pinToOneThread()
        for set in KernelSet.allCases {
            #expect(BLAS.matches(coreName: set.openBLASCoreType, kernels: set))
            #expect(!BLAS.matches(coreName: "Zen", kernels: set))
            if set == BLAS.kernelsInForce {
                try BLAS.prepare(kernels: set)
            } else {
                let error = #expect(throws: TensorsError.self) { try BLAS.prepare(kernels: set) }
                #expect(error?.code == .kernelsDiffer)
            }
        }
    }

    @Test func aProductIsTheTextbooks() throws {
        try BLAS.pinToOneThread()
        let (m, n, k) = (7, 5, 9)
        let a = numbers(m * k, seed: 20)
        let b = numbers(k * n, seed: 21)
        var transposed = b
        for i in 0..<k { for j in 0..<n { transposed[j * k + i] = b[i * n + j] } }
        var c = [Float](repeating: 1, count: m * n)
        var d = c
        BLAS.multiply(m, n, k, a, .plain, lda: k, b, .plain, ldb: n, beta: 1, &c, ldc: n)
        BLAS.multiply(m, n, k, a, .plain, lda: k, transposed, .transposed, ldb: k, &d, ldc: n)
        for i in 0..<m {
            for j in 0..<n {
                let expected = (0..<k).reduce(0.0) { $0 + Double(a[i * k + $1]) * Double(b[$1 * n + j]) }
                #expect(abs(Double(c[i * n + j]) - 1 - expected) < 1e-5)
                #expect(abs(Double(d[i * n + j]) - expected) < 1e-5)
            }
        }
    }
}

/// Functions in double from their definitions, slow and plain.
enum Reference {
    static func exp(_ x: Double) -> Double {
        // exp(x) = exp(x / 1024)^1024
        let r = x / 1024
        var value = 1 + r + r * r / 2 + r * r * r / 6 + r * r * r * r / 24 + r * r * r * r * r / 120
        for _ in 0..<10 { value *= value }
        return value
    }

    static func log(_ x: Double) -> Double {
        // Newton on exp.
        var y = 0.0
        for _ in 0..<60 { y += 2 * (x - exp(y)) / (x + exp(y)) }
        return y
    }
}
