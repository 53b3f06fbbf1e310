/// How N values are cut: one segment an owner, each segment into pieces that fit a frame.
struct Segmentation: Hashable, Sendable {
    /// Segments start at multiples of this many values, so that one cache line has one owner.
    static let alignment = 16
    /// Values of a full piece, 64 KiB: small enough that summing and both directions overlap in a 1 MB operation.
    static let pieceElements = 16_384

    /// N.
    let elements: Int
    /// For each member its place among the owners; nil for one that sums nothing.
    private let places: [Int?]
    private let chunk: Int

    /// - Parameter owners: for each member whether it sums a segment; one at least does.
    init(elements: Int, owners: [Bool]) {
        self.elements = elements
        var count = 0
        places = owners.map { owns in
            defer { count += owns ? 1 : 0 }
            return owns ? count : nil
        }
        precondition(count > 0, "nobody sums")
        let share = (elements + count - 1) / count
        chunk = (share + Self.alignment - 1) / Self.alignment * Self.alignment
    }

    /// P.
    var members: Int { places.count }

    /// The values that a member sums; may be empty.
    func segment(of member: Int) -> Range<Int> {
        guard let place = places[member] else { return 0..<0 }
        return min(place * chunk, elements)..<min((place + 1) * chunk, elements)
    }
    /// The pieces of a segment.
    func pieceCount(of owner: Int) -> Int {
        (segment(of: owner).count + Self.pieceElements - 1) / Self.pieceElements
    }
    /// The values of a piece.
    func piece(_ index: Int, of owner: Int) -> Range<Int> {
        let segment = segment(of: owner)
        let start = segment.lowerBound + index * Self.pieceElements
        return start..<min(start + Self.pieceElements, segment.upperBound)
    }
}
