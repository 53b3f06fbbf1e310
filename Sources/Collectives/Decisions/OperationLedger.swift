internal import Basics

/// Which parts of one operation have come, from whom, and what may be done next; no bytes, no clock.
///
/// Each member sends its frames for an operation in one fixed order (lane rows; contributions piece by piece, in each
/// the subtrees in rising order; results of each owner piece by piece; READY), so counts say it all and any other
/// frame is an error.
struct OperationLedger {
    /// What is due next from a member.
    enum Part: Hashable { case laneValues, contribution, result }

    let rank: Int
    private let form: OperationForm
    let segmentation: Segmentation
    private let leaders: [Int]
    private let subtreeCounts: [Int]
    /// What leaders carry.
    private let carriedCounts: [Int]
    /// Those whose values this member carries beside its own.
    private let followers: [Int]
    /// All pieces, bucket by bucket, in each owner by owner: the order in which a leader gets them from its members.
    private let sequence: [(owner: Int, piece: Int)]
    private let laneFrames: [Int]
    private var laneFramesCame: [Int]
    private var contributionsCame: [Int]
    /// By owner.
    private var resultsCame: [Int]
    /// By member and owner: pieces to which a follower's contributions have all come.
    private var followerPieces: [[Int]]
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
    ///   - leaders: who carries each member's values; none = itself.
    ///   - carriedCounts: the subtrees that each member carries; none = its own.
    ///   - laneCounts: the lanes of each member.
    ///   - owners: for each member whether it combines a segment.
    ///   - buckets: see ``Segmentation/init(elements:owners:elementBytes:buckets:)``.
    init(
        rank: Int,
        shape: OperationShape,
        subtreeCounts: [Int],
        leaders: [Int] = [],
        carriedCounts: [Int] = [],
        laneCounts: [Int],
        owners: [Bool],
        buckets: [Range<Int>] = []
    ) {
        let leaders = leaders.isEmpty ? Array(subtreeCounts.indices) : leaders
        self.leaders = leaders
        self.carriedCounts = carriedCounts.isEmpty ? subtreeCounts : carriedCounts
        followers = leaders.indices.filter { leaders[$0] == rank && $0 != rank && subtreeCounts[$0] > 0 }
        self.rank = rank
        form = shape.form
        self.subtreeCounts = subtreeCounts
        segmentation = form.segmentation(elements: shape.elements, owners: owners, buckets: buckets)
        givenBuckets = segmentation.bucketCount
        sequence = leaders == Array(leaders.indices) ? [] : segmentation.sequence
        followerPieces = subtreeCounts.map { _ in subtreeCounts.map { _ in 0 } }
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
            for owner in subtreeCounts.indices { followerPieces[member][owner] = 0 }
        }
        summedPieces = 0
        givenBuckets = segmentation.bucketCount
    }

    /// Notes in how many of the first buckets the own contributions are final; all of them unless it is said.
    mutating func give(_ buckets: Int) { givenBuckets = min(buckets, segmentation.bucketCount) }

    /// The index of the next part of that kind from a member; nil when all of them came.
    ///
    /// - Parameter owner: whose result it is; nil = the member's own.
    func next(_ part: Part, from member: Int, of owner: Int? = nil) -> Int? {
        let owner = owner ?? member
        let (came, due) =
            switch part {
            case .laneValues: (laneFramesCame[member], laneFrames[member])
            case .contribution:
                (contributionsCame[member], contributionCount(of: member, to: rank))
            case .result:
                (
                    resultsCame[owner],
                    form.returns && member == source(of: owner) ? segmentation.pieceCount(of: owner) : 0
                )
            }
        return came < due ? came : nil
    }

    /// From whom the results of an owner come here.
    private func source(of owner: Int) -> Int { leaders[rank] == rank ? owner : leaders[rank] }

    /// How many contributions a member sends to another one.
    func contributionCount(of member: Int, to receiver: Int) -> Int {
        guard form.combines, member != receiver else { return 0 }
        if leaders[member] == member { return segmentation.pieceCount(of: receiver) * carriedCounts[member] }
        return leaders[member] == receiver ? sequence.count * subtreeCounts[member] : 0
    }

    /// How many of this member's contributions to another one are due by now.
    func contributionsDue(to receiver: Int) -> Int {
        guard form.combines else { return 0 }
        if leaders[rank] == rank { return standingPieces(of: receiver) * carriedCounts[rank] }
        guard leaders[rank] == receiver else { return 0 }
        return segmentation.sequenceCount(in: givenBuckets) * subtreeCounts[rank]
    }

    /// The first pieces of an owner for which all that this member carries is at hand.
    private func standingPieces(of owner: Int) -> Int {
        var count = segmentation.pieceCount(of: owner, in: givenBuckets)
        for follower in followers { count = min(count, followerPieces[follower][owner]) }
        return count
    }

    /// How many results of an owner are due to another member by now.
    func resultsDue(of owner: Int, to receiver: Int) -> Int {
        guard form.returns, leaders[rank] == rank else { return 0 }
        let isFollower = leaders[receiver] == rank
        if owner == rank { return isFollower || leaders[receiver] == receiver ? summedPieces : 0 }
        return isFollower ? resultsCame[owner] : 0
    }

    /// Whose piece, which one, and which of the sender's subtrees a contribution is.
    func contribution(
        _ index: Int,
        from member: Int,
        to receiver: Int
    ) -> (owner: Int, piece: Int, position: Int) {
        let isCarried = leaders[member] == member
        let (place, position) = index.quotientAndRemainder(
            dividingBy: isCarried ? carriedCounts[member] : subtreeCounts[member]
        )
        if isCarried { return (receiver, place, position) }
        return (sequence[place].owner, sequence[place].piece, position)
    }

    /// Notes the next part of that kind.
    ///
    /// - Parameter owner: whose result it is; nil = the member's own.
    mutating func received(_ part: Part, from member: Int, of owner: Int? = nil) {
        switch part {
        case .laneValues: laneFramesCame[member] += 1
        case .contribution:
            contributionsCame[member] += 1
            guard leaders[member] != member, contributionsCame[member] % subtreeCounts[member] == 0 else {
                return
            }
            let last = sequence[contributionsCame[member] / subtreeCounts[member] - 1]
            followerPieces[member][last.owner] += 1
        case .result: resultsCame[owner ?? member] += 1
        }
    }

    /// The next piece of the own segment that can be summed now.
    var summablePiece: Int? {
        guard summedPieces < standingPieces(of: rank) else { return nil }
        guard form.combines else { return summedPieces }  // it stands there from the beginning
        for member in carriedCounts.indices where member != rank && leaders[member] == member {
            if contributionsCame[member] < (summedPieces + 1) * carriedCounts[member] { return nil }
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
                    || (next(.laneValues, from: member) == nil
                        && next(.result, from: source(of: member), of: member) == nil)
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
