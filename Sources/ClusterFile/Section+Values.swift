internal import Yams

/// What a number must be.
enum NumberRule {
    /// Greater than 0.
    case positive
    /// 0 or greater.
    case notNegative
    /// In [0, 1).
    case fraction
    /// In (0, 1].
    case share
    /// Any number.
    case any

    func allows(_ value: Double) -> Bool {
        switch self {
        case .positive: value > 0
        case .notNegative: value >= 0
        case .fraction: value >= 0 && value < 1
        case .share: value > 0 && value <= 1
        case .any: true
        }
    }

    var words: String {
        switch self {
        case .positive: "greater than 0"
        case .notNegative: "0 or greater"
        case .fraction: "at least 0 and less than 1"
        case .share: "greater than 0 and at most 1"
        case .any: "a number"
        }
    }
}

extension Section {
    /// A scalar as the user wrote it: `3090` is the name "3090".
    func text(_ key: String) -> String? { value(key).flatMap(text) }

    /// A scalar that must be there.
    func requiredText(_ key: String) -> String? { required(key).flatMap(text) }

    /// A whole number within bounds.
    func integer(_ key: String, in bounds: ClosedRange<Int>) -> Int? {
        value(key).flatMap { integer($0, in: bounds) }
    }

    /// A number that obeys a rule.
    func number(_ key: String, _ rule: NumberRule) -> Double? { value(key).flatMap { number($0, rule) } }

    /// A list of numbers, at least one.
    func numbers(_ key: String, _ rule: NumberRule) -> [Double]? {
        guard let items = list(key, "a list of numbers") else { return nil }
        let numbers = items.compactMap { number($0, rule) }
        return numbers.count == items.count ? numbers : nil
    }

    private func number(_ value: Value, _ rule: NumberRule) -> Double? {
        guard let scalar = scalar(value, "a number") else { return nil }
        guard scalar.style == .plain, let number = Double(scalar.string), number.isFinite,
            scalar.string.first.map({ $0.isNumber || "+-.".contains($0) }) == true
        else {
            wrongType(value, "a number", shown(value.node))
            return nil
        }
        guard rule.allows(number) else {
            bad(value, "must be \(rule.words), not \(scalar.string)")
            return nil
        }
        return number
    }

    /// `true` or `false`.
    func boolean(_ key: String) -> Bool? {
        guard let value = value(key), let scalar = scalar(value, "true or false") else { return nil }
        switch scalar.string {
        case "true": return true
        case "false": return false
        default:
            wrongType(value, "true or false", shown(value.node))
            return nil
        }
    }

    /// A length of time with its unit, as `90s`, `10m`, `24h` or `7d`.
    func duration(_ key: String, in bounds: ClosedRange<Duration>) -> Duration? {
        guard let value = value(key), let text = text(value) else { return nil }
        let units: [Character: Int64] = ["s": 1, "m": 60, "h": 3600, "d": 86_400]
        guard let unit = text.last.flatMap({ units[$0] }), let number = Int64(text.dropLast()), number >= 0,
            number <= 1_000_000_000
        else {
            bad(value, "must be a whole number and a unit, as `90s`, `10m`, `24h` or `7d`, not `\(text)`")
            return nil
        }
        let time = Duration.seconds(number * unit)
        guard bounds.contains(time) else {
            let words = "from \(Self.words(bounds.lowerBound)) to \(Self.words(bounds.upperBound))"
            bad(value, "must be \(words), not \(text)")
            return nil
        }
        return time
    }

    /// A list of whole numbers, at least one.
    func integers(_ key: String, in bounds: ClosedRange<Int>) -> [Int]? {
        guard let items = list(key, "a list of whole numbers") else { return nil }
        let numbers = items.compactMap { integer($0, in: bounds) }
        return numbers.count == items.count ? numbers : nil
    }

    /// A list of names, at least one.
    func names(_ key: String) -> [Value]? { list(key, "a list of names") }

    /// One of the cases of an enumeration, by its name.
    func choice<Choice: RawRepresentable & CaseIterable>(
        _ key: String,
        _ type: Choice.Type
    ) -> Choice? where Choice.RawValue == String {
        guard let value = value(key), let name = text(value) else { return nil }
        return choice(value, name, among: type.allCases.map(\.rawValue)).flatMap(Choice.init(rawValue:))
    }

