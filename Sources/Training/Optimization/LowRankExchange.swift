internal import Basics
internal import Tensors

/// Sends each matrix of the gradient as the product of two thin ones: PowerSGD, in two exact sums above another exchange.
///
/// For a matrix M `[m, n]`, this member's sum and what was left of earlier steps: P = M·Q is summed over the members and
/// made orthonormal, then Qᵀ = Pᵀ·M is summed; the step's gradient is P·Qᵀ, and M - P·(this member's Q)ᵀ is left. Q starts
/// the next step. Parameters that are no matrices, or too small, go along exactly in the first sum.
///
/// All members compute the same on the same bits; what each contributes depends on its lanes. A step is two operations of
/// the exchange below; when the first is committed and the second is not, the second alone is done again.
/// Source: Vogels et al. 2019, PowerSGD.
final class LowRankExchange: GradientExchange {
    /// A slice that is sent as two thin matrices.
    private struct Matrix {
        var offset: Int
        var rows: Int
        var columns: Int
        var count: Int { rows * columns }
    }

    private let base: any GradientExchange
    private let rank: Int
    private let seed: UInt64
    private let matrices: [Matrix]
    /// What goes along as it is.
    private let rest: [Range<Int>]
    /// `[N]`: what was left, what the step under way leaves, and the contribution.
    private var left: FloatArena
    private var pending: FloatArena
    private let input: FloatArena
    /// `[n, rank]` of each matrix, one after the other; the same on all members.
    private let q: FloatArena
    /// What is contributed, and what came back: P of each matrix and the rest.
    private let first: (given: FloatArena, sum: FloatArena)
    /// Q of each matrix.
    private let second: (given: FloatArena, sum: FloatArena)
    /// The lanes' values of a step whose first sum is committed, and the number of the operation that is to follow.
    private var pendingStep: (values: [Double], operation: UInt64)?
    private(set) var lastOperations: UInt64 = 1

    /// - Parameters:
    ///   - base: combines the lanes of a member.
    ///   - rank: columns of the thin matrices, at least 1.
    init(
        _ base: any GradientExchange,
        parameters: [ParameterSlice],
        parameterCount: Int,
        rank: Int,
        seed: UInt64
    ) {
        self.base = base
        self.rank = rank
        self.seed = seed
        var matrices: [Matrix] = []
        var rest: [Range<Int>] = []
        for slice in parameters {
            let rows = slice.shape.first ?? 1
            let matrix = Matrix(offset: slice.offset, rows: rows, columns: slice.count / max(1, rows))
            if slice.shape.count > 1, rank * (matrix.rows + matrix.columns) < matrix.count {
                matrices.append(matrix)
            } else {
                rest.append(slice.offset..<slice.offset + slice.count)
            }
        }
        self.matrices = matrices
        self.rest = rest
        let (rows, columns) = matrices.reduce((0, 0)) { ($0.0 + $1.rows, $0.1 + $1.columns) }
        let others = rest.reduce(0) { $0 + $1.count }
        (left, pending) = (FloatArena(count: parameterCount), FloatArena(count: parameterCount))
        input = FloatArena(count: parameterCount)
        q = FloatArena(count: columns * rank)
        first = (FloatArena(count: rows * rank + others), FloatArena(count: rows * rank + others))
        second = (FloatArena(count: columns * rank), FloatArena(count: columns * rank))
    }

    var lanes: LaneSet { base.lanes }
    var wantsState: Bool { base.wantsState }
    var bytesSent: Int { base.bytesSent }
    func take(state: StateCopy) throws { try base.take(state: state) }
    func takeState(waits: Bool) throws -> CheckpointState? { try base.takeState(waits: waits) }
    func didCatchUp() { base.didCatchUp() }
    func hasMoved(lane: Int) -> Bool { base.hasMoved(lane: lane) }
    func moveOn() throws { try base.moveOn() }

    // MARK: What a checkpoint holds

    /// Operations that are committed beyond the loop's count, with the values of their lanes.
    var pendingValues: [Double]? { pendingStep?.values }

    /// What all members hold alike.
    var tensors: [SafeTensors.Tensor] {
        var tensors = [SafeTensors.Tensor(name: "powersgd.q", shape: [q.count], floats: q.buffer)]
        if pendingStep != nil {
            tensors.append(
                SafeTensors.Tensor(name: "powersgd.sum", shape: [first.sum.count], floats: first.sum.buffer)
            )
        }
        return tensors
    }

    /// Goes on where a checkpoint was made.
    ///
    /// - Parameters:
    ///   - values: of a step whose first sum is committed.
    ///   - operation: the next one.
    func restore(from file: SafeTensors, values: [Double]?, operation: UInt64) throws {
        try file.copyFloats("powersgd.q", shape: [q.count], into: q.mutableBuffer)
        guard let values else { return }
        try file.copyFloats("powersgd.sum", shape: [first.sum.count], into: first.sum.mutableBuffer)
        pendingStep = (values, operation)
    }

