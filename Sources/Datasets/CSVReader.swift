internal import Basics

/// How a CSV file is to be read.
public struct CSVOptions: Sendable {
    /// Which column holds the label.
    public enum LabelColumn: Hashable, Sendable {
        /// The last one.
        case last
        /// By number, from 0; negative counts from the end.
        case index(Int)
        /// By its name in the header.
        case named(String)
    }
    /// Whether the first line names the columns.
    public enum Header: Hashable, Sendable {
        /// It does when none of its cells is a number.
        case automatic
        /// It does.
        case present
        /// It holds a sample.
        case absent
    }

    /// Which column holds the label.
    public var label: LabelColumn
    /// Whether the first line names the columns.
    public var header: Header
    /// Between cells.
    public var separator: UInt8
    /// The classes in label order; nil = those in the file, sorted (as numbers when all are).
    public var classes: [String]?
    /// Shape of a sample; nil = `[features]`.
    public var shape: [Int]?

    /// All options.
    public init(
        label: LabelColumn = .last,
        header: Header = .automatic,
        separator: UInt8 = UInt8(ascii: ","),
        classes: [String]? = nil,
        shape: [Int]? = nil
    ) {
        self.label = label
        self.header = header
        self.separator = separator
        self.classes = classes
        self.shape = shape
    }
}

/// Reads samples from text: one line a sample, numbers and a label between separators.
///
/// A cell may stand in double quotes (`""` for a quote in it) but not span lines; spaces round a cell and
/// empty lines are skipped. Values that are all whole numbers from 0 to 255 are stored as bytes, any others
/// as `Float`.
public enum CSVReader {
    /// Reads a file, gzip-compressed or not.
    ///
    /// - Throws: ``DatasetError`` `.badInput` or `.badLabel` naming file and line; `FileError`.
    public static func read(_ path: String, options: CSVOptions = CSVOptions()) throws -> SampleTable {
        try read(InputFile.read(path), named: path, options: options)
    }

    /// Reads text that is in memory.
    ///
    /// - Parameter name: the file's name in messages.
    public static func read(
        _ bytes: [UInt8],
        named name: String,
        options: CSVOptions = CSVOptions()
    ) throws -> SampleTable {
        var parser = Parser(file: name, options: options)
        var line = 0
        var start = bytes.starts(with: [0xEF, 0xBB, 0xBF]) ? 3 : 0
        while start < bytes.count {
            let end = bytes[start...].firstIndex(of: 0x0A) ?? bytes.count
            line += 1
            try parser.take(bytes[start..<end], line: line)
            start = end + 1
        }
        return try parser.finish(
            source: DatasetSource(name: Files.name(name), sha256: Digest(of: bytes))
        )
    }
}

private struct Parser {
    let file: String
    let options: CSVOptions
    private var columns = 0
    private var labelColumn = 0
    private var isStarted = false
    private var values: [Float] = []
    private var labels: [(text: String, line: Int)] = []
    private var allBytes = true

    init(file: String, options: CSVOptions) {
        self.file = file
        self.options = options
    }

    func error(_ line: Int, _ text: String, hint: String? = nil) -> DatasetError {
        DatasetError(.badInput, "\(file):\(line): \(text)", hint: hint)
    }

    mutating func take(_ bytes: ArraySlice<UInt8>, line: Int) throws {
        guard bytes.contains(where: { !isSpace($0) }) else { return }
        let cells = try split(bytes, line: line)
        if !isStarted, try start(cells, line: line) { return }
        guard cells.count == columns else {
            throw error(line, "\(cells.count) columns, the first line has \(columns)")
        }
        for (column, cell) in cells.enumerated() {
            if column == labelColumn {
                let text = String(decoding: cell, as: UTF8.self)
                guard !text.isEmpty else { throw error(line, "column \(column + 1), the label, is empty") }
                labels.append((text, line))
            } else if let small = smallInteger(cell) {
                values.append(Float(small))
            } else {
                let text = String(decoding: cell, as: UTF8.self)
                guard let value = Float(text), value.isFinite else {
                    let shown = text.isEmpty ? "is empty" : "is '\(text.prefix(40))'"
                    throw error(line, "column \(column + 1) \(shown), not a finite number")
                }
                if !(value >= 0 && value <= 255 && value.rounded() == value) || value.sign == .minus {
                    allBytes = false
                }
                values.append(value)
            }
        }
    }