    /// `name` itself when it is among the names; else a problem that lists them.
    func choice(_ value: Value, _ name: String, among names: [String]) -> String? {
        if names.contains(name) { return name }
        bad(
            value,
            "must be \(Self.either(names)), not `\(name)`" + Suggestion.phrase(for: name, among: names),
            .unknownName
        )
        return nil
    }

    /// A mapping.
    func section(_ key: String) -> Section? { value(key).flatMap { section($0) } }

    /// Whether a value has keys of its own.
    func isMapping(_ value: Value) -> Bool { value.node.mapping != nil }

    /// Whether a value is a list without items.
    func isEmptyList(_ value: Value) -> Bool { value.node.sequence?.isEmpty ?? false }

    /// A value as a mapping.
    func section(_ value: Value, fallback: Section? = nil) -> Section? {
        guard case .mapping(let mapping) = value.node else {
            wrongType(value, "a mapping", shown(value.node))
            return nil
        }
        return Section(mapping, path: value.path, place: value.place, reading: reading, fallback: fallback)
    }

    /// A value as text.
    func text(_ value: Value) -> String? { scalar(value, "text")?.string }

    /// Reports a value that cannot be used.
    func bad(_ value: Value, _ words: String, _ code: ClusterFileError.Code = .badValue) {
        reading.report(code, value.place, "`\(value.path)` \(words)")
    }

    /// `a`, `a or b`, `a, b or c`.
    static func either(_ names: [String]) -> String {
        guard let last = names.last, names.count > 1 else { return names.first ?? "" }
        return names.dropLast().joined(separator: ", ") + " or " + last
    }

    /// The largest unit that divides it: `7d`.
    private static func words(_ time: Duration) -> String {
        let seconds = time.components.seconds
        for (unit, name) in [(Int64(86_400), "d"), (3600, "h"), (60, "m")] where seconds % unit == 0 {
            return "\(seconds / unit)\(name)"
        }
        return "\(seconds)s"
    }

    private func integer(_ value: Value, in bounds: ClosedRange<Int>) -> Int? {
        guard let scalar = scalar(value, "a whole number") else { return nil }
        guard scalar.style == .plain, let number = Int(scalar.string) else {
            wrongType(value, "a whole number", shown(value.node))
            return nil
        }
        guard bounds.contains(number) else {
            let words =
                bounds.upperBound == .max
                ? "at least \(bounds.lowerBound)" : "from \(bounds.lowerBound) to \(bounds.upperBound)"
            bad(value, "must be \(words), not \(number)")
            return nil
        }
        return number
    }

    private func list(_ key: String, _ kind: String) -> [Value]? { value(key).flatMap { items($0, kind) } }

    /// The items of a list, at least one.
    func items(_ value: Value, _ kind: String) -> [Value]? {
        guard case .sequence(let items) = value.node else {
            wrongType(value, kind, shown(value.node))
            return nil
        }
        guard !items.isEmpty else {
            bad(value, "must not be empty")
            return nil
        }
        return items.enumerated().map { index, node in
            Value(
                node: node,
                place: node.mark.map(Place.init) ?? value.place,
                path: "\(value.path)[\(index)]"
            )
        }
    }

    private func scalar(_ value: Value, _ kind: String) -> Node.Scalar? {
        guard case .scalar(let scalar) = value.node else {
            wrongType(value, kind, shown(value.node))
            return nil
        }
        guard !scalar.string.isEmpty, scalar.style != .plain || !["~", "null"].contains(scalar.string) else {
            bad(value, "has no value; write \(kind) or leave the key out", .wrongType)
            return nil
        }
        return scalar
    }

    private func wrongType(_ value: Value, _ kind: String, _ found: String) {
        bad(value, "must be \(kind), not \(found)", .wrongType)
    }

    private func shown(_ node: Node) -> String {
        switch node {
        case .scalar(let scalar): scalar.string.isEmpty ? "nothing" : "`\(scalar.string)`"
        case .mapping: "a mapping"
        case .sequence: "a list"
        case .alias: "a reference"
        }
    }
}
