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
    private let form: OperationForm
    let segmentation: Segmentation
    private let subtreeCounts: [Int]
    private let laneFrames: [Int]
    private var laneFramesCame: [Int]
    private var contributionsCame: [Int]
    private var resultsCame: [Int]
    private(set) var readyDigests: [Digest?]
    /// Pieces of the own segment that are summed.
    private(set) var summedPieces = 0
    /// The first buckets, in which this member's own contributions are final.
    private(set) var givenBuckets: Int

    /// Doubles in one frame of lane rows.
    static let doublesPerFrame = FrameHeader.maxPayload / 8

    /// - Parameters:
    ///   - rank: this member.
    ///   - shape: what the operation is.
    ///   - subtreeCounts: the subtrees of each member.
    ///   - laneCounts: the lanes of each member.
    ///   - owners: for each member whether it combines a segment.
    ///   - buckets: see ``Segmentation/init(elements:owners:elementBytes:buckets:)``.
    init(
        rank: Int,
        shape: OperationShape,
        subtreeCounts: [Int],
        laneCounts: [Int],
        owners: [Bool],
        buckets: [Range<Int>] = []
    ) {
        self.rank = rank
        form = shape.form
        self.subtreeCounts = subtreeCounts
        segmentation = form.segmentation(elements: shape.elements, owners: owners, buckets: buckets)
        givenBuckets = segmentation.bucketCount
        laneFrames = laneCounts.map { ($0 * shape.width + Self.doublesPerFrame - 1) / Self.doublesPerFrame }
        let zeros = Array(repeating: 0, count: subtreeCounts.count)
        (laneFramesCame, contributionsCame, resultsCame) = (zeros, zeros, zeros)
        readyDigests = Array(repeating: nil, count: subtreeCounts.count)
    }

    /// Forgets what came: for another operation of the same shape.
    mutating func reset() {
        for member in subtreeCounts.indices {
            (laneFramesCame[member], contributionsCame[member], resultsCame[member]) = (0, 0, 0)
            readyDigests[member] = nil
        }
        summedPieces = 0
        givenBuckets = segmentation.bucketCount
    }

    /// Notes in how many of the first buckets the own contributions are final; all of them unless it is said.
    mutating func give(_ buckets: Int) { givenBuckets = min(buckets, segmentation.bucketCount) }

    /// How many of this member's contributions to an owner are due by now.
    func contributionsDue(to owner: Int) -> Int {
        form.combines ? segmentation.pieceCount(of: owner, in: givenBuckets) * subtreeCounts[rank] : 0
    }

    /// The index of the next part of that kind from a member; nil when all of them came.
    func next(_ part: Part, from member: Int) -> Int? {
        let (came, due) =
            switch part {
            case .laneValues: (laneFramesCame[member], laneFrames[member])
            case .contribution:
                (contributionsCame[member], contributionCount(of: member, to: rank))
            case .result: (resultsCame[member], form.returns ? segmentation.pieceCount(of: member) : 0)
            }
        return came < due ? came : nil
    }

    /// How many contributions a member sends to an owner.
    func contributionCount(of member: Int, to owner: Int) -> Int {
        form.combines ? segmentation.pieceCount(of: owner) * subtreeCounts[member] : 0
    }

    /// How many of this member's results are due to the others by now.
    var resultsDue: Int { form.returns ? summedPieces : 0 }

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
        guard summedPieces < segmentation.pieceCount(of: rank, in: givenBuckets) else { return nil }
        guard form.combines else { return summedPieces }  // it stands there from the beginning
        for member in subtreeCounts.indices where member != rank && subtreeCounts[member] > 0 {
            if contributionsCame[member] < (summedPieces + 1) * subtreeCounts[member] { return nil }
        }
        return summedPieces
    }
    /// Notes that it was summed.
    mutating func summed() { summedPieces += 1 }

    /// True when the whole result stands here.
    var isComplete: Bool {
        givenBuckets == segmentation.bucketCount && summedPieces == segmentation.pieceCount(of: rank)
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
        var first: Digest?, isOpen = false
        for digest in readyDigests {
            guard let digest else {
                isOpen = true
                continue
            }
            if let first, first != digest { return .diverged(Resolution.oddOnes(readyDigests)) }
            first = digest
        }
        return isOpen ? .open : .commit
    }

    /// The members whose word is missing.
    var awaited: [Int] { readyDigests.indices.filter { $0 != rank && readyDigests[$0] == nil } }
}
