internal import Basics
internal import Datasets
internal import Training
internal import Wire

/// What a trainer may have in memory, and what it had.
enum TrainerMemory {
    /// Left to everybody else; unit: bytes.
    private static let reserve = 64 << 20

    /// Plans the run before anything of it is in memory.
    ///
    /// - Throws: `TrainingError` `.noMemory` naming what the run needs and what there is.
    static func plan(_ start: TrainerStart, _ dataset: Dataset) throws -> MemoryPlan {
        let terms = start.memory
        return try MemoryPlan.fit(
            start.record.spec,
            shape: dataset.shape,
            classCount: dataset.classes.count,
            terms: MemoryPlan.Terms(
                data: DatasetSamples.size(dataset, start.record.spec),
                isShared: terms.members > 1
            ),
            threads: start.threads,
            limit: min(terms.limit ?? .max, free(sharedBy: max(1, terms.neighbours))),
            policy: terms.policy
        )
    }

    /// What is free for one of some trainers that begin at the same time: of the machine, or under the limit of our group.
    private static func free(sharedBy neighbours: Int) -> Int {
        let machine =
            number("MemAvailable:", in: "/proc/meminfo").map { $0 << 10 } ?? Int(Machine.memory.bytes)
        let group = MemoryWatch.counts()
        let free = group.limit.map { min(machine, Int($0) - (group.used ?? 0)) } ?? machine
        return max(0, free - reserve) / neighbours
    }

    /// What a member that joins may keep until it has the state: a quarter of what is free; unit: bytes.
    static var backlog: Int { free(sharedBy: 1) / 4 }

    /// The most that this process had in memory; unit: bytes.
    static var peak: Int? { number("VmHWM:", in: "/proc/self/status").map { $0 << 10 } }

    private static func number(_ key: String, in path: String) -> Int? {
        for line in ((try? Files.readText(path)) ?? "").split(separator: "\n") {
            let words = line.split(whereSeparator: \.isWhitespace)
            if words.count >= 2, words[0] == key { return Int(words[1]) }
        }
        return nil
    }
}
