internal import CShims

/// How values travel as bytes; both sides of a link must use the same one.
///
/// All but ``exact`` lose something: what they lose is kept by ``ErrorFeedback`` and goes along later. Decoded values
/// have the same bits on every CPU. Layouts: `docs/formats/collectives.md`.
public enum PayloadCodec: Hashable, Sendable {
    /// 4 bytes a value, as they are.
    case exact
    /// 2 bytes a value, rounded to nearest even: 8 bits of precision, the range of a float.
    case bf16
    /// 1 byte a value and 4 for each 256: steps of a 127th of the largest of 256 neighbours.
    case int8
    /// The largest values alone, about 5 bytes each, as a fraction in (0, 1] of all; the others travel as 0.
    case topK(fraction: Double)

    /// The number in a frame's header.
    var wire: UInt16 {
        switch self {
        case .exact: 0
        case .bf16: 1
        case .int8: 2
        case .topK: 3
        }
    }

    /// How many of `count` values are kept; as many as there are where all travel.
    public func keptCount(of count: Int) -> Int {
        guard case .topK(let fraction) = self, count > 0 else { return count }
        return min(count, max(1, Int((Double(count) * fraction).rounded(.up))))
    }

    /// No encoding of `count` values is longer.
    public func maximumByteCount(of count: Int) -> Int {
        switch self {
        case .exact: 4 * count
        case .bf16: 2 * count
        case .int8: Self.int8Count(count)
        case .topK: 9 * keptCount(of: count)
        }
    }

    /// Whether so many bytes may encode `count` values.
    func allows(byteCount: Int, of count: Int) -> Bool {
        if case .topK = self {
            let kept = keptCount(of: count)
            return (5 * kept...9 * kept).contains(byteCount)
        }
        return byteCount == maximumByteCount(of: count)
    }

    /// Encodes values.
    ///
    /// - Parameters:
    ///   - values: `[count]`.
    ///   - bytes: room for ``maximumByteCount(of:)``.
    ///   - left: `[count]`: what the encoding loses of each value; nil = nobody wants to know.
    /// - Returns: the bytes written.
    @discardableResult
    public func encode(
        _ values: UnsafePointer<Float>,
        count: Int,
        into bytes: UnsafeMutableRawPointer,
        left: UnsafeMutablePointer<Float>?
    ) -> Int {
        let target = bytes.assumingMemoryBound(to: UInt8.self)
        switch self {
        case .exact:
            bytes.copyMemory(from: values, byteCount: 4 * count)
            left?.update(repeating: 0, count: count)
        case .bf16: coord_bf16_encode(Self.variant, values, count, target, left)
        case .int8: coord_int8_encode(Self.variant, values, count, target, left)
        case .topK: return coord_topk_encode(values, count, keptCount(of: count), target, left)
        }
        return maximumByteCount(of: count)
    }

    /// Decodes what somebody else encoded.
    ///
    /// - Returns: false when the bytes are no encoding of `count` values; `values` are undefined then.
    public func decode(
        _ bytes: UnsafeRawBufferPointer,
        into values: UnsafeMutablePointer<Float>,
        count: Int
    ) -> Bool {
        guard allows(byteCount: bytes.count, of: count) else { return false }
        guard count > 0, let base = bytes.baseAddress else { return true }
        let source = base.assumingMemoryBound(to: UInt8.self)
        switch self {
        case .exact: UnsafeMutableRawPointer(values).copyMemory(from: base, byteCount: bytes.count)
        case .bf16: coord_bf16_decode(Self.variant, source, count, values)
        case .int8: coord_int8_decode(Self.variant, source, count, values)
        case .topK: return coord_topk_decode(source, bytes.count, count, keptCount(of: count), values) == 0
        }
        return true
    }

    private static let variant = coord_codec_variant()

    private static func int8Count(_ count: Int) -> Int {
        let block = coord_int8_block
        return count + 4 * ((count + block - 1) / block)
    }
}
