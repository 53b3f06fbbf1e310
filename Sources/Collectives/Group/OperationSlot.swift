internal import Basics

/// Where the parts of one operation arrive; used again for every second operation.
///
/// Two of them stand side by side: a member may be one operation ahead.
final class OperationSlot {
    private let plan: GroupPlan
    /// For each member, how many foreign subtrees come before its first one.
    private let foreignBefore: [Int]
    private let foreignCount: Int
    /// The lanes of each member, in rising order.
    private let lanes: [[Int]]

    private(set) var operation: UInt64?
    private(set) var shape = OperationShape()
    var ledger: OperationLedger
    private var values = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    /// `[laneCount × W]`: the rows that came, and the own ones.
    private(set) var rows: [Double] = []
    private var ownStorage = UnsafeMutableBufferPointer<Double>(start: nil, count: 0)
    /// The own rows, packed, as they are sent.
    private(set) var ownRows = UnsafeBufferPointer<Double>(start: nil, count: 0)
    /// Of the result, as far as it stands here.
    private(set) var fingerprint = ResultFingerprint()
    /// Of each piece of the own segment that stands.
    private(set) var pieces: [ResultFingerprint] = []

    init(plan: GroupPlan) {
        self.plan = plan
        var before = [Int](), count = 0
        for rank in 0..<plan.memberCount {
            before.append(count)
            if rank != plan.rank { count += plan.tree.subtrees[rank].count }
        }
        foreignBefore = before
        foreignCount = count
        lanes = plan.lanes.map(\.lanes)
        ledger = Self.ledger(plan, OperationShape())
    }
    deinit {
        values.deallocate()
        ownStorage.deallocate()
    }

    private static func ledger(_ plan: GroupPlan, _ shape: OperationShape) -> OperationLedger {
        OperationLedger(
            rank: plan.rank,
            shape: shape,
            subtreeCounts: plan.tree.subtrees.map(\.count),
            laneCounts: plan.lanes.map(\.count),
            owners: plan.owners,
            buckets: plan.buckets(of: shape)
        )
    }

    /// Makes place for an operation.
    func begin(_ operation: UInt64, _ shape: OperationShape) {
        self.operation = operation
        if shape == self.shape {
            ledger.reset()
        } else {
            self.shape = shape
            ledger = Self.ledger(plan, shape)
        }
        fingerprint = ResultFingerprint()
        pieces.removeAll(keepingCapacity: true)
        ownRows = UnsafeBufferPointer(start: nil, count: 0)
        let mine = ledger.segmentation.valueCount(of: plan.rank) * shape.form.type.byteCount
        let needed = shape.form.combines ? foreignCount * mine : 0
        if values.count < needed {
            values.deallocate()
            values = .allocate(byteCount: needed, alignment: 64)
        }
        let rowCount = plan.laneCount * shape.width
        if rows.count != rowCount { rows = Array(repeating: 0, count: rowCount) }
    }

    /// Notes the next piece of the own segment.
    func summed(_ piece: ResultFingerprint) {
        ledger.summed()
        fingerprint.add(piece)
        pieces.append(piece)
    }

    /// Notes a piece of another member's segment.
    func took(_ piece: ResultFingerprint) { fingerprint.add(piece) }

    /// Forgets the operation, keeps the memory.
    func end() { operation = nil }

    /// Takes over the caller's own rows.
    func takeOwnRows(_ source: UnsafeMutableBufferPointer<Double>) {
        let lanes = lanes[plan.rank]
        let width = shape.width
        if ownStorage.count < lanes.count * width {
            ownStorage.deallocate()
            ownStorage = .allocate(capacity: lanes.count * width)
        }
        for (index, lane) in lanes.enumerated() {
            for column in 0..<width {
                let value = source[lane * width + column]
                rows[lane * width + column] = value
                ownStorage.initializeElement(at: index * width + column, to: value)
            }
        }
        ownRows = UnsafeBufferPointer(rebasing: ownStorage[..<(lanes.count * width)])
    }

    /// Sorts in rows of another member, the packed doubles from `start` on.
    func takeRows(of rank: Int, start: Int, _ bytes: UnsafeRawBufferPointer) {
        let width = shape.width
        guard width > 0 else { return }
        let lanes = lanes[rank]
        for index in 0..<(bytes.count / 8) {
            let bits = bytes.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
            let (row, column) = (start + index).quotientAndRemainder(dividingBy: width)
            rows[lanes[row] * width + column] = Double(bitPattern: UInt64(littleEndian: bits))
        }
    }

    /// Where another member's contribution to a piece of the own segment arrives.
    func place(of rank: Int, position: Int, piece: Int) -> UnsafeMutableRawPointer? {
        let segmentation = ledger.segmentation
        let offset =
            (foreignBefore[rank] + position) * segmentation.valueCount(of: plan.rank)
            + segmentation.valuesBefore(piece, of: plan.rank)
        return values.baseAddress?.advanced(by: offset * shape.form.type.byteCount)
    }
}