    /// Looks at the first line; true when it is a header.
    private mutating func start(_ cells: [ArraySlice<UInt8>], line: Int) throws -> Bool {
        isStarted = true
        columns = cells.count
        guard columns >= 2 else {
            throw error(
                line,
                "one column only, a label and at least one value are needed",
                hint: "name the separator when it is not a comma"
            )
        }
        let names = cells.map { String(decoding: $0, as: UTF8.self) }
        let isHeader =
            switch options.header {
            case .present: true
            case .absent: false
            case .automatic: names.allSatisfy { Float($0) == nil }
            }
        switch options.label {
        case .last: labelColumn = columns - 1
        case .index(let index):
            labelColumn = index < 0 ? columns + index : index
            guard (0..<columns).contains(labelColumn) else {
                throw error(line, "there is no column \(index), the line has \(columns)")
            }
        case .named(let name):
            guard isHeader else {
                throw error(line, "the label column '\(name)' is named, but the first line is no header")
            }
            guard let index = names.firstIndex(of: name) else {
                throw error(
                    line,
                    "there is no column '\(name)'",
                    hint: "the columns are: \(names.prefix(20).joined(separator: ", "))"
                )
            }
            labelColumn = index
        }
        return isHeader
    }

    private func isSpace(_ byte: UInt8) -> Bool {
        (byte == 0x20 || byte == 0x0D || byte == 0x09) && byte != options.separator
    }

    private func smallInteger(_ cell: ArraySlice<UInt8>) -> Int? {
        guard (1...3).contains(cell.count) else { return nil }
        var value = 0
        for byte in cell {
            guard (0x30...0x39).contains(byte) else { return nil }
            value = value * 10 + Int(byte - 0x30)
        }
        return value <= 255 ? value : nil
    }

    private func split(_ bytes: ArraySlice<UInt8>, line: Int) throws -> [ArraySlice<UInt8>] {
        guard bytes.contains(0x22) else {
            return bytes.split(separator: options.separator, omittingEmptySubsequences: false).map {
                trim($0)
            }
        }
        var cells: [ArraySlice<UInt8>] = []
        var rest = bytes
        while true {
            rest = rest.drop(while: isSpace)
            var cell: ArraySlice<UInt8>
            if rest.first == 0x22 {
                var text: [UInt8] = []
                var index = rest.startIndex + 1
                while true {
                    guard index < rest.endIndex else { throw error(line, "a quote is not closed") }
                    if rest[index] == 0x22 {
                        guard index + 1 < rest.endIndex, rest[index + 1] == 0x22 else { break }
                        index += 1
                    }
                    text.append(rest[index])
                    index += 1
                }
                rest = rest[(index + 1)...].drop(while: isSpace)
                guard rest.isEmpty || rest.first == options.separator else {
                    throw error(line, "there is text behind a closing quote")
                }
                cell = text[...]
            } else {
                let end = rest.firstIndex(of: options.separator) ?? rest.endIndex
                cell = trim(rest[..<end])
                rest = rest[end...]
            }
            cells.append(cell)
            guard rest.first == options.separator else { return cells }
            rest = rest.dropFirst()
        }
    }

    private func trim(_ cell: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var cell = cell.drop(while: isSpace)
        while let last = cell.last, isSpace(last) { cell = cell.dropLast() }
        return cell
    }

    func finish(source: DatasetSource) throws -> SampleTable {
        guard !labels.isEmpty else {
            throw DatasetError(.badInput, "\(file) holds no samples", hint: "one line a sample is expected")
        }
        let features = columns - 1
        let shape = options.shape ?? [features]
        guard shape.reduce(1, *) == features, shape.count == 1 || shape.count == 3 else {
            throw DatasetError(
                .badInput,
                "\(file) has \(features) values a line, which are not the shape \(shape)",
                hint: "give a shape [F] or [C, H, W] whose product is \(features)"
            )
        }
        let classes = ClassNames(given: options.classes, seen: labels.map(\.text))
        let indices = try labels.map { label in
            guard let index = classes.index(of: label.text) else {
                throw DatasetError(
                    .badLabel,
                    "\(file):\(label.line): label '\(label.text.prefix(40))' is outside the classes "
                        + classes.summary,
                    hint: "correct the label, or add the class"
                )
            }
            return index
        }
        var bytes: [UInt8] = []
        if allBytes {
            bytes = values.map { UInt8($0) }
        } else {
            bytes.reserveCapacity(4 * values.count)
            for value in values {
                // One bit pattern for zero, or equal samples would not be equal.
                withUnsafeBytes(of: (value == 0 ? 0 : value).bitPattern.littleEndian) {
                    bytes.append(contentsOf: $0)
                }
            }
        }
        return SampleTable(
            type: allBytes ? .uint8 : .float32,
            shape: shape,
            classes: classes.names,
            values: bytes,
            labels: indices,
            sources: [source]
        )
    }
}
