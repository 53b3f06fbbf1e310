internal import CShims
internal import Crypto

/// A SHA-256: the name of a chunk, a manifest, a worker binary, a set of weights.
public struct Digest: Hashable, Sendable, Codable, Comparable, CustomStringConvertible {
    private let words: SIMD4<UInt64>

    /// Hashes bytes in one call.
    public init(of bytes: UnsafeRawBufferPointer) {
        var builder = DigestBuilder()
        builder.update(bytes)
        self = builder.finish()
    }

    /// Hashes bytes in one call.
    public init(of bytes: [UInt8]) { self = bytes.withUnsafeBytes { Digest(of: $0) } }

    /// Hashes the UTF-8 bytes of a text.
    public init(of text: String) { self.init(of: Array(text.utf8)) }

    /// Takes 32 raw bytes; nil for any other number.
    public init?(raw: some Collection<UInt8>) {
        guard raw.count == 32 else { return nil }
        let whole = raw.withContiguousStorageIfAvailable { Digest(raw: UnsafeRawBufferPointer($0)) }
        self = whole ?? Array(raw).withUnsafeBytes { Digest(raw: $0) }
    }

    /// Takes 32 raw bytes from memory.
    ///
    /// - Precondition: there are at least 32.
    public init(raw bytes: UnsafeRawBufferPointer) {
        precondition(bytes.count >= 32, "a SHA-256 of \(bytes.count) bytes")
        words = SIMD4(
            UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
            UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
            UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)),
            UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        )
    }

    /// Writes the 32 raw bytes to memory.
    ///
    /// - Precondition: there is room for them.
    public func store(to target: UnsafeMutableRawBufferPointer) {
        precondition(target.count >= 32, "\(target.count) bytes for a SHA-256")
        for index in 0..<4 {
            target.storeBytes(of: words[index].bigEndian, toByteOffset: index * 8, as: UInt64.self)
        }
    }

    /// Reads 64 lower-case hexadecimal digits from memory; nil for anything else.
    public init?(hexDigits digits: UnsafeRawBufferPointer) {
        guard digits.count == 64 else { return nil }
        var words = SIMD4<UInt64>()
        for index in 0..<64 {
            guard let value = Self.value(digits[index]) else { return nil }
            words[index / 16] = words[index / 16] << 4 | UInt64(value)
        }
        self.words = words
    }

    /// Appends the 32 bytes.
    public func append(to bytes: inout [UInt8]) {
        for index in 0..<4 {
            withUnsafeBytes(of: words[index].bigEndian) { bytes.append(contentsOf: $0) }
        }
    }

    /// Appends 64 lower-case hexadecimal digits.
    public func appendHex(to bytes: inout [UInt8]) {
        for index in 0..<4 {
            for shift in stride(from: 60, through: 0, by: -4) {
                let digit = UInt8(truncatingIfNeeded: words[index] >> UInt64(shift)) & 15
                bytes.append(digit < 10 ? 0x30 + digit : 0x57 + digit)
            }
        }
    }

    /// Reads 64 lower-case hexadecimal digits; nil for anything else.
    public init?(hex: some StringProtocol) {
        let digits = Array(hex.utf8)
        guard digits.count == 64 else { return nil }
        var raw: [UInt8] = []
        raw.reserveCapacity(32)
        for index in stride(from: 0, to: 64, by: 2) {
            guard let high = Self.value(digits[index]), let low = Self.value(digits[index + 1]) else {
                return nil
            }
            raw.append(high << 4 | low)
        }
        self.init(raw: raw)
    }

    /// The first of the 32 bytes.
    public var firstByte: UInt8 { UInt8(truncatingIfNeeded: words[0] >> 56) }

    /// The 32 bytes.
    public var raw: [UInt8] {
        (0..<32).map { UInt8(truncatingIfNeeded: words[$0 / 8] >> UInt64(56 - 8 * ($0 % 8))) }
    }

    /// 64 lower-case hexadecimal digits.
    public var hex: String {
        var digits: [UInt8] = []
        digits.reserveCapacity(64)
        appendHex(to: &digits)
        return String(decoding: digits, as: UTF8.self)
    }

    /// The first 12 hexadecimal digits, for people.
    public var short: String { String(hex.prefix(12)) }

    /// The same as ``hex``.
    public var description: String { hex }

    /// Orders as the hexadecimal texts do.
    public static func < (a: Digest, b: Digest) -> Bool {
        for index in 0..<4 where a.words[index] != b.words[index] { return a.words[index] < b.words[index] }
        return false
    }

    /// Reads hexadecimal digits.
    public init(from decoder: any Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        guard let digest = Digest(hex: text) else {
            throw DecodingError.dataCorrupted(
                .init(codingPath: decoder.codingPath, debugDescription: "not a SHA-256: \(text.prefix(80))")
            )
        }
        self = digest
    }

    /// Writes hexadecimal digits.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(hex)
    }

    /// Lower-case hexadecimal digits of any bytes.
    public static func hex(_ bytes: some Sequence<UInt8>) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return String(
            decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] },
            as: UTF8.self
        )
    }

    private static func value(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x61...0x66: digit - 0x61 + 10
        default: nil
        }
    }
}

/// Hashes a stream piece by piece.
public struct DigestBuilder {
    private static let isInstruction = coord_hash_is_available() != 0

    /// Where the CPU has instructions for it, nothing is allocated.
    private var hash = coord_hash()
    /// Where it has none.
    private var software: SHA256?

    /// Starts an empty stream.
    public init() {
        if Self.isInstruction { coord_hash_start(&hash) } else { software = SHA256() }
    }

    /// Adds bytes.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        guard software == nil else {
            software?.update(bufferPointer: bytes)
            return
        }
        withUnsafeMutablePointer(to: &hash) { hash in
            var job = coord_hash_job(
                hash: hash,
                bytes: bytes.baseAddress?.assumingMemoryBound(to: UInt8.self),
                count: bytes.count
            )
            coord_hash_update(&job, 1)
        }
    }

    /// Adds bytes.
    public mutating func update(_ bytes: [UInt8]) { bytes.withUnsafeBytes { update($0) } }

    /// The digest of all bytes so far.
    public func finish() -> Digest {
        if let software { return software.finalize().withUnsafeBytes { Digest(raw: $0) } }
        var hash = hash
        return withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { raw in
            coord_hash_finish(&hash, raw.baseAddress?.assumingMemoryBound(to: UInt8.self))
            return Digest(raw: UnsafeRawBufferPointer(raw))
        }
    }
}

/// Proofs and keys: the one owner of swift-crypto's keyed operations.
public enum Sealing {
    /// HMAC-SHA-256, 32 bytes.
    public static func authenticationCode(for message: [UInt8], key: Redacted<[UInt8]>) -> [UInt8] {
        Array(HMAC<SHA256>.authenticationCode(for: message, using: SymmetricKey(data: key.value)))
    }

    /// Compares an HMAC in constant time.
    public static func isValid(_ code: [UInt8], for message: [UInt8], key: Redacted<[UInt8]>) -> Bool {
        HMAC<SHA256>.isValidAuthenticationCode(
            code,
            authenticating: message,
            using: SymmetricKey(data: key.value)
        )
    }

    /// Bytes from the system's generator.
    public static func randomBytes(_ count: Int) -> [UInt8] {
        var generator = SystemRandomNumberGenerator()
        return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }
}
