/// How N values are cut: into buckets, each bucket into one segment an owner, each segment into pieces that fit a frame.
///
/// The pieces of an owner are counted through all buckets, in the buckets' order.
struct Segmentation: Hashable, Sendable {
    /// Segments start at multiples of this, so that one cache line has one owner.
    static let alignmentBytes = 64
    /// A full piece: small enough that summing and both directions overlap in a 1 MB operation.
    static let pieceBytes = 65_536

    /// What one owner has of one bucket.
    private struct Cut: Hashable {
        var segment: Range<Int>
        /// Pieces and values of the owner in the buckets before.
        var firstPiece: Int
        var firstValue: Int
    }

    /// N.
    let elements: Int
    /// How many buckets there are, one at least.
    let bucketCount: Int
    /// For each member its place among the owners; nil for one that sums nothing.
    private let places: [Int?]
    /// By place, then by bucket; an empty one at the end says how much there is.
    private let cuts: [[Cut]]
    /// Values of a full piece.
    private let pieceElements: Int

    /// - Parameters:
    ///   - owners: for each member whether it owns a segment; one at least does.
    ///   - elementBytes: of one value.
    ///   - buckets: ranges that together are all values, in the order in which they are exchanged; each begins on a
    ///     multiple of ``alignmentBytes``. None = one.
    init(elements: Int, owners: [Bool], elementBytes: Int = 4, buckets: [Range<Int>] = []) {
        self.elements = elements
        var count = 0
        places = owners.map { owns in
            defer { count += owns ? 1 : 0 }
            return owns ? count : nil
        }
        precondition(count > 0, "nobody owns a segment")
        let alignment = Self.alignmentBytes / elementBytes
        let pieceElements = Self.pieceBytes / elementBytes
        let buckets = buckets.isEmpty ? [0..<elements] : buckets
        precondition(
            buckets.reduce(0) { $0 + $1.count } == elements,
            "buckets \(buckets) of \(elements) values"
        )
        cuts = (0..<count).map { place in
            var cuts: [Cut] = []
            var (piece, value) = (0, 0)
            for bucket in buckets {
                let share = (bucket.count + count - 1) / count
                let chunk = (share + alignment - 1) / alignment * alignment
                let start = min(bucket.lowerBound + place * chunk, bucket.upperBound)
                let segment = start..<min(start + chunk, bucket.upperBound)
                cuts.append(Cut(segment: segment, firstPiece: piece, firstValue: value))
                piece += (segment.count + pieceElements - 1) / pieceElements
                value += segment.count
            }
            return cuts + [Cut(segment: 0..<0, firstPiece: piece, firstValue: value)]
        }
        bucketCount = buckets.count
        self.pieceElements = pieceElements
    }

    /// P.
    var members: Int { places.count }

    /// The values that a member owns where there is one bucket; may be empty.
    func segment(of member: Int) -> Range<Int> {
        precondition(bucketCount == 1, "a member owns a segment of each of \(bucketCount) buckets")
        guard let place = places[member] else { return 0..<0 }
        return cuts[place][0].segment
    }
    /// How many values a member owns.
    func valueCount(of owner: Int) -> Int { places[owner].map { cuts[$0][bucketCount].firstValue } ?? 0 }

    /// The pieces of a member's segments.
    func pieceCount(of owner: Int) -> Int { pieceCount(of: owner, in: bucketCount) }

    /// The pieces of a member's segments in the first buckets.
    func pieceCount(of owner: Int, in buckets: Int) -> Int {
        places[owner].map { cuts[$0][buckets].firstPiece } ?? 0
    }

    /// The values of a piece.
    func piece(_ index: Int, of owner: Int) -> Range<Int> {
        guard let cut = cut(index, of: owner) else { return 0..<0 }
        let start = cut.segment.lowerBound + (index - cut.firstPiece) * pieceElements
        return start..<min(start + pieceElements, cut.segment.upperBound)
    }

    /// How many values of its owner come before a piece.
    func valuesBefore(_ index: Int, of owner: Int) -> Int {
        cut(index, of: owner).map { $0.firstValue + (index - $0.firstPiece) * pieceElements } ?? 0
    }

    /// All pieces, bucket by bucket, in each owner by owner.
    var sequence: [(owner: Int, piece: Int)] {
        (0..<bucketCount).flatMap { bucket in
            places.indices.flatMap { owner in
                let pieces = pieceCount(of: owner, in: bucket)..<pieceCount(of: owner, in: bucket + 1)
                return pieces.map { (owner, $0) }
            }
        }
    }

    /// How many of them are in the first buckets.
    func sequenceCount(in buckets: Int) -> Int { cuts.reduce(0) { $0 + $1[buckets].firstPiece } }

    /// The bucket's part in which a piece lies; an owner has a few of them.
    private func cut(_ index: Int, of owner: Int) -> Cut? {
        guard let place = places[owner] else { return nil }
        let cuts = cuts[place]
        var bucket = 0
        while bucket + 1 < bucketCount, cuts[bucket + 1].firstPiece <= index { bucket += 1 }
        return cuts[bucket]
    }
}
