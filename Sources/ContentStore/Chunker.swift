/// Cuts bytes where their content says so, so that an insertion moves only the cuts near it.
///
/// A rolling "gear" hash over the last 64 bytes ends a chunk when its top bits are zero: more bits before the
/// average size, fewer behind it, which keeps sizes near the average. Equal content in two files, or in two
/// versions of one file, becomes equal chunks.
///
/// The constants are part of the format: other cuts would still be read, but nothing would be found twice.
///
/// - Cost: one shift, one add, one test a byte; the first `minimum` bytes of a chunk are skipped.
/// - Source: Xia et al. 2016, "FastCDC: a fast and efficient content-defined chunking approach", sections
///   3.2-3.4.
public struct Chunker: Sendable {
    /// No chunk but the last of a file is smaller; unit: bytes.
    public let minimum: Int
    /// The size aimed at, a power of two; unit: bytes.
    public let average: Int
    /// No chunk is larger; unit: bytes.
    public let maximum: Int
    private let maskBefore: UInt64
    private let maskBehind: UInt64

    /// 64 KiB, 256 KiB, 1 MiB: what every store uses.
    public static let standard = Chunker(minimum: 64 << 10, average: 256 << 10, maximum: 1 << 20)

    /// - Precondition: `minimum < average < maximum`, `average` a power of two of at least 64.
    public init(minimum: Int, average: Int, maximum: Int) {
        precondition(
            0 < minimum && minimum < average && average < maximum && average.nonzeroBitCount == 1
                && average >= 64,
            "chunk sizes \(minimum), \(average), \(maximum)"
        )
        self.minimum = minimum
        self.average = average
        self.maximum = maximum
        let bits = UInt64(average.trailingZeroBitCount)
        maskBefore = ~0 << (64 - (bits + 2))
        maskBehind = ~0 << (64 - (bits - 2))
    }

    /// The length of the first chunk.
    ///
    /// - Parameter bytes: at least ``maximum`` bytes, or all that is left of the file.
    /// - Returns: 0 only for no bytes at all.
    public func firstCut(in bytes: UnsafeRawBufferPointer) -> Int {
        guard bytes.count > minimum, let base = bytes.baseAddress else { return bytes.count }
        let end = min(bytes.count, maximum)
        let middle = min(end, average)
        // Safety: indices stay below `end` ≤ `bytes.count`; a byte is always an index into 256 entries.
        return Self.gear.withUnsafeBufferPointer { gear in
            var hash: UInt64 = 0
            var index = minimum
            if Self.runs(base, gear, maskBefore, to: middle, &index, &hash) {
                _ = Self.runs(base, gear, maskBehind, to: end, &index, &hash)
            }
            return index
        }
    }

    /// Rolls on to `end`; false when it stopped behind a cut before.
    @inline(__always)
    private static func runs(
        _ base: UnsafeRawPointer,
        _ gear: UnsafeBufferPointer<UInt64>,
        _ mask: UInt64,
        to end: Int,
        _ index: inout Int,
        _ hash: inout UInt64
    ) -> Bool {
        // Four bytes at a time: what they add is summed beside the hash, which waits for itself once and not four times.
        while index + 4 <= end {
            let word = UInt32(littleEndian: base.loadUnaligned(fromByteOffset: index, as: UInt32.self))
            let one = gear[Int(word & 0xFF)]
            let two = (one &<< 1) &+ gear[Int(word &>> 8 & 0xFF)]
            let three = (two &<< 1) &+ gear[Int(word &>> 16 & 0xFF)]
            let four = (three &<< 1) &+ gear[Int(word &>> 24)]
            let sums = (
                (hash &<< 1) &+ one, (hash &<< 2) &+ two, (hash &<< 3) &+ three, (hash &<< 4) &+ four
            )
            if sums.0 & mask == 0 || sums.1 & mask == 0 || sums.2 & mask == 0 || sums.3 & mask == 0 {
                index += sums.0 & mask == 0 ? 1 : sums.1 & mask == 0 ? 2 : sums.2 & mask == 0 ? 3 : 4
                return false
            }
            hash = sums.3
            index += 4
        }
        while index < end {
            hash = (hash &<< 1) &+ gear[Int(base.load(fromByteOffset: index, as: UInt8.self))]
            index += 1
            if hash & mask == 0 { return false }
        }
        return true
    }

    /// All chunks of bytes that are in memory.
    public func cuts(in bytes: UnsafeRawBufferPointer) -> [Range<Int>] {
        var ranges: [Range<Int>] = []
        var start = 0
        while start < bytes.count {
            let length = firstCut(in: UnsafeRawBufferPointer(rebasing: bytes[start...]))
            ranges.append(start..<(start + length))
            start += length
        }
        return ranges
    }

    /// One number a byte value, from SplitMix64 with a fixed seed ("coordcdc").
    private static let gear: [UInt64] = {
        var state: UInt64 = 0x636F_6F72_6463_6463
        return (0..<256).map { _ in
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return z ^ (z >> 31)
        }
    }()
}
