internal import Yams

/// What is found out while one cluster file is read: problems, places, and which keys were asked for.
final class Reading {
    let path: String
    let text: YAMLText
    private(set) var problems: [ClusterFileError.Problem] = []
    /// Where each value stands, by its dotted path (`run.schedule.warmup_steps`).
    var places: [String: Place] = [:]
    /// The keys that the readers asked for, by the section's dotted path: the schema, as it really is.
    var asked: [String: Set<String>] = [:]

    init(path: String, text: String) {
        self.path = path
        self.text = YAMLText(text)
        for problem in self.text.problems { report(problem.code, problem.place, problem.text) }
    }

    /// Notes a problem, once: a value of `defaults` is read for every host.
    func report(_ code: ClusterFileError.Code, _ place: Place, _ text: String) {
        let problem = ClusterFileError.Problem(
            code: code,
            path: path,
            place: place,
            text: Self.oneLine(self.text.restored(text))
        )
        if !problems.contains(problem) { problems.append(problem) }
    }

    // A message quotes the file, whose text may hold anything and be of any length.
    private static func oneLine(_ text: String) -> String {
        let limit = 300
        let breaks: Set<Unicode.GeneralCategory> = [.control, .lineSeparator, .paragraphSeparator]
        var line = String.UnicodeScalarView()
        for scalar in text.unicodeScalars.prefix(limit) {
            line.append(breaks.contains(scalar.properties.generalCategory) ? " " : scalar)
        }
        return String(line) + (text.unicodeScalars.count > limit ? "…" : "")
    }

    /// - Throws: ``ClusterFileError`` with all problems, in the order of the file.
    func finish() throws {
        guard problems.isEmpty else {
            throw ClusterFileError(
                problems.enumerated()
                    .sorted {
                        ($0.element.place ?? .init(line: 0, column: 0), $0.offset)
                            < ($1.element.place ?? .init(line: 0, column: 0), $1.offset)
                    }
                    .map(\.element)
            )
        }
    }
}

/// One mapping of the file, read key by key.
///
/// The keys that are asked for *are* the schema: whatever else stands in the mapping is an unknown key, and
/// the keys that were asked for are what it may have been meant to be.
final class Section {
    struct Value {
        var node: Node
        var place: Place
        /// `run.batch`.
        var path: String
    }

    /// `run.model`; empty for the whole file.
    let path: String
    /// Where the mapping begins.
    let place: Place
    let reading: Reading
    /// The keys in file order.
    let keys: [(name: String, place: Place)]
    private let values: [String: Value]
    private let fallback: Section?
    private var asked: Set<String> = []

    /// - Parameter fallback: where a key is looked up that is not here.
    init(_ mapping: Node.Mapping, path: String, place: Place, reading: Reading, fallback: Section? = nil) {
        self.path = path
        self.place = place
        self.reading = reading
        self.fallback = fallback
        var keys: [(name: String, place: Place)] = []
        var values: [String: Value] = [:]
        for (key, node) in mapping {
            let keyPlace = key.mark.map(Place.init) ?? place
            guard case .scalar(let scalar) = key else {
                reading.report(.wrongType, keyPlace, "a key must be a name")
                continue
            }
            let name = reading.text.name(of: scalar)
            if let first = keys.first(where: { $0.name == name }) {
                reading.report(
                    .duplicateKey,
                    keyPlace,
                    "duplicate key `\(name)`\(Self.within(path)), first given in line \(first.place.line)"
                )
                continue
            }
            keys.append((name, keyPlace))
            let valuePath = path.isEmpty ? name : "\(path).\(name)"
            let valuePlace = node.mark.map(Place.init) ?? keyPlace
            values[name] = Value(node: node, place: valuePlace, path: valuePath)
            reading.places[valuePath] = valuePlace
        }
        self.keys = keys
        self.values = values
    }

    /// The value of a key, here or in the fallback; asking makes the key known.
    func value(_ key: String) -> Value? {
        asked.insert(key)
        reading.asked[path, default: []].insert(key)
        return values[key] ?? fallback?.value(key)
    }

    /// True when the key stands in this mapping itself.
    func has(_ key: String) -> Bool { values[key] != nil }

    /// The value of a key that must be there.
    func required(_ key: String) -> Value? {
        if let value = value(key) { return value }
        reading.report(
            .missingKey,
            place,
            "\(path.isEmpty ? "the file" : "`\(path)`") lacks the key `\(key)`"
        )
        return nil
    }

    /// Reports every key that nobody asked for.
    ///
    /// - Parameter owner: what the keys belong to, when it is more than the path (`adamw`).
    func reportUnknownKeys(of owner: String? = nil) {
        for key in keys where !asked.contains(key.name) {
            let whose = owner.map { " (\($0))" } ?? ""
            reading.report(
                .unknownKey,
                key.place,
                "unknown key `\(key.name)`\(Self.within(path))\(whose)"
                    + Suggestion.phrase(for: key.name, among: asked.sorted())
            )
        }
    }

    private static func within(_ path: String) -> String { path.isEmpty ? "" : " in `\(path)`" }
}
