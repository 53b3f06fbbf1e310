internal import Basics

// What the coordinator does about members that live and are late.
extension RunMachine {
    /// Lets the others compute the lanes of members that keep them waiting, when that is sooner than to wait as long again.
    ///
    /// The late ones stay members: they drop what they compute, take the result, and get lanes again by their speed. If
    /// their lanes come after all before the next generation opens, the step is committed with them.
    mutating func takeOver(from late: Set<Int>, _ waited: Duration, _ reporter: Int) -> [Action] {
        let held = members.filter { planned.contains($0.key) }
        let slow = late.filter { held[$0]?.lanes.isEmpty == false }
        guard !isFixed, relinkAt == nil, parkedFor == nil, !slow.isEmpty, !slow.contains(reporter),
            held.values.allSatisfy({ $0.address != nil && !$0.joins }),
            balance.isLate(
                held.mapValues(\.lanes),
                late: slow,
                waited: waited,
                laneCount: laneCount,
                now: now
            )
        else { return [] }
        let hosts = Set(slow.compactMap { held[$0]?.host }).sorted().joined(separator: ", ")
        let seconds = (waited / .seconds(0.1)).rounded() / 10
        return next("the lanes of \(hosts) are \(seconds) s late: the others compute them", sparing: slow)
    }
}
