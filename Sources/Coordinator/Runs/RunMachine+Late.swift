internal import Basics

/// Generations that began only because their members are not equally fast.
public enum LaneMoves {
    static let late = "late: the others compute them"
    static let measured = "lanes follow the measured speed"

    /// Whether that is all a generation began for, by the reason that is kept with it.
    public static func areAll(of reason: String) -> Bool {
        reason.contains(late) || reason.hasPrefix(measured)
    }
}

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
        return next("the lanes of \(hosts) are \(seconds) s \(LaneMoves.late)", sparing: slow)
    }
}
