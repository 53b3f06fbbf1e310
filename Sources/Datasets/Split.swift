public import Basics

/// Which samples of a dataset are for training, for validation, for the test.
///
/// Of a text the last windows are held out. All else is stratified: each class is parted in the same ratio. A sample's place in its class's order follows from its
/// id and the split's seed alone, so samples that are added move only those few that stand at a border. Equal
/// samples of one class stay on one side.
public struct Split: Hashable, Sendable {
    /// Rising indices.
    public var training: [Int]
    /// Rising indices.
    public var validation: [Int]
    /// Rising indices.
    public var test: [Int]

    /// The fraction that is held out for validation when nobody says: a fifth, of a text a tenth.
    public static func usualValidation(_ kind: DatasetKind) -> Double { kind == .text ? 0.1 : 0.2 }

    /// Parts a dataset.
    ///
    /// - Throws: ``DatasetError`` `.badSplit` for fractions outside [0, 1) or that leave nothing to train on.
    public static func make(_ dataset: Dataset, _ spec: SplitSpec) throws -> Split {
        if dataset.index.kind == .text { return try makeTail(count: dataset.count, spec) }
        return try make(
            ids: dataset.sampleIDs,
            labels: (0..<dataset.count).map { dataset.label($0) },
            classCount: dataset.classes.count,
            spec
        )
    }

    /// The class that most training samples have, the first of several, and its share of the validation samples.
    public func majority(_ dataset: Dataset) -> (label: Int, share: Double) {
        var counts = [Int](repeating: 0, count: dataset.classes.count)
        for sample in training { counts[dataset.label(sample)] += 1 }
        let label = counts.indices.max { counts[$0] < counts[$1] || counts[$0] == counts[$1] && $0 > $1 } ?? 0
        let right = validation.count { dataset.label($0) == label }
        return (label, Double(right) / Double(max(1, validation.count)))
    }

    /// Parts a text: what is for validation follows on what is for training, and what is for the test ends it.
    ///
    /// Neighbouring windows share their sense: windows held out between those trained on would be judged too well.
    static func makeTail(count: Int, _ spec: SplitSpec) throws -> Split {
        try check(spec)
        let test = Int((Double(count) * spec.test).rounded())
        let validation = Int((Double(count) * spec.validation).rounded())
        guard test + validation < count else {
            throw DatasetError(.badSplit, "a split of \(count) samples leaves nothing to train on")
        }
        let (first, second) = (count - test - validation, count - test)
        return Split(
            training: Array(0..<first),
            validation: Array(first..<second),
            test: Array(second..<count)
        )
    }

    private static func check(_ spec: SplitSpec) throws {
        let fractions = [spec.validation, spec.test]
        guard fractions.allSatisfy({ $0 >= 0 && $0 < 1 }), spec.validation + spec.test < 1 else {
            throw DatasetError(
                .badSplit,
                "a split with validation \(spec.validation) and test \(spec.test) leaves nothing to train on",
                hint: "give fractions of at least 0 that are less than 1 together"
            )
        }
    }

    static func make(ids: [SampleID], labels: [Int], classCount: Int, _ spec: SplitSpec) throws -> Split {
        try check(spec)
        let random = RandomSource(seed: spec.seed)
        var members = [[(key: UInt64, sample: Int)]](repeating: [], count: classCount)
        for (sample, id) in ids.enumerated() {
            let block = random.block(.split, position: Int(bitPattern: UInt(id.content)))
            members[labels[sample]].append((UInt64(block[0]) << 32 | UInt64(block[1]), sample))
        }
        for label in members.indices { members[label].sort { ($0.key, $0.sample) < ($1.key, $1.sample) } }

        let testCounts = apportion(spec.test, members.map(\.count))
        let validationCounts = apportion(spec.validation, members.map(\.count))
        var split = Split(training: [], validation: [], test: [])
        for (label, ordered) in members.enumerated() {
            func border(_ wanted: Int) -> Int {
                // One sample of each class at least is for training.
                let wanted = min(wanted, max(0, ordered.count - 1))
                func isInsideGroup(_ cut: Int) -> Bool {
                    cut > 0 && cut < ordered.count && ordered[cut].key == ordered[cut - 1].key
                }
                var cut = wanted
                while isInsideGroup(cut) { cut += 1 }
                if cut == ordered.count {
                    while isInsideGroup(cut) || cut == ordered.count, cut > 0 { cut -= 1 }
                }
                return cut
            }
            let first = border(testCounts[label])
            let second = max(first, border(first + validationCounts[label]))
            split.test += ordered[..<first].map(\.sample)
            split.validation += ordered[first..<second].map(\.sample)
            split.training += ordered[second...].map(\.sample)
        }
        split.training.sort()
        split.validation.sort()
        split.test.sort()
        guard !split.training.isEmpty else {
            throw DatasetError(.badSplit, "a split of \(ids.count) samples leaves nothing to train on")
        }
        return split
    }

    /// Rounds `fraction` of each count so that all together are `fraction` of the whole (largest remainder).
    private static func apportion(_ fraction: Double, _ counts: [Int]) -> [Int] {
        let exact = counts.map { Double($0) * fraction }
        var parts = exact.map { Int($0) }
        let total = Int((Double(counts.reduce(0, +)) * fraction).rounded())
        let order = counts.indices.sorted {
            (exact[$0] - Double(parts[$0]), $1) > (exact[$1] - Double(parts[$1]), $0)
        }
        for label in order.prefix(max(0, total - parts.reduce(0, +))) { parts[label] += 1 }
        return parts
    }
}
