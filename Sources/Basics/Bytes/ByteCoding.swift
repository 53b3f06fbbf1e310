/// Appends little-endian values to a growing array of bytes.
public struct ByteWriter: Sendable {
    /// What was written so far.
    public private(set) var bytes: [UInt8] = []

    /// Starts empty.
    public init(capacity: Int = 0) { bytes.reserveCapacity(capacity) }

    /// Appends an integer, least significant byte first.
    public mutating func write<Value: FixedWidthInteger>(_ value: Value) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
    /// Appends the bits of a number.
    public mutating func write(_ value: Double) { write(value.bitPattern) }
    /// Appends the bits of a number.
    public mutating func write(_ value: Float) { write(value.bitPattern) }
    /// Appends bytes as they are.
    public mutating func write(raw: some Sequence<UInt8>) { bytes.append(contentsOf: raw) }
    /// Appends a 32-bit length and the UTF-8 bytes.
    public mutating func write(_ text: String) {
        write(UInt32(text.utf8.count))
        bytes.append(contentsOf: text.utf8)
    }
    /// Appends 32 raw bytes.
    public mutating func write(_ digest: Digest) { write(raw: digest.raw) }
}

/// Reads little-endian values from bytes that somebody else may have written: nothing is trusted.
public struct ByteReader {
    private var rest: ArraySlice<UInt8>

    /// Starts at the first byte.
    public init(_ bytes: [UInt8]) { rest = bytes[...] }
    /// Starts at the first byte of a slice.
    public init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    /// How many bytes are left.
    public var remaining: Int { rest.count }

    /// Reads an integer.
    ///
    /// - Throws: ``ByteError`` when too few bytes are left.
    public mutating func read<Value: FixedWidthInteger>(_ type: Value.Type) throws -> Value {
        let size = Value.bitWidth / 8
        guard rest.count >= size else { throw ByteError.truncated }
        var value: Value = 0
        withUnsafeMutableBytes(of: &value) { target in
            for (index, byte) in rest.prefix(size).enumerated() { target[index] = byte }
        }
        rest = rest.dropFirst(size)
        return Value(littleEndian: value)
    }
    /// Reads the bits of a number.
    public mutating func readDouble() throws -> Double { Double(bitPattern: try read(UInt64.self)) }
    /// Reads the bits of a number.
    public mutating func readFloat() throws -> Float { Float(bitPattern: try read(UInt32.self)) }
    /// Reads `count` bytes.
    public mutating func read(count: Int) throws -> ArraySlice<UInt8> {
        guard count >= 0, rest.count >= count else { throw ByteError.truncated }
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count)
    }
    /// Reads a text written by ``ByteWriter``.
    public mutating func readString() throws -> String {
        let count = Int(try read(UInt32.self))
        guard let text = String(validating: try read(count: count), as: UTF8.self) else {
            throw ByteError.notText
        }
        return text
    }
    /// Reads 32 raw bytes.
    public mutating func readDigest() throws -> Digest {
        guard let digest = Digest(raw: try read(count: 32)) else { throw ByteError.truncated }
        return digest
    }
}

/// Why bytes could not be read as what they should have been.
public enum ByteError: Error, Sendable, Equatable {
    /// The bytes ended too early.
    case truncated
    /// The bytes are not UTF-8.
    case notText
}
