/// How N values are cut: one segment an owner, each segment into pieces that fit a frame.
struct Segmentation: Hashable, Sendable {
    /// Segments start at multiples of this, so that one cache line has one owner.
    static let alignmentBytes = 64
    /// A full piece: small enough that summing and both directions overlap in a 1 MB operation.
    static let pieceBytes = 65_536

    /// N.
    let elements: Int
    /// For each member its place among the owners; nil for one that sums nothing.
    private let places: [Int?]
    private let chunk: Int
    /// Values of a full piece.
    private let pieceElements: Int

    /// - Parameters:
    ///   - owners: for each member whether it owns a segment; one at least does.
    ///   - elementBytes: of one value.
    init(elements: Int, owners: [Bool], elementBytes: Int = 4) {
        self.elements = elements
        var count = 0
        places = owners.map { owns in
            defer { count += owns ? 1 : 0 }
            return owns ? count : nil
        }
        precondition(count > 0, "nobody owns a segment")
        let share = (elements + count - 1) / count
        let alignment = Self.alignmentBytes / elementBytes
        chunk = (share + alignment - 1) / alignment * alignment
        pieceElements = Self.pieceBytes / elementBytes
    }

    /// P.
    var members: Int { places.count }

    /// The values that a member owns; may be empty.
    func segment(of member: Int) -> Range<Int> {
        guard let place = places[member] else { return 0..<0 }
        return min(place * chunk, elements)..<min((place + 1) * chunk, elements)
    }
    /// The pieces of a segment.
    func pieceCount(of owner: Int) -> Int {
        (segment(of: owner).count + pieceElements - 1) / pieceElements
    }
    /// The values of a piece.
    func piece(_ index: Int, of owner: Int) -> Range<Int> {
        let segment = segment(of: owner)
        let start = segment.lowerBound + index * pieceElements
        return start..<min(start + pieceElements, segment.upperBound)
    }
}
