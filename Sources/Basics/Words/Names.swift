/// The id of one training, unique over all clusters: a UTC date, a time and random letters (`20261121-101502-k3f9`).
///
/// The same file submitted again is a new run with an id of its own.
public struct RunID: Hashable, Sendable, Codable, Comparable, CustomStringConvertible {
    /// The id as text: `[a-z0-9-]+`.
    public let text: String

    /// Takes an id that was made before; nil when it holds other characters than `a-z`, `0-9` and `-`.
    public init?(_ text: String) {
        guard !text.isEmpty, text.utf8.count <= 64, text.utf8.allSatisfy(Self.isAllowed) else { return nil }
        self.text = text
    }

    /// Makes a new id.
    ///
    /// - Parameter timestamp: `yyyymmdd-hhmmss`, UTC, from the door's clock.
    public static func make(timestamp: String) -> RunID {
        let letters = Array("abcdefghijkmnpqrstuvwxyz23456789")
        let tail = String((0..<5).map { _ in letters[Int.random(in: 0..<letters.count)] })
        guard let id = RunID("\(timestamp)-\(tail)") else {
            preconditionFailure("bad timestamp \(timestamp)")
        }
        return id
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        (0x61...0x7A).contains(byte) || (0x30...0x39).contains(byte) || byte == 0x2D
    }

    /// The id itself.
    public var description: String { text }
    /// Orders by text, so by time.
    public static func < (a: RunID, b: RunID) -> Bool { a.text < b.text }

    /// Reads the id as a string.
    public init(from decoder: any Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        guard let id = RunID(text) else {
            throw DecodingError.dataCorrupted(
                .init(codingPath: decoder.codingPath, debugDescription: "bad run id")
            )
        }
        self = id
    }
    /// Writes the id as a string.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }
}

/// A value that must never be shown: a token, a key, a run's secret.
///
/// `description` is `[redacted]`; there is no `Codable`, so it cannot slip into a message or a log.
public struct Redacted<Value: Sendable>: Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    /// The secret.
    ///
    /// Name it only where it is used.
    public let value: Value
    /// Wraps a secret.
    public init(_ value: Value) { self.value = value }
    /// Always `[redacted]`.
    public var description: String { "[redacted]" }
    /// Always `[redacted]`.
    public var debugDescription: String { "[redacted]" }
}

/// A number of bytes.
public struct ByteCount: Hashable, Sendable, Codable, Comparable, CustomStringConvertible {
    /// The number.
    public var bytes: Int64
    /// Wraps a number.
    public init(_ bytes: Int64) { self.bytes = bytes }
    /// Wraps a number.
    public init(_ bytes: Int) { self.bytes = Int64(bytes) }

    /// `512 B`, `3.4 KB`, `1.2 GB`: decimal units, one digit behind the point.
    public var description: String {
        var value = Double(bytes)
        for unit in ["B", "KB", "MB", "GB"] {
            if value < 1000 { return unit == "B" ? "\(bytes) B" : "\((value * 10).rounded() / 10) \(unit)" }
            value /= 1000
        }
        return "\((value * 10).rounded() / 10) TB"
    }
    /// Orders by number.
    public static func < (a: ByteCount, b: ByteCount) -> Bool { a.bytes < b.bytes }
}