    // MARK: A step

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        lastOperations = 1
        guard let target = sum.baseAddress, !sum.isEmpty else {
            return try base.exchange(
                operation: operation,
                contributions: contributions,
                laneValues: &laneValues,
                sum: sum,
                settles: settles
            )
        }
        _ = input.mutableBuffer.update(fromContentsOf: left.buffer)
        for part in contributions {
            guard let values = part.values.baseAddress else { continue }
            for index in 0..<input.count { input.pointer[index] += values[index] }
        }
        let whole = contributions.first?.subtree ?? LaneSubtree(start: 0, level: 0)
        func add(
            _ given: FloatArena,
            _ operation: UInt64,
            _ values: inout [Double],
            into sum: FloatArena
        ) throws
            -> ExchangeOutcome
        {
            try base.exchange(
                operation: operation,
                contributions: [Contribution(subtree: whole, values: given.buffer)],
                laneValues: &values,
                sum: sum.mutableBuffer,
                settles: settles
            )
        }
        if settles, pendingStep == nil {
            let outcome = try base.exchange(
                operation: operation,
                contributions: [Contribution(subtree: whole, values: input.buffer)],
                laneValues: &laneValues,
                sum: sum,
                settles: true
            )
            if outcome == .committed { left.clear() }
            return outcome
        }
        if pendingStep == nil {
            project()
            guard try add(first.given, operation, &laneValues, into: first.sum) == .committed else {
                return .retry
            }
            // Once, whoever tries the second sum how often: a second time would change bits.
            orthonormalise()
            pendingStep = (laneValues, operation + 1)
        }
        guard let pendingStep else { return .retry }
        projectBack()
        var none: [Double] = []
        guard try add(second.given, pendingStep.operation, &none, into: second.sum) == .committed else {
            return .retry
        }
        apply(target)
        laneValues = pendingStep.values
        lastOperations = pendingStep.operation + 1 - operation
        self.pendingStep = nil
        return .committed
    }

    /// P = M·Q of each matrix, and the rest.
    private func project() {
        var (at, from) = (0, 0)
        for (index, matrix) in matrices.enumerated() {
            wake(index, at: from, matrix)
            BLAS.multiply(
                matrix.rows,
                rank,
                matrix.columns,
                input.pointer + matrix.offset,
                .plain,
                lda: matrix.columns,
                q.pointer + from,
                .plain,
                ldb: rank,
                first.given.pointer + at,
                ldc: rank
            )
            at += matrix.rows * rank
            from += matrix.columns * rank
        }
        for range in rest {
            (first.given.pointer + at).update(from: input.pointer + range.lowerBound, count: range.count)
            at += range.count
        }
    }

    /// Draws the columns of a Q anew that are 0: at the start, and where a gradient had nothing along them.
    private func wake(_ index: Int, at start: Int, _ matrix: Matrix) {
        let random = RandomSource(seed: seed)
        for column in 0..<rank {
            let rows = 0..<matrix.columns
            guard rows.allSatisfy({ q.pointer[start + $0 * rank + column] == 0 }) else { continue }
            for row in rows {
                let four = random.block(
                    .initialization,
                    layer: 1_000_000 + index,
                    position: row * rank + column
                )
                q.pointer[start + row * rank + column] = 2 * RandomSource.unit(four[0]) - 1
            }
        }
    }

    /// Makes the columns of each summed P orthonormal, in double precision, one after the other; too short ones become 0.
    private func orthonormalise() {
        var at = 0
        for matrix in matrices {
            let p = first.sum.pointer + at
            func dot(_ a: Int, _ b: Int) -> Double {
                (0..<matrix.rows).reduce(0.0) { $0 + Double(p[$1 * rank + a]) * Double(p[$1 * rank + b]) }
            }
            for column in 0..<rank {
                let before = dot(column, column)
                // Twice is enough (Kahan): what rounding left of the others goes, too.
                for _ in 0..<2 {
                    for other in 0..<column {
                        let share = dot(other, column)
                        for row in 0..<matrix.rows {
                            let value = Double(p[row * rank + column]) - share * Double(p[row * rank + other])
                            p[row * rank + column] = Float(value)
                        }
                    }
                }
                let square = dot(column, column)
                let isShort = !(square > before * 1e-12) || square < 1e-60
                let norm = square.squareRoot()
                for row in 0..<matrix.rows {
                    p[row * rank + column] = isShort ? 0 : Float(Double(p[row * rank + column]) / norm)
                }
            }
            at += matrix.rows * rank
        }
    }

    /// Q = Mᵀ·P of each matrix, with the common P.
    private func projectBack() {
        var (at, from) = (0, 0)
        for matrix in matrices {
            BLAS.multiply(
                matrix.columns,
                rank,
                matrix.rows,
                input.pointer + matrix.offset,
                .transposed,
                lda: matrix.columns,
                first.sum.pointer + at,
                .plain,
                ldb: rank,
                second.given.pointer + from,
                ldc: rank
            )
            at += matrix.rows * rank
            from += matrix.columns * rank
        }
    }

    /// The gradient from the two sums; what this member's part of it lacks is left.
    private func apply(_ target: UnsafeMutablePointer<Float>) {
        pending.clear()
        target.update(repeating: 0, count: input.count)
        var (at, from) = (0, 0)
        for matrix in matrices {
            multiply(matrix, first.sum.pointer + at, second.sum.pointer + from, into: target)
            multiply(matrix, first.sum.pointer + at, second.given.pointer + from, into: pending.pointer)
            for index in matrix.offset..<matrix.offset + matrix.count {
                pending.pointer[index] = input.pointer[index] - pending.pointer[index]
            }
            at += matrix.rows * rank
            from += matrix.columns * rank
        }
        for range in rest {
            (target + range.lowerBound).update(from: first.sum.pointer + at, count: range.count)
            at += range.count
        }
        swap(&left, &pending)
        _ = q.mutableBuffer.update(fromContentsOf: second.sum.buffer)
    }

    private func multiply(
        _ matrix: Matrix,
        _ p: UnsafePointer<Float>,
        _ q: UnsafePointer<Float>,
        into target: UnsafeMutablePointer<Float>
    ) {
        BLAS.multiply(
            matrix.rows,
            matrix.columns,
            rank,
            p,
            .plain,
            lda: rank,
            q,
            .transposed,
            ldb: rank,
            target + matrix.offset,
            ldc: matrix.columns
        )
    }

    /// What earlier steps left, `[N]`; for tests.
    var leftValues: UnsafeBufferPointer<Float> { left.buffer }
}
