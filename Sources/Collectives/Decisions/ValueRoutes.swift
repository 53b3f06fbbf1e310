internal import Basics

/// Which way the values of an operation go between members, and who sums them.
///
/// Direct: every member gives its subtrees to each owner of a segment and gets the results from there. In two levels: the
/// members of a site give theirs to the site's leader, which adds them up to the site's subtrees, does the same as in the direct
/// exchange with the other leaders, and hands the results to its members.
struct ValueRoutes: Sendable {
    /// For each member who carries its values: itself, or its site's leader.
    let leaders: [Int]
    /// For each member whether it sums a segment.
    let owners: [Bool]
    /// The tree over what leaders carry.
    let tree: LaneTree
    /// By leader: how each subtree that it carries comes from those of its site's members.
    let sites: [[LaneTree]]

    /// The two levels that the options of a generation ask for; nil where every member is its own site.
    init?(
        _ sites: [Int],
        _ lanes: [LaneSet],
        laneCount: Int,
        owners: Set<Int>,
        _ options: Group.Options
    ) throws(CollectivesError) {
        guard !sites.isEmpty, !options.combines else { return nil }
        precondition(sites.count == lanes.count, "\(sites.count) sites of \(lanes.count) members")
        try self.init(
            sites: sites,
            lanes: lanes,
            laneCount: laneCount,
            owners: lanes.indices.map { owners.isEmpty || owners.contains($0) }
        )
        if !hasTwoLevels { return nil }
    }

    /// The direct exchange.
    init(direct tree: LaneTree, owners: [Bool]) {
        leaders = Array(owners.indices)
        self.owners = owners
        self.tree = tree
        sites = owners.map { _ in [] }
    }

    /// The exchange in two levels.
    ///
    /// A site's leader is its first member that owns a segment, or its first; it takes over from its site's owners.
    /// - Parameters:
    ///   - sites: the site of each member, any numbers.
    ///   - lanes: what each member holds.
    ///   - owners: for each member whether it may sum a segment.
    /// - Throws: as ``LaneTree/init(laneCount:lanes:combines:)``.
    init(sites: [Int], lanes: [LaneSet], laneCount: Int, owners: [Bool]) throws(CollectivesError) {
        let leaders = sites.map { site in
            let members = sites.indices.filter { sites[$0] == site }
            return members.first { owners[$0] } ?? members[0]
        }
        let subtrees = lanes.map { $0.subtrees(laneCount: laneCount) }
        let carried = lanes.indices.map { rank in
            LaneSet(bits: lanes.indices.filter { leaders[$0] == rank }.reduce(0) { $0 | lanes[$1].bits })
        }
        let tree = try LaneTree(laneCount: laneCount, lanes: carried)
        self.leaders = leaders
        self.owners = owners.indices.map { owners[$0] && leaders[$0] == $0 }
        self.tree = tree
        self.sites = lanes.indices.map { rank in
            let held = lanes.indices.map { leaders[$0] == rank ? subtrees[$0] : [] }
            return tree.subtrees[rank].map { LaneTree(of: $0, held: held) }
        }
    }

    /// Whether some member's values are carried by another.
    var hasTwoLevels: Bool { leaders.indices.contains { leaders[$0] != $0 } }

    /// From whom a member gets the results of an owner.
    func source(of owner: Int, for member: Int) -> Int { leaders[member] == member ? owner : leaders[member] }
}
