/// A JSON text that somebody else wrote, read once.
///
/// Own parser: requests are mostly arrays of numbers, which go straight into one array of `Double`.
enum JSON: Equatable, Sendable {
    case null
    case bool(Bool)
    case number(Double)
    case string(String)
    case array([JSON])
    /// An array with nothing but numbers (not empty).
    case numbers([Double])
    case object([String: JSON])

    /// Reads one JSON value and nothing behind it.
    ///
    /// - Throws: ``ServingError`` `.badRequest` with the position.
    init(_ bytes: some Collection<UInt8>) throws {
        let copy = ContiguousArray(bytes)
        self = try copy.withUnsafeBufferPointer { buffer in
            var parser = JSONParser(bytes: buffer)
            return try parser.document()
        }
    }

    /// The member of an object; nil for anything else.
    subscript(key: String) -> JSON? { if case .object(let members) = self { members[key] } else { nil } }
    /// The text of a string.
    var text: String? { if case .string(let text) = self { text } else { nil } }
    /// The value of true or false.
    var truth: Bool? { if case .bool(let truth) = self { truth } else { nil } }
    /// A number without a fraction.
    var integer: Int? { if case .number(let number) = self { Int(exactly: number) } else { nil } }
    /// The elements of an array.
    var elements: [JSON]? {
        switch self {
        case .array(let elements): elements
        case .numbers(let numbers): numbers.map { .number($0) }
        default: nil
        }
    }

    /// A string literal.
    static func quoted(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\r": out += "\\r"
            case "\t": out += "\\t"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }
}

private struct JSONParser {
    // Safety: lives only inside the closure of `withUnsafeBufferPointer`; every access is behind a bounds check.
    let bytes: UnsafeBufferPointer<UInt8>
    var index = 0
    var depth = 0

    init(bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }

    mutating func document() throws -> JSON {
        let value = try value()
        skipSpace()
        guard index == bytes.count else { throw problem("something behind the value") }
        return value
    }

    private func problem(_ what: String) -> ServingError {
        ServingError(.badRequest, "the JSON is not valid at byte \(index): \(what)")
    }

    private var next: UInt8? { index < bytes.count ? bytes[index] : nil }

