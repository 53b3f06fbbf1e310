internal import Basics

/// Which parts of one operation have come, from whom, and what may be done next; no bytes, no clock.
///
/// Each member sends its frames for an operation in one fixed order (lane rows; contributions piece by piece, in each
/// the subtrees in rising order; results piece by piece; READY), so a count per member says it all and any other
/// frame is an error.
struct OperationLedger {
    /// What is due next from a member.
    enum Part: Hashable { case laneValues, contribution, result }

    let rank: Int
    let segmentation: Segmentation
    private let subtreeCounts: [Int]
    private let laneFrames: [Int]
    private var laneFramesCame: [Int]
    private var contributionsCame: [Int]
    private var resultsCame: [Int]
    private(set) var readyDigests: [Digest?]
    /// Pieces of the own segment that are summed.
    private(set) var summedPieces = 0

    /// Doubles in one frame of lane rows.
    static let doublesPerFrame = FrameHeader.maxPayload / 8

    /// - Parameters:
    ///   - rank: this member.
    ///   - subtreeCounts: the subtrees of each member.
    ///   - laneCounts: the lanes of each member.
    ///   - owners: for each member whether it sums a segment.
    init(rank: Int, elements: Int, width: Int, subtreeCounts: [Int], laneCounts: [Int], owners: [Bool]) {
        self.rank = rank
        self.subtreeCounts = subtreeCounts
        segmentation = Segmentation(elements: elements, owners: owners)
        laneFrames = laneCounts.map { ($0 * width + Self.doublesPerFrame - 1) / Self.doublesPerFrame }
        let zeros = Array(repeating: 0, count: subtreeCounts.count)
        (laneFramesCame, contributionsCame, resultsCame) = (zeros, zeros, zeros)
        readyDigests = Array(repeating: nil, count: subtreeCounts.count)
    }

    /// The index of the next part of that kind from a member; nil when all of them came.
    func next(_ part: Part, from member: Int) -> Int? {
        let (came, due) =
            switch part {
            case .laneValues: (laneFramesCame[member], laneFrames[member])
            case .contribution:
                (
                    contributionsCame[member],
                    segmentation.pieceCount(of: rank) * subtreeCounts[member]
                )
            case .result: (resultsCame[member], segmentation.pieceCount(of: member))
            }
        return came < due ? came : nil
    }

    /// Which piece and which of the member's subtrees a contribution with this index is.
    func contribution(_ index: Int, from member: Int) -> (piece: Int, position: Int) {
        (index / subtreeCounts[member], index % subtreeCounts[member])
    }

    /// Notes the next part of that kind.
    mutating func received(_ part: Part, from member: Int) {
        switch part {
        case .laneValues: laneFramesCame[member] += 1
        case .contribution: contributionsCame[member] += 1
        case .result: resultsCame[member] += 1
        }
    }

    /// The next piece of the own segment that can be summed now.
    var summablePiece: Int? {
        guard summedPieces < segmentation.pieceCount(of: rank) else { return nil }
        for member in subtreeCounts.indices where member != rank && subtreeCounts[member] > 0 {
            if contributionsCame[member] < (summedPieces + 1) * subtreeCounts[member] { return nil }
        }
        return summedPieces
    }
    /// Notes that it was summed.
    mutating func summed() { summedPieces += 1 }

    /// True when the whole result stands here.
    var isComplete: Bool {
        summedPieces == segmentation.pieceCount(of: rank)
            && subtreeCounts.indices.allSatisfy { member in
                member == rank
                    || (next(.laneValues, from: member) == nil && next(.result, from: member) == nil)
            }
    }

    /// Notes a member's READY (its own too).
    ///
    /// - Returns: false when that member said so before.
    mutating func ready(_ member: Int, _ digest: Digest) -> Bool {
        defer { readyDigests[member] = digest }
        return readyDigests[member] == nil
    }

    /// What the READYs so far mean.
    enum Verdict: Hashable {
        /// Not all have come.
        case open
        /// All members hold one result.
        case commit
        /// These hold another one.
        case diverged([Int])
    }

    /// The commit rule: READY from all, with one digest.
    var verdict: Verdict {
        let odd = Resolution.oddOnes(readyDigests)
        if !odd.isEmpty { return .diverged(odd) }
        return readyDigests.allSatisfy { $0 != nil } ? .commit : .open
    }

    /// The members whose word is missing.
    var awaited: [Int] { readyDigests.indices.filter { $0 != rank && readyDigests[$0] == nil } }
}
