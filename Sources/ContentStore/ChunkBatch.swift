public import Basics

/// Several chunks in their stored form, as they travel: one frame for many, instead of a question and an answer each.
///
/// Layout: the stored forms one behind the other, then 37 bytes a chunk (SHA-256, `length u32 LE`,
/// `encoding u8`), then `count u32 LE`. The list stands at the end, so that the bytes need not be moved once more.
public struct ChunkBatch: Sendable {
    /// A batch goes off when it holds so much; unit: bytes.
    ///
    /// Larger: fewer frames. Smaller: less waits in memory, and less is lost with a connection.
    public static let target = 1 << 20
    /// No more chunks are in a batch, so that its list is small beside its bytes.
    public static let maximumCount = 8192

    static let entrySize = 37

    /// One chunk of a batch.
    public struct Entry: Sendable {
        /// Its name, which nobody has checked yet.
        public var chunk: Digest
        var encoding: ChunkEncoding
        /// Where its stored form lies.
        var range: Range<Int>
    }

    /// The chunks, in order.
    public private(set) var entries: [Entry] = []
    /// The stored forms.
    private(set) var bytes: [UInt8] = []

    /// Starts empty.
    ///
    /// - Parameter capacity: what memory is taken for in advance; unit: bytes.
    public init(capacity: Int = Self.target + Self.target / 2) { bytes.reserveCapacity(capacity) }

    /// Reads what somebody else sent: no length is trusted, no content is checked here.
    ///
    /// - Throws: ``ContentError`` `.corrupt`.
    public init(wire: [UInt8]) throws {
        func refuse(_ why: String) -> ContentError {
            ContentError(.corrupt, "chunks arrived damaged: \(why)", hint: "send them again")
        }
        guard wire.count >= 4 else { throw refuse("\(wire.count) bytes are no batch") }
        (entries, bytes) = try wire.withUnsafeBytes { raw in
            let count = Int(
                UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: raw.count - 4, as: UInt32.self))
            )
            guard count <= Self.maximumCount else { throw refuse("\(count) chunks in one batch") }
            let end = raw.count - 4 - count * Self.entrySize
            guard end >= 0 else { throw refuse("\(count) chunks in \(raw.count) bytes") }
            var entries: [Entry] = []
            entries.reserveCapacity(count)
            var start = 0
            for index in 0..<count {
                let place = end + index * Self.entrySize
                let length = Int(
                    UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: place + 32, as: UInt32.self))
                )
                guard length <= StoredChunk.limit, length <= end - start else {
                    throw refuse("chunk \(index) claims \(length) bytes of \(end - start)")
                }
                guard let encoding = ChunkEncoding(rawValue: raw[place + 36]) else {
                    throw refuse("chunk \(index) has the unknown encoding \(raw[place + 36])")
                }
                let name = Digest(raw: UnsafeRawBufferPointer(rebasing: raw[place..<place + 32]))
                entries.append(Entry(chunk: name, encoding: encoding, range: start..<start + length))
                start += length
            }
            guard start == end else { throw refuse("\(end - start) bytes belong to no chunk") }
            return (entries, wire)
        }
    }

    /// True when it is time to send it.
    public var isFull: Bool { bytes.count >= Self.target || entries.count >= Self.maximumCount }

    /// True without any chunk.
    public var isEmpty: Bool { entries.isEmpty }

    /// The stored forms together; unit: bytes.
    public var size: Int { entries.last?.range.upperBound ?? 0 }

    /// What is sent.
    public consuming func wire() -> [UInt8] {
        bytes.reserveCapacity(bytes.count + entries.count * Self.entrySize + 4)
        for entry in entries {
            entry.chunk.append(to: &bytes)
            Self.append(UInt32(entry.range.count), to: &bytes)
            bytes.append(entry.encoding.rawValue)
        }
        Self.append(UInt32(entries.count), to: &bytes)
        return bytes
    }

    /// Appends all chunks of another batch.
    public mutating func append(_ other: ChunkBatch) {
        let start = size
        bytes.append(contentsOf: other.bytes)
        for entry in other.entries {
            let range = start + entry.range.lowerBound..<start + entry.range.upperBound
            entries.append(Entry(chunk: entry.chunk, encoding: entry.encoding, range: range))
        }
    }

    mutating func append(_ chunk: Digest, _ encoding: ChunkEncoding, _ stored: UnsafeRawBufferPointer) {
        let start = bytes.count
        bytes.append(contentsOf: stored)
        entries.append(Entry(chunk: chunk, encoding: encoding, range: start..<bytes.count))
    }

    /// Appends what `fill` writes into `count` bytes.
    mutating func append(
        _ chunk: Digest,
        _ encoding: ChunkEncoding,
        count: Int,
        fill: (UnsafeMutableRawBufferPointer) throws -> Void
    ) rethrows {
        let start = bytes.count
        bytes.append(contentsOf: repeatElement(0, count: count))
        do {
            try bytes.withUnsafeMutableBytes {
                try fill(UnsafeMutableRawBufferPointer(rebasing: $0[start..<start + count]))
            }
        } catch {
            bytes.removeLast(count)
            throw error
        }
        entries.append(Entry(chunk: chunk, encoding: encoding, range: start..<bytes.count))
    }

    private static func append(_ value: UInt32, to bytes: inout [UInt8]) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
}
