/// How N values are cut: one segment an owner, each segment into pieces that fit a frame.
struct Segmentation: Hashable, Sendable {
    /// Segments start at multiples of this many values, so that one cache line has one owner.
    static let alignment = 16
    /// Values of a full piece, 64 KiB: small enough that summing and both directions overlap in a 1 MB operation.
    static let pieceElements = 16_384

    /// N.
    let elements: Int
    /// P.
    let members: Int
    private let chunk: Int

    init(elements: Int, members: Int) {
        self.elements = elements
        self.members = members
        let share = (elements + members - 1) / members
        chunk = (share + Self.alignment - 1) / Self.alignment * Self.alignment
    }

    /// The values that member `owner` sums; may be empty.
    func segment(of owner: Int) -> Range<Int> {
        min(owner * chunk, elements)..<min((owner + 1) * chunk, elements)
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
