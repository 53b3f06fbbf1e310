internal import Basics

/// Reads a type's parameters one by one, and refuses those that nobody asked for.
struct SpecReader {
    private let spec: TypedSpec
    private let kind: String
    private var known: [String] = []

    /// - Parameter kind: `model`, `optimizer` or `schedule`, for messages.
    init(_ spec: TypedSpec, kind: String) {
        self.spec = spec
        self.kind = kind
    }

    /// A number within a range.
    mutating func number(_ key: String, default value: Double, _ range: ClosedRange<Double>) throws -> Double
    {
        try read(key, default: value, "a number in \(range.lowerBound) to \(range.upperBound)") {
            $0.number.flatMap { range.contains($0) ? $0 : nil }
        }
    }

    /// A whole number within a range.
    mutating func integer(_ key: String, default value: Int, _ range: ClosedRange<Int>) throws -> Int {
        try read(key, default: value, "a whole number in \(range.lowerBound) to \(range.upperBound)") {
            $0.integer.flatMap { range.contains($0) ? $0 : nil }
        }
    }

    /// True or false.
    mutating func boolean(_ key: String, default value: Bool) throws -> Bool {
        try read(key, default: value, "true or false") {
            if case .boolean(let value) = $0 { value } else { nil }
        }
    }

    /// Whole numbers within a range, at most 64.
    mutating func integers(_ key: String, default value: [Int], _ range: ClosedRange<Int>) throws -> [Int] {
        try read(key, default: value, "a list of whole numbers in \(range.lowerBound) to \(range.upperBound)")
        {
            $0.integers.flatMap { $0.count <= 64 && $0.allSatisfy(range.contains) ? $0 : nil }
        }
    }

    /// Numbers within a range; nil when there are none.
    mutating func numbers(_ key: String, _ range: ClosedRange<Double>) throws -> [Double]? {
        try read(
            key,
            default: nil,
            "a list of numbers in \(range.lowerBound) to \(range.upperBound)"
        ) { value in
            value.numbers.flatMap { $0.allSatisfy(range.contains) ? .some($0) : nil }
        }
    }

    /// One of some names.
    mutating func choice(_ key: String, default value: String, among names: [String]) throws -> String {
        try read(key, default: value, "one of \(names.joined(separator: ", "))") {
            $0.text.flatMap { names.contains($0) ? $0 : nil }
        }
    }

    /// A list of layers, at least one.
    mutating func layers(_ key: String) throws -> [TypedSpec] {
        let found: [TypedSpec]? = try read(key, default: nil, "a list of layers") { value in
            value.specs.flatMap { $0.isEmpty ? nil : .some($0) }
        }
        guard let found else { throw TrainingError(.badSpec, "\(kind) \(spec.type) needs \(key)") }
        return found
    }

    /// Refuses parameters that were not read.
    func finish() throws {
        let unknown = spec.parameters.keys.filter { !known.contains($0) }.sorted()
        guard unknown.isEmpty else {
            throw TrainingError(
                .badSpec,
                "\(kind) \(spec.type) has no parameter \(unknown.joined(separator: ", "))",
                hint: known.isEmpty ? "remove it" : "known: \(known.sorted().joined(separator: ", "))"
            )
        }
    }

    /// The error for a type that is not in a registry.
    static func unknownType(_ spec: TypedSpec, kind: String, known: [String]) -> TrainingError {
        TrainingError(
            .badSpec,
            "there is no \(kind) \(spec.type)",
            hint: "choose one of \(known.sorted().joined(separator: ", "))"
        )
    }

    private mutating func read<Value>(
        _ key: String,
        default value: Value,
        _ wanted: String,
        _ convert: (SpecValue) -> Value?
    ) throws -> Value {
        known.append(key)
        guard let given = spec.parameters[key] else { return value }
        guard let converted = convert(given) else {
            throw TrainingError(.badSpec, "\(kind) \(spec.type): \(key) must be \(wanted)")
        }
        return converted
    }
}
