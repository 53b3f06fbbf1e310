internal import Basics
internal import CZstd

/// Compresses and checks chunk after chunk with the same memory.
///
/// One chunk of a kilobyte would else cost more to set up than to compress. One thread at a time.
final class ChunkCodec {
    /// Chunks smaller than this stay as they are: a frame of their own would save nothing; unit: bytes.
    static let smallest = 128
    /// From this size on a sample decides whether compressing is tried at all; unit: bytes.
    private static let sampled = 64 << 10
    private static let sampleSize = 4 << 10

    private let compressor = ZSTD_createCCtx()
    private let decompressor = ZSTD_createDCtx()
    private var scratch: [UInt8] = []

    deinit {
        ZSTD_freeCCtx(compressor)
        ZSTD_freeDCtx(decompressor)
    }

    /// The compressed form where it saves at least a tenth; nil where it does not.
    func compressed(_ content: UnsafeRawBufferPointer) -> [UInt8]? {
        guard content.count >= Self.smallest else { return nil }
        if content.count >= Self.sampled {
            // Dense weights and pictures are most of what is stored: three samples tell them apart in a tenth of
            // the time.
            let places = [0, content.count / 2, content.count - Self.sampleSize]
            let saves = places.contains { start in
                let sample = UnsafeRawBufferPointer(rebasing: content[start..<start + Self.sampleSize])
                return squeezed(sample, level: 1) != nil
            }
            guard saves else { return nil }
        }
        return squeezed(content)
    }

    private func squeezed(_ content: UnsafeRawBufferPointer, level: Int32 = 3) -> [UInt8]? {
        // A target smaller than the worst case makes zstd give up as soon as it does not pay.
        let bound = content.count - content.count / 10
        let bytes = [UInt8](unsafeUninitializedCapacity: bound) { target, count in
            let size = ZSTD_compressCCtx(
                compressor,
                target.baseAddress,
                bound,
                content.baseAddress,
                content.count,
                level
            )
            count = ZSTD_isError(size) == 0 ? size : 0
        }
        return bytes.isEmpty ? nil : bytes
    }

    /// How many bytes of content the stored form holds, when their SHA-256 is `digest`; nil for anything else.
    func verifiedSize(
        of stored: UnsafeRawBufferPointer,
        _ encoding: ChunkEncoding,
        as digest: Digest
    ) -> Int? {
        switch encoding {
        case .raw:
            return stored.count <= StoredChunk.limit && Digest(of: stored) == digest ? stored.count : nil
        case .zstd:
            let claimed = ZSTD_getFrameContentSize(stored.baseAddress, stored.count)
            // The two error values are the largest two 64-bit numbers.
            guard claimed <= UInt64(StoredChunk.limit) else { return nil }
            let size = Int(claimed)
            if scratch.count < size { scratch = [UInt8](repeating: 0, count: size) }
            return scratch.withUnsafeMutableBytes { target in
                let got = ZSTD_decompressDCtx(
                    decompressor,
                    target.baseAddress,
                    size,
                    stored.baseAddress,
                    stored.count
                )
                guard ZSTD_isError(got) == 0, got == size,
                    Digest(of: UnsafeRawBufferPointer(rebasing: target[..<size])) == digest
                else { return nil }
                return size
            }
        }
    }
}
