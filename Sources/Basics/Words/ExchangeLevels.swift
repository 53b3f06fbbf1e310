/// Whether the members of each host add up among themselves before hosts exchange.
///
/// That carries fewer bytes between hosts where several members share one, and costs two more latencies within it. A
/// function of who holds what: all members of a generation decide alike.
public enum ExchangeLevels {
    /// What the words for people add.
    public static let words = "in two levels"

    /// The site of each member, where it pays; empty where each is better off for itself.
    ///
    /// It pays where the busiest host sends or receives fewer values so, every member owning a segment, or every host.
    public static func sites(of members: [(host: String, lanes: LaneSet)], laneCount: Int) -> [Int] {
        let hosts = members.reduce(into: [String]()) { if !$0.contains($1.host) { $0.append($1.host) } }
        let sites = members.map { member in hosts.firstIndex(of: member.host) ?? 0 }
        // In units of a gradient by the number of owners.
        let counts = members.map { $0.lanes.subtrees(laneCount: laneCount).count }
        let direct = busiest(
            hosts.indices.map { site in
                let own = sites.indices.filter { sites[$0] == site }
                return (own.reduce(0) { $0 + counts[$1] }, own.count)
            }
        )
        let joined = busiest(
            hosts.indices.map { site in
                let bits = sites.indices.filter { sites[$0] == site }.reduce(0) {
                    $0 | members[$1].lanes.bits
                }
                return (LaneSet(bits: bits).subtrees(laneCount: laneCount).count, 1)
            }
        )
        return joined * members.count < direct * hosts.count ? sites : []
    }

    /// What the busiest host sends or receives, in parts of a gradient that one owner has.
    ///
    /// - Parameter hosts: the subtrees that each gives, and the owners on it, which get results too.
    private static func busiest(_ hosts: [(subtrees: Int, owners: Int)]) -> Int {
        let all = hosts.reduce((0, 0)) { ($0.0 + $1.subtrees, $0.1 + $1.owners) }
        return hosts.map { host in
            let others = (subtrees: all.0 - host.subtrees, owners: all.1 - host.owners)
            return host.owners * others.owners
                + max(host.subtrees * others.owners, others.subtrees * host.owners)
        }.max() ?? 0
    }
}