    private mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { index += 1 }
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        skipSpace()
        guard next == byte else { return false }
        index += 1
        return true
    }

    private mutating func value() throws -> JSON {
        skipSpace()
        guard let byte = next else { throw problem("it ends here") }
        switch byte {
        case UInt8(ascii: "{"): return try object()
        case UInt8(ascii: "["): return try array()
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return .number(try number())
        }
    }

    private mutating func word(_ text: StaticString, _ meaning: JSON) throws -> JSON {
        let count = text.utf8CodeUnitCount
        let matches = text.withUTF8Buffer { word in
            index + count <= bytes.count && bytes[index..<index + count].elementsEqual(word)
        }
        guard matches else { throw problem("unknown word") }
        index += count
        return meaning
    }

    private mutating func enter() throws {
        depth += 1
        guard depth <= 64 else { throw problem("nested deeper than 64") }
    }

    private mutating func object() throws -> JSON {
        try enter()
        index += 1
        var members: [String: JSON] = [:]
        if take(UInt8(ascii: "}")) {
            depth -= 1
            return .object(members)
        }
        repeat {
            skipSpace()
            guard next == UInt8(ascii: "\"") else { throw problem("a key should stand here") }
            let key = try string()
            guard take(UInt8(ascii: ":")) else { throw problem("':' should stand here") }
            guard members.updateValue(try value(), forKey: key) == nil else {
                throw problem("the key \(JSON.quoted(key)) stands twice")
            }
        } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "}")) else { throw problem("'}' should stand here") }
        depth -= 1
        return .object(members)
    }

    private mutating func array() throws -> JSON {
        try enter()
        defer { depth -= 1 }
        index += 1
        if take(UInt8(ascii: "]")) { return .array([]) }
        var numbers: [Double] = []
        var others: [JSON] = []
        repeat {
            let element = try value()
            if case .number(let number) = element, others.isEmpty {
                numbers.append(number)
            } else {
                if others.isEmpty { others = numbers.map { .number($0) } }
                others.append(element)
            }
        } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "]")) else { throw problem("']' should stand here") }
        return others.isEmpty ? .numbers(numbers) : .array(others)
    }

    private mutating func number() throws -> Double {
        let start = index
        let isNegative = next == UInt8(ascii: "-")
        if isNegative { index += 1 }
        var mantissa: UInt64 = 0
        var scale = 0
        var isExact = true
        func digit() -> UInt64? {
            guard let byte = next, byte >= 0x30, byte <= 0x39 else { return nil }
            return UInt64(byte - 0x30)
        }
        func digits() -> Int {
            var count = 0
            while let value = digit() {
                if mantissa < 1 << 49 { mantissa = mantissa * 10 + value } else { isExact = false }
                index += 1
                count += 1
            }
            return count
        }
        let leadingZero = next == UInt8(ascii: "0")
        let whole = digits()
        guard whole == 1 || (whole > 1 && !leadingZero) else { throw problem("a value should stand here") }
        if next == UInt8(ascii: ".") {
            index += 1
            let fraction = digits()
            guard fraction > 0 else { throw problem("a digit should stand here") }
            scale = -fraction
        }
        if let byte = next, byte | 0x20 == UInt8(ascii: "e") {
            index += 1
            let negative = next == UInt8(ascii: "-")
            if negative || next == UInt8(ascii: "+") { index += 1 }
            var exponent = 0
            guard digit() != nil else { throw problem("a digit should stand here") }
            while let value = digit() {
                exponent = min(exponent * 10 + Int(value), 100_000)
                index += 1
            }
            scale += negative ? -exponent : exponent
        }
        // Both factors are exact in double, so one rounding gives the nearest value (Clinger 1990).
        if isExact, abs(scale) <= 22 {
            let power = Self.powersOfTen[abs(scale)]
            let size = scale < 0 ? Double(mantissa) / power : Double(mantissa) * power
            return isNegative ? -size : size
        }
        guard let value = Double(String(decoding: bytes[start..<index], as: UTF8.self)), value.isFinite else {
            throw problem("the number is too large")
        }
        return value
    }

    private static let powersOfTen: [Double] = (0...22).map { count in
        (0..<count).reduce(1.0) { power, _ in power * 10 }
    }

    private mutating func string() throws -> String {
        index += 1
        var out: [UInt8] = []
        while let byte = next {
            index += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let text = String(validating: out, as: UTF8.self) else { throw problem("not UTF-8") }
                return text
            case UInt8(ascii: "\\"):
                try escape(into: &out)
            case 0..<0x20:
                throw problem("a control character in a string")
            default:
                out.append(byte)
            }
        }
        throw problem("a string does not end")
    }

    private mutating func escape(into out: inout [UInt8]) throws {
        guard let kind = next else { throw problem("a string does not end") }
        index += 1
        switch kind {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): out.append(kind)
        case UInt8(ascii: "b"): out.append(8)
        case UInt8(ascii: "f"): out.append(12)
        case UInt8(ascii: "n"): out.append(10)
        case UInt8(ascii: "r"): out.append(13)
        case UInt8(ascii: "t"): out.append(9)
        case UInt8(ascii: "u"):
            var code = try hexadecimal()
            if code & 0xFC00 == 0xD800 {
                guard next == UInt8(ascii: "\\") else { throw problem("half a surrogate pair") }
                index += 1
                guard next == UInt8(ascii: "u") else { throw problem("half a surrogate pair") }
                index += 1
                let low = try hexadecimal()
                guard low & 0xFC00 == 0xDC00 else { throw problem("half a surrogate pair") }
                code = 0x10000 + ((code & 0x3FF) << 10) + (low & 0x3FF)
            }
            guard let scalar = Unicode.Scalar(code) else { throw problem("half a surrogate pair") }
            out += Array(String(Character(scalar)).utf8)
        default: throw problem("unknown escape")
        }
    }

    private mutating func hexadecimal() throws -> UInt32 {
        guard index + 4 <= bytes.count,
            bytes[index..<index + 4].allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }),
            let value = UInt32(String(decoding: bytes[index..<index + 4], as: UTF8.self), radix: 16)
        else { throw problem("four hexadecimal digits should stand here") }
        index += 4
        return value
    }
}
