internal import Basics
internal import CZstd

/// How the bytes of a chunk lie on the disk and travel on the wire.
///
/// On the disk the encoding is the file's ending, so that `sha256sum` (raw) and `zstd -dc` (compressed) can
/// read a store without this program. On the wire it is one byte in front.
enum ChunkEncoding: UInt8, CaseIterable {
    case raw = 0
    case zstd = 1

    /// The ending of the file's name.
    var ending: String { self == .raw ? "" : ".zst" }
}

/// The stored form of one chunk.
struct StoredChunk {
    /// Nothing larger is a chunk: a compressed form that claims more is refused before memory is taken for
    /// it.
    static let limit = 16 << 20

    var encoding: ChunkEncoding
    var bytes: [UInt8]

    /// Compresses content where that saves at least a tenth; dense weights stay as they are.
    init(content: UnsafeRawBufferPointer) {
        let bound = content.count - content.count / 10
        // A target smaller than the worst case makes zstd give up as soon as it does not pay.
        let compressed = [UInt8](unsafeUninitializedCapacity: max(bound, 1)) { target, count in
            let size = ZSTD_compress(target.baseAddress, bound, content.baseAddress, content.count, 3)
            count = ZSTD_isError(size) == 0 ? size : 0
        }
        if compressed.isEmpty {
            encoding = .raw
            bytes = Array(content)
        } else {
            encoding = .zstd
            bytes = compressed
        }
    }

    init(encoding: ChunkEncoding, bytes: [UInt8]) {
        self.encoding = encoding
        self.bytes = bytes
    }

    /// Takes what came over the wire; nil when there is no such encoding.
    init?(wire: [UInt8]) {
        guard let first = wire.first, let encoding = ChunkEncoding(rawValue: first) else { return nil }
        self.encoding = encoding
        bytes = Array(wire.dropFirst())
    }

    /// One byte for the encoding, then the stored bytes.
    var wire: [UInt8] { [encoding.rawValue] + bytes }

    /// The content, when its SHA-256 is `digest`; nil for anything else.
    func content(verifiedAs digest: Digest) -> [UInt8]? {
        guard let content = decoded(), Digest(of: content) == digest else { return nil }
        return content
    }

    private func decoded() -> [UInt8]? {
        guard encoding == .zstd else { return bytes.count <= Self.limit ? bytes : nil }
        let size = ZSTD_getFrameContentSize(bytes, bytes.count)
        // The two error values are the largest two 64-bit numbers.
        guard size <= UInt64(Self.limit) else { return nil }
        var isWhole = false
        let content = [UInt8](unsafeUninitializedCapacity: max(Int(size), 1)) { target, count in
            let got = ZSTD_decompress(target.baseAddress, Int(size), bytes, bytes.count)
            isWhole = ZSTD_isError(got) == 0 && got == Int(size)
            count = isWhole ? got : 0
        }
        return isWhole ? content : nil
    }
}
