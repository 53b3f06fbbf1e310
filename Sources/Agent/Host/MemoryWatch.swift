internal import Basics
internal import Synchronization

/// Tells a trainer that the kernel killed for its memory from one that somebody killed.
///
/// The kernel counts such kills, for the machine (`/proc/vmstat`) and for a group with a limit of its own; a trainer that ends by
/// signal 9 while a count rose was one of them.
final class MemoryWatch: Sendable {
    /// Counts of kills, and the limit of our group.
    struct Counts: Hashable, Sendable {
        /// On the whole machine, groups included.
        var machine = 0
        /// In our own group.
        var group = 0
        /// The group's limit, when it has one that is less than the machine's memory; unit: bytes.
        var limit: Int64?
        /// What our group has of that; unit: bytes.
        var used: Int?
    }

    /// A kill is told within this time of its happening, at most twice as long; unit: seconds.
    private static let window = 5.0

    private struct State {
        var old: Counts
        var new: Counts
        var looked = ContinuousClock.now
    }

    private let read: @Sendable () -> Counts
    private let state: Mutex<State>

    init(read: @escaping @Sendable () -> Counts = { MemoryWatch.counts() }) {
        self.read = read
        let counts = read()
        state = Mutex(State(old: counts, new: counts))
    }

    /// Forgets kills that nobody asked about in time: they were of somebody else's processes.
    func look() {
        let counts = read()
        state.withLock { state in
            guard ContinuousClock.now - state.looked >= .seconds(Self.window) else { return }
            state.old = state.new
            state.new = counts
            state.looked = .now
        }
    }

    /// Why a process that just ended by signal 9 was killed; nil when the kernel did not do it.
    func cause() -> String? {
        let now = read()
        return state.withLock { state in
            let isGroup = now.group > state.old.group
            guard isGroup || now.machine > state.old.machine else { return nil }
            // Each kill explains one end.
            state.old.machine += 1
            state.new.machine = max(state.new.machine, state.old.machine)
            if isGroup {
                state.old.group += 1
                state.new.group = max(state.new.group, state.old.group)
            }
            if isGroup, let limit = now.limit {
                return "out of memory at the limit of \(limit >> 20) MiB here"
            }
            return "the host ran out of memory (\(Machine.memory.bytes >> 20) MiB in all)"
        }
    }

    /// What the kernel says now.
    static func counts() -> Counts {
        var counts = Counts()
        counts.machine = number("oom_kill", in: "/proc/vmstat") ?? 0
        for line in ((try? Files.readText("/proc/self/cgroup")) ?? "").split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard parts.count == 3 else { continue }
            if parts[0] == "0" {
                let folder = "/sys/fs/cgroup\(parts[2])"
                counts.group = number("oom_kill", in: folder + "/memory.events") ?? counts.group
                counts.limit = limit(folder + "/memory.max") ?? counts.limit
                counts.used = bytes(folder + "/memory.current") ?? counts.used
            } else if parts[1].split(separator: ",").contains("memory") {
                let folder = "/sys/fs/cgroup/memory\(parts[2])"
                counts.group = number("oom_kill", in: folder + "/memory.oom_control") ?? counts.group
                counts.limit = limit(folder + "/memory.limit_in_bytes") ?? counts.limit
                counts.used = bytes(folder + "/memory.usage_in_bytes") ?? counts.used
            }
        }
        return counts
    }

    private static func bytes(_ path: String) -> Int? {
        (try? Files.readText(path)).flatMap { Int($0.filter { !$0.isWhitespace }) }
    }

    private static func limit(_ path: String) -> Int64? {
        guard let text = try? Files.readText(path), let limit = Int64(text.filter { !$0.isWhitespace }),
            limit < Machine.memory.bytes
        else { return nil }
        return limit
    }

    private static func number(_ key: String, in path: String) -> Int? {
        for line in ((try? Files.readText(path)) ?? "").split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.count == 2, words[0] == key { return Int(words[1]) }
        }
        return nil
    }
}
