public import Basics

/// What a member knows about the operations of a run; it outlives the groups.
public struct MemberState: Hashable, Sendable {
    /// A result that a member held complete.
    public struct Ready: Hashable, Sendable {
        /// The operation.
        public var operation: UInt64
        /// The digest of its sum and lane values.
        public var digest: Digest

        /// An operation and the digest of its result.
        public init(operation: UInt64, digest: Digest) {
            self.operation = operation
            self.digest = digest
        }
    }

    /// The number of committed operations: the next one has this number.
    public var committed: UInt64
    /// The last result this member held complete.
    ///
    /// Its operation is `committed` while the others' word is missing (the result is retained), `committed - 1`
    /// after the commit, and something older never.
    public var ready: Ready?
    /// True for a member that enters a run in progress and has nothing yet: it takes the others' count, and one of them
    /// gives it the state that belongs to it.
    public var isJoining = false

    /// A member that starts, or one that is described to others.
    public init(committed: UInt64 = 0, ready: Ready? = nil) {
        self.committed = committed
        self.ready = ready
    }

    /// A member that enters a run in progress.
    public static var joining: MemberState {
        var state = MemberState()
        state.isJoining = true
        return state
    }

    /// The result that waits for the others' word.
    public var retained: Ready? { ready.flatMap { $0.operation == committed ? $0 : nil } }

    /// Notes that the exchange of an operation begins: what was retained is overwritten.
    mutating func begin() {
        if retained != nil { ready = nil }
    }
    /// Notes a complete result.
    mutating func becomeReady(_ digest: Digest) { ready = Ready(operation: committed, digest: digest) }
    /// Notes that everybody holds it.
    mutating func commit() { committed += 1 }
}

/// How a new generation starts, decided by each member alone from what all said of themselves.
public enum Resolution: Hashable, Sendable {
    /// The retained result is the committed one: apply it. ``Group/memberState`` counts it already.
    case commitReady
    /// Nothing is retained that counts: operation ``MemberState/committed`` is computed (again).
    case recompute

    /// Decides for member `rank`.
    ///
    /// A member may commit only when all members of its generation were READY with one digest. So when anybody
    /// committed an operation, everybody else retained its result; and when all of this generation retain it, it is
    /// safe to commit whoever was lost.
    ///
    /// Members that join have no word in it; afterwards they stand where the others stand.
    ///
    /// - Parameter states: one a member, in rank order.
    /// - Returns: what this member does, and its state after that.
    /// - Throws: ``CollectivesError`` `.diverged`, with the ranks that don't fit, or all of them when all join.
    static func decide(
        rank: Int,
        states: [MemberState]
    ) throws(CollectivesError) -> (resolution: Resolution, state: MemberState) {
        let known = states.filter { !$0.isJoining }
        guard !known.isEmpty else {
            throw CollectivesError(
                .diverged,
                "all members join: nobody has the state of the run",
                ranks: Array(states.indices)
            )
        }
        let newest = known.map(\.committed).max() ?? 0
        let behind = states.indices.filter { rank in
            let state = states[rank]
            if state.isJoining || state.committed == newest { return false }
            return state.committed + 1 != newest || state.retained == nil
        }
        if !behind.isEmpty {
            let list = behind.map { "\($0) (\(states[$0].committed))" }.joined(separator: ", ")
            throw CollectivesError(
                .diverged,
                "members are behind the \(newest) committed operations and hold no result to go on with: "
                    + "rank \(list)",
                ranks: behind
            )
        }
        // The newest results that anybody speaks of must be one: retained and committed ones alike.
        for operation in Set(states.compactMap { $0.ready?.operation }) where operation + 1 >= newest {
            let digests = states.map { $0.ready?.operation == operation ? $0.ready?.digest : nil }
            let odd = oddOnes(digests)
            if !odd.isEmpty {
                throw CollectivesError(
                    .diverged,
                    "members hold different results of operation \(operation): ranks "
                        + odd.map(String.init).joined(separator: ", "),
                    ranks: odd
                )
            }
        }
        var mine = states[rank]
        let allRetain = known.allSatisfy { $0.committed == newest && $0.retained != nil }
        if mine.isJoining { return (.recompute, MemberState(committed: allRetain ? newest + 1 : newest)) }
        let someoneCommitted = mine.committed < newest
        guard someoneCommitted || allRetain else { return (.recompute, mine) }
        mine.commit()
        return (.commitReady, mine)
    }

    /// The ranks whose digest is not that of the most; all of them when there is no majority; empty when all agree.
    static func oddOnes(_ digests: [Digest?]) -> [Int] {
        var counts: [Digest: Int] = [:]
        for digest in digests.compactMap({ $0 }) { counts[digest, default: 0] += 1 }
        if counts.count < 2 { return [] }
        let best = counts.values.max() ?? 0
        let winners = counts.filter { $0.value == best }
        let winner = winners.count == 1 ? winners.keys.first : nil
        return digests.indices.filter { digests[$0] != nil && digests[$0] != winner }
    }
}
