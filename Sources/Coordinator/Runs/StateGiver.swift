/// Who gives the run's state to hosts that join: the member from which it comes soonest.
///
/// The state goes from store to store by way of this machine: nothing has to go where the giver's host is the one that
/// joins, and half of the way where it is this machine.
enum StateGiver {
    /// - Parameters:
    ///   - joining: the hosts that join.
    ///   - members: number and host of those who have the state.
    ///   - here: hosts that are the coordinator's own machine.
    /// - Returns: the member's number; nil when nobody joins, or nobody has it.
    static func choose(
        for joining: [String],
        among members: [(member: Int, host: String)],
        here: Set<String>
    ) -> Int? {
        guard !joining.isEmpty else { return nil }
        let near = members.first { joining.contains($0.host) } ?? members.first { here.contains($0.host) }
        return (near ?? members.first)?.member
    }
}
