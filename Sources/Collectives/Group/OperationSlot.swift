internal import Basics

/// Where the parts of one operation arrive; used again for every second operation.
///
/// Two of them stand side by side: a member may be one operation ahead.
final class OperationSlot {
    private let plan: GroupPlan
    private(set) var routes: ValueRoutes
    /// For each member, how many subtrees that others carry come before its first one.
    private var carriedBefore: [Int] = []
    private var carriedCount = 0
    /// The lanes of each member, in rising order.
    private let lanes: [[Int]]

    private(set) var operation: UInt64?
    private(set) var shape = OperationShape()
    var ledger: OperationLedger
    /// What other leaders give for the own segment.
    private var values = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    /// By member: what the own site's members give, whole arrays, where it does not stand in their memory.
    private var siteValues: [UnsafeMutableRawBufferPointer]
    /// By member and subtree: where that stands.
    private var siteBases: [[UnsafeRawPointer?]]
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
        lanes = plan.lanes.map(\.lanes)
        siteValues = lanes.map { _ in UnsafeMutableRawBufferPointer(start: nil, count: 0) }
        siteBases = plan.tree.subtrees.map { $0.map { _ in nil } }
        routes = plan.routes(of: shape)
        ledger = Self.ledger(plan, routes, shape)
        countCarried()
    }
    deinit {
        values.deallocate()
        siteValues.forEach { $0.deallocate() }
        ownStorage.deallocate()
    }

    private func countCarried() {
        (carriedBefore, carriedCount) = ([], 0)
        for rank in 0..<plan.memberCount {
            carriedBefore.append(carriedCount)
            if rank != plan.rank { carriedCount += routes.tree.subtrees[rank].count }
        }
    }

    private static func ledger(
        _ plan: GroupPlan,
        _ routes: ValueRoutes,
        _ shape: OperationShape
    ) -> OperationLedger {
        OperationLedger(
            rank: plan.rank,
            shape: shape,
            subtreeCounts: plan.tree.subtrees.map(\.count),
            leaders: routes.leaders,
            carriedCounts: routes.tree.subtrees.map(\.count),
            laneCounts: plan.lanes.map(\.count),
            owners: routes.owners,
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
            routes = plan.routes(of: shape)
            ledger = Self.ledger(plan, routes, shape)
            countCarried()
        }
        for rank in siteBases.indices {
            for position in siteBases[rank].indices { siteBases[rank][position] = nil }
        }
        fingerprint = ResultFingerprint()
        pieces.removeAll(keepingCapacity: true)
        ownRows = UnsafeBufferPointer(start: nil, count: 0)
        let mine = ledger.segmentation.valueCount(of: plan.rank) * shape.form.type.byteCount
        let needed = shape.form.combines ? carriedCount * mine : 0
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

    /// Where a contribution of the own site's member arrives, whosever piece it is.
    func sitePlace(of rank: Int, position: Int, start: Int) -> UnsafeMutableRawPointer? {
        let size = (shape.byteCount + 63) / 64 * 64
        let needed = size * siteBases[rank].count
        if siteValues[rank].count < needed {
            siteValues[rank].deallocate()
            siteValues[rank] = .allocate(byteCount: needed, alignment: 64)
        }
        let base = siteValues[rank].baseAddress.map { $0 + position * size }
        siteBases[rank][position] = UnsafeRawPointer(base)
        return base.map { $0 + start * shape.form.type.byteCount }
    }

    /// Notes that a contribution of the own site's member stands in its memory.
    ///
    /// - Returns: false when it was said to stand elsewhere before.
    func refer(_ rank: Int, position: Int, to base: UnsafeRawPointer) -> Bool {
        defer { siteBases[rank][position] = base }
        return siteBases[rank][position].map { $0 == base } ?? true
    }

    /// Where a contribution of the own site's member stands.
    func siteBase(of rank: Int, position: Int) -> UnsafeRawPointer? { siteBases[rank][position] }

    /// Where another member's contribution to a piece of the own segment arrives.
    func place(of rank: Int, position: Int, piece: Int) -> UnsafeMutableRawPointer? {
        let segmentation = ledger.segmentation
        let offset =
            (carriedBefore[rank] + position) * segmentation.valueCount(of: plan.rank)
            + segmentation.valuesBefore(piece, of: plan.rank)
        return values.baseAddress?.advanced(by: offset * shape.form.type.byteCount)
    }
}
