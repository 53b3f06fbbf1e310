internal import Basics
internal import Foundation
internal import GRDB

/// Reads columns without trusting them: a damaged value is an error with the column's name, never a trap.
extension Row {
    func value<Value: DatabaseValueConvertible & StatementColumnConvertible>(
        _ column: String,
        _ type: Value.Type = Value.self
    ) throws -> Value {
        try decode(Value.self, forColumn: column)
    }

    func optional<Value: DatabaseValueConvertible & StatementColumnConvertible>(
        _ column: String,
        _ type: Value.Type = Value.self
    ) throws -> Value? {
        try decode(Value?.self, forColumn: column)
    }

    /// A value that is stored as text and checked when it is read.
    func word<Word>(_ column: String, _ make: (String) -> Word?) throws -> Word {
        let text = try value(column, String.self)
        guard let word = make(text) else { throw RegistryError.bad(column, text) }
        return word
    }

    func optionalWord<Word>(_ column: String, _ make: (String) -> Word?) throws -> Word? {
        guard let text = try optional(column, String.self) else { return nil }
        guard let word = make(text) else { throw RegistryError.bad(column, text) }
        return word
    }

    func digest(_ column: String) throws -> Digest { try word(column) { Digest(hex: $0) } }
    func optionalDigest(_ column: String) throws -> Digest? { try optionalWord(column) { Digest(hex: $0) } }
    func runID(_ column: String) throws -> RunID { try word(column) { RunID($0) } }

    func json<Value: Decodable>(_ column: String, _ type: Value.Type = Value.self) throws -> Value {
        try word(column) { try? JSONText.decode(Value.self, $0) }
    }

    func optionalJSON<Value: Decodable>(_ column: String, _ type: Value.Type = Value.self) throws -> Value? {
        try optionalWord(column) { try? JSONText.decode(Value.self, $0) }
    }
}

extension RegistryError {
    static func bad(_ column: String, _ text: String) -> RegistryError {
        RegistryError(
            .corrupt,
            "the registry holds '\(text.prefix(80))' as \(column), which cannot be read",
            hint: "put a backup of registry.sqlite, with its -wal and -shm files, in its place"
        )
    }
}

/// JSON in a column: sorted keys, so that equal values are equal text.
enum JSONText {
    static func encode(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    static func decode<Value: Decodable>(_ type: Value.Type, _ text: String) throws -> Value {
        try JSONDecoder().decode(type, from: Data(text.utf8))
    }
}

extension Double {
    /// Itself when finite: SQLite stores NaN as NULL, and JSON has neither NaN nor infinity.
    var ifFinite: Double? { isFinite ? self : nil }
}
