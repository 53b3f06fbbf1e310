internal import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Processes, as `/proc` shows them.
enum ProcessTable {
    /// The variable by which what an agent starts is known, and what that starts: the agent's folder.
    static let marker = "COORD_AGENT_FOLDER"

    /// One process of an agent's folder.
    struct Entry: Sendable {
        var process: ProcessIdentity
        /// Its part: `agent`, `bridge`, `train`, or a program's name.
        var part: String
        /// For people: `pid 71 coord-worker train`.
        var words: String
    }

    /// All processes that run a program from below `root` or were started by an agent there, but this one.
    ///
    /// - Cost: reads three files for each process of the user.
    static func entries(of root: String) -> [Entry] {
        let root = Files.resolved(root)
        let own = getpid()
        return ((try? Files.list("/proc")) ?? []).compactMap { name in
            guard let pid = Int32(name), pid != own, let process = ProcessIdentity(pid: pid) else {
                return nil
            }
            let program = link("/proc/\(pid)/exe") ?? ""
            let arguments = strings("/proc/\(pid)/cmdline")
            let isOurs =
                program.hasPrefix(root + "/") || strings("/proc/\(pid)/environ").contains("\(marker)=\(root)")
            // Nothing that ends between these reads is of interest.
            guard isOurs, process.isAlive else { return nil }
            let name = Files.name(arguments.first ?? program)
            let isWorker = name.hasPrefix("coord-worker")
            let part = isWorker && arguments.count > 1 ? arguments[1] : name
            return Entry(
                process: process,
                part: part,
                words: "pid \(pid) \(isWorker ? "coord-worker \(part)" : name)"
            )
        }
    }

    /// Ends processes: asked first, killed after `patience`; unit: milliseconds.
    ///
    /// - Returns: those that are still there.
    static func end(_ entries: [Entry], patience: Int32 = 3000) -> [Entry] {
        for entry in entries where entry.process.isAlive { kill(entry.process.pid, SIGTERM) }
        let deadline = ContinuousClock.now + .milliseconds(Int64(patience))
        for entry in entries {
            let left = Int32(max(0, (deadline - .now) / .milliseconds(1)))
            if !entry.process.waitForEnd(milliseconds: left), entry.process.isAlive {
                kill(entry.process.pid, SIGKILL)
            }
        }
        return entries.filter { !$0.process.waitForEnd(milliseconds: 2000) && $0.process.isAlive }
    }

    /// CPU time that a process has used, its threads included; unit: clock ticks.
    static func cpuTicks(_ pid: Int32) -> UInt64 {
        guard let text = try? Files.readText("/proc/\(pid)/stat"), let paren = text.lastIndex(of: ")") else {
            return 0
        }
        // Fields 14 and 15 of the whole line: user and system time.
        let fields = text[text.index(after: paren)...].split(separator: " ")
        guard fields.count > 12, let user = UInt64(fields[11]), let system = UInt64(fields[12]) else {
            return 0
        }
        return user + system
    }

    /// How soon the kernel takes a process when memory runs out: -1000 (never) to 1000 (first).
    ///
    /// - Returns: false when it is not allowed: only root may lower it.
    @discardableResult
    static func setMemoryPriority(_ pid: Int32, _ value: Int) -> Bool {
        let file = open("/proc/\(pid)/oom_score_adj", O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { return false }
        defer { close(file) }
        let text = Array("\(value)".utf8)
        return text.withUnsafeBytes { write(file, $0.baseAddress, $0.count) } == text.count
    }

    private static func link(_ path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = readlink(path, &buffer, buffer.count)
        guard count > 0 else { return nil }
        return String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static func strings(_ path: String) -> [String] {
        ((try? Files.read(path)) ?? []).split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
    }
}
