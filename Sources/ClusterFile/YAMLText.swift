internal import Yams

/// YAML text as a tree in which every node knows its place.
struct YAMLText {
    /// The tree; nil for an empty file.
    private(set) var root: Node?
    /// Problems that kept the text, or a part of it, from being read.
    private(set) var problems: [(code: ClusterFileError.Code, place: Place, text: String)] = []
    /// First letters of keys that were replaced, see ``init(_:)``.
    private var replaced: [Place: Unicode.Scalar] = [:]
    /// The same letters in the order of their stand-ins.
    private var letters: [Unicode.Scalar] = []

    /// Parses one document.
    ///
    /// Yams gives up at the first key that stands twice. To go on and find the other problems too, the first
    /// letter of such a key is replaced by a private-use letter of the same width, which moves no column, and
    /// the text is parsed again; ``name(of:)`` undoes it.
    init(_ text: String) {
        var scalars = Array(text.unicodeScalars)
        // A file that repeats a key more often than this has been reported well enough.
        for attempt in 0..<64 {
            do {
                var source = String.UnicodeScalarView()
                source.append(contentsOf: scalars)
                // The basic resolver: what a scalar means is decided by the key it stands under.
                root = try Yams.compose(yaml: String(source), .basic)
                return
            } catch let error as YamlError {
                if case .duplicatedKeysInMapping(let keys, let context) = error,
                    rename(keyAt: Place(context.mark), in: &scalars, attempt: attempt)
                {
                    _ = keys
                    continue
                }
                problems.append(Self.problem(error, in: text))
                return
            } catch {
                problems.append((.malformed, Place(line: 1, column: 1), "malformed YAML: \(error)"))
                return
            }
        }
        problems.append((.duplicateKey, Place(line: 1, column: 1), "too many keys stand twice"))
    }

    /// A key as the user wrote it.
    func name(of key: Node.Scalar) -> String {
        guard let mark = key.mark, let letter = replaced[Place(mark)] else { return key.string }
        var name = String.UnicodeScalarView([letter])
        name.append(contentsOf: key.string.unicodeScalars.dropFirst())
        return String(name)
    }

    /// A message with the letters that the user wrote in the place of their stand-ins.
    func restored(_ message: String) -> String {
        guard !letters.isEmpty else { return message }
        var restored = String.UnicodeScalarView()
        for scalar in message.unicodeScalars {
            let index = Int(scalar.value) - 0xE000
            restored.append(letters.indices.contains(index) ? letters[index] : scalar)
        }
        return String(restored)
    }

    private mutating func rename(keyAt place: Place, in scalars: inout [Unicode.Scalar], attempt: Int) -> Bool
    {
        guard var index = Self.index(of: place, in: scalars) else { return false }
        if scalars[index] == "\"" || scalars[index] == "'" { index += 1 }
        // Only a plain letter or digit can be exchanged without changing what the rest means.
        guard index < scalars.count, scalars[index].properties.isAlphabetic || scalars[index].isDigit,
            let stand = Unicode.Scalar(UInt32(0xE000 + attempt))
        else { return false }
        replaced[place] = scalars[index]
        letters.append(scalars[index])
        scalars[index] = stand
        return true
    }

    private static func index(of place: Place, in scalars: [Unicode.Scalar]) -> Int? {
        var line = 1
        var start = scalars.startIndex
        while line < place.line {
            guard let end = scalars[start...].firstIndex(where: { $0 == "\n" }) else { return nil }
            start = end + 1
            line += 1
        }
        let index = start + place.column - 1
        return index < scalars.count ? index : nil
    }

    private static func problem(
        _ error: YamlError,
        in text: String
    ) -> (code: ClusterFileError.Code, place: Place, text: String) {
        switch error {
        case .scanner(let context, let problem, let mark, _),
            .parser(let context, let problem, let mark, _),
            .composer(let context, let problem, let mark, _):
            let before = context.map { "\($0.text), " } ?? ""
            return (.malformed, Place(mark), "malformed YAML: \(before)\(problem)")
        case .reader(let problem, let offset, _, _):
            let before = text.prefix(offset ?? 0)
            let line = before.count { $0.isNewline } + 1
            let column =
                (before.lastIndex { $0.isNewline }.map { before[$0...].count - 1 } ?? before.count) + 1
            return (.malformed, Place(line: line, column: column), "malformed YAML: \(problem)")
        case .duplicatedKeysInMapping(let keys, let context):
            let names = keys.map { "`\($0)`" }.joined(separator: ", ")
            return (.duplicateKey, Place(context.mark), "duplicate key \(names)")
        default:
            return (.malformed, Place(line: 1, column: 1), "malformed YAML: \(error)")
        }
    }
}

extension Place {
    /// The place of a mark of the parser.
    init(_ mark: Mark) { self.init(line: mark.line, column: mark.column) }
}

extension Unicode.Scalar {
    fileprivate var isDigit: Bool { ("0"..."9").contains(self) }
}
