/// Something about a dataset that a person should know before training on it.
public struct DatasetFinding: Hashable, Sendable, Codable, CustomStringConvertible {
    /// How bad it is.
    public enum Severity: String, Hashable, Sendable, Codable, Comparable {
        /// For information.
        case note
        /// Training works and may be worse for it.
        case warning
        /// Training on it makes no sense.
        case error

        private var rank: Int {
            switch self {
            case .note: 0
            case .warning: 1
            case .error: 2
            }
        }
        /// Orders from note to error.
        public static func < (a: Severity, b: Severity) -> Bool { a.rank < b.rank }
    }
    /// What was found.
    public enum Kind: String, Hashable, Sendable, Codable {
        /// A class without samples.
        case emptyClass
        /// A class with one sample.
        case singleSample
        /// Equal samples with one label.
        case duplicates
        /// Equal samples with several labels.
        case contradictions
        /// Values that are the same in all samples.
        case constantFeatures
        /// A class with ten times the samples of another.
        case imbalance
    }

    /// How bad it is.
    public var severity: Severity
    /// What was found.
    public var kind: Kind
    /// In words.
    public var message: String

    /// `warning: …`.
    public var description: String { "\(severity.rawValue): \(message)" }
}

/// Counts and findings about a whole dataset.
public struct DatasetCheck: Hashable, Sendable, Codable {
    /// Number of samples.
    public var count: Int
    /// The names of the classes, in label order.
    public var classes: [String]
    /// Samples of each class, in label order.
    public var classCounts: [Int]
    /// The smallest value of all samples.
    public var minimum: Float
    /// The largest value of all samples.
    public var maximum: Float
    /// The worst first.
    public var findings: [DatasetFinding]

    /// True when no finding is an error.
    public var isUsable: Bool { !findings.contains { $0.severity == .error } }

    /// Looks at every sample.
    ///
    /// - Precondition: all shards of the dataset are loaded.
    /// - Cost: one pass over the values.
    public static func run(_ dataset: Dataset) -> DatasetCheck {
        var check = DatasetCheck(
            count: dataset.count,
            classes: dataset.classes,
            classCounts: dataset.index.classCounts,
            minimum: 0,
            maximum: 0,
            findings: []
        )
        // Letters of a text are rare or common, and none is anybody's mistake.
        if dataset.index.kind != .text { check.lookAtClasses() }
        check.lookForCopies(dataset)
        check.lookAtFeatures(dataset)
        check.findings.sort { $0.severity > $1.severity }
        return check
    }

    private mutating func found(
        _ severity: DatasetFinding.Severity,
        _ kind: DatasetFinding.Kind,
        _ message: String
    ) {
        findings.append(DatasetFinding(severity: severity, kind: kind, message: message))
    }

    private mutating func lookAtClasses() {
        for (name, count) in zip(classes, classCounts) where count == 0 {
            found(.error, .emptyClass, "class '\(name)' has no samples")
        }
        for (name, count) in zip(classes, classCounts) where count == 1 {
            found(
                .warning,
                .singleSample,
                "class '\(name)' has one sample: too few to train and to validate on"
            )
        }
        let present = zip(classCounts, classes).filter { $0.0 > 0 }
        if let (least, rare) = present.min(by: { $0.0 < $1.0 }),
            let (most, common) = present.max(by: { $0.0 < $1.0 }), most >= 10 * least
        {
            found(
                .warning,
                .imbalance,
                "class '\(common)' has \(most) samples, class '\(rare)' only \(least): accuracy will hide the rare one"
            )
        }
    }

    private mutating func lookForCopies(_ dataset: Dataset) {
        var copies = 0
        var contradictions: [(Int, Int)] = []
        var start = 0
        while start < dataset.count {
            var end = start + 1
            while end < dataset.count, dataset.sampleIDs[end].content == dataset.sampleIDs[start].content {
                end += 1
            }
            if end - start > 1 {
                let labels = Set((start..<end).map { dataset.label($0) })
                copies += end - start - labels.count
                if labels.count > 1, let least = labels.min(), let most = labels.max() {
                    contradictions.append((least, most))
                }
            }
            start = end
        }
        if let (first, second) = contradictions.first {
            let number = contradictions.count
            found(
                .warning,
                .contradictions,
                "\(number) \(number == 1 ? "sample is" : "samples are") there under different labels, one as "
                    + "'\(classes[first])' and as '\(classes[second])'"
            )
        }
        if copies > 0 {
            let words =
                copies == 1 ? "sample is an exact copy of another" : "samples are exact copies of others"
            found(.warning, .duplicates, "\(copies) \(words) of the same class")
        }
    }

    private mutating func lookAtFeatures(_ dataset: Dataset) {
        let size = dataset.shape.reduce(1, *)
        guard dataset.count > 0 else { return }
        var least = dataset.read(0)
        var most = least
        var values = [Float](repeating: 0, count: size)
        for sample in 1..<max(dataset.count, 1) {
            values.withUnsafeMutableBufferPointer { dataset.read(sample, into: $0) }
            for position in 0..<size {
                least[position] = min(least[position], values[position])
                most[position] = max(most[position], values[position])
            }
        }
        minimum = least.min() ?? 0
        maximum = most.max() ?? 0
        let constant = zip(least, most).count { $0 == $1 }
        if constant > 0 {
            let severity: DatasetFinding.Severity = constant == size ? .error : .note
            found(severity, .constantFeatures, "\(constant) of \(size) values are the same in all samples")
        }
    }
}
