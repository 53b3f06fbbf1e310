/// The threads that share the work of one lane, where a member has more threads than lanes.
///
/// What a layer gives to its team is cut by shapes, or at places that leave no trace in the bits, so a lane's
/// result does not depend on the team's size.
struct Team {
    /// One thread, the caller's.
    static var alone: Team { Team(pool: nil) }

    let pool: LanePool?

    /// Threads in all, the caller included.
    var size: Int { pool?.size ?? 1 }

    /// Calls `body(index, thread)` for each index below `count`, and returns when all are done.
    func run(_ count: Int, _ body: (_ index: Int, _ thread: Int) -> Void) {
        if let pool { return pool.run(count, body) }
        for index in 0..<count { body(index, 0) }
    }

    /// Calls `body(range, thread)` with ranges that together are `0 ..< count`, one a thread.
    ///
    /// - Parameters:
    ///   - multiple: each range but the last holds a multiple of so many.
    ///   - work: numbers touched by one of `count`; little work stays on the caller's thread.
    func divide(
        _ count: Int,
        multiple: Int = 1,
        work: Int = 1,
        _ body: (_ range: Range<Int>, _ thread: Int) -> Void
    ) {
        // Below some 64 KiB waking threads costs more than the work.
        let parts = count * work < 16384 ? 1 : min(size, (count + multiple - 1) / multiple)
        guard parts > 1 else { return body(0..<count, 0) }
        let each = ((count + parts - 1) / parts + multiple - 1) / multiple * multiple
        run((count + each - 1) / each) { index, thread in
            body(index * each..<min(count, index * each + each), thread)
        }
    }
}
