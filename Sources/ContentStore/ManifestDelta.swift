public import Basics
internal import CZstd

/// A manifest's bytes as they travel: compressed, against an older manifest where both sides have one.
///
/// One zstd frame. With a base, the base's bytes stand in front of it as a prefix: of a list of 60 000 files with 600
/// new ones, what is new is sent.
public enum ManifestDelta {
    /// How far back zstd may look: twice the largest base that is used.
    private static let windowLog: Int32 = 27
    /// A larger manifest is sent whole; unit: bytes.
    private static let baseLimit = 64 << 20

    /// What is sent.
    ///
    /// - Parameter base: bytes that the other side has too.
    public static func encode(_ bytes: [UInt8], base: [UInt8]?) -> [UInt8] {
        let context = ZSTD_createCCtx()
        defer { ZSTD_freeCCtx(context) }
        ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, 3)
        let base = usable(base)
        if !base.isEmpty {
            ZSTD_CCtx_setParameter(context, ZSTD_c_enableLongDistanceMatching, 1)
            ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, windowLog)
        }
        let bound = ZSTD_compressBound(bytes.count)
        return base.withUnsafeBytes { prefix in
            if !prefix.isEmpty { ZSTD_CCtx_refPrefix(context, prefix.baseAddress, prefix.count) }
            return [UInt8](unsafeUninitializedCapacity: bound) { target, count in
                let size = ZSTD_compress2(context, target.baseAddress, bound, bytes, bytes.count)
                precondition(ZSTD_isError(size) == 0, "zstd had \(bound) bytes of space")
                count = size
            }
        }
    }

    /// What was sent, when its SHA-256 is `name`.
    ///
    /// - Throws: ``ContentError`` `.corrupt` for anything else; memory is taken only for as much as a manifest may
    ///   have.
    public static func decode(_ wire: [UInt8], base: [UInt8]?, as name: Digest) throws -> [UInt8] {
        func refuse(_ why: String) -> ContentError {
            ContentError(
                .corrupt,
                "manifest \(name.short) arrived damaged: \(why)",
                hint: "send it again; when it stays so, the sender is damaged: `coord checkpoint verify`"
            )
        }
        let claimed = ZSTD_getFrameContentSize(wire, wire.count)
        guard claimed <= UInt64(Manifest.sizeLimit) else { throw refuse("it claims \(claimed) bytes") }
        let context = ZSTD_createDCtx()
        defer { ZSTD_freeDCtx(context) }
        ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, windowLog)
        let base = usable(base)
        let bytes = base.withUnsafeBytes { prefix in
            if !prefix.isEmpty { ZSTD_DCtx_refPrefix(context, prefix.baseAddress, prefix.count) }
            return [UInt8](unsafeUninitializedCapacity: max(Int(claimed), 1)) { target, count in
                let size = ZSTD_decompressDCtx(
                    context,
                    target.baseAddress,
                    Int(claimed),
                    wire,
                    wire.count
                )
                count = ZSTD_isError(size) == 0 ? size : 0
            }
        }
        guard Digest(of: bytes) == name else { throw refuse("its bytes do not have its SHA-256") }
        return bytes
    }

    private static func usable(_ base: [UInt8]?) -> [UInt8] {
        guard let base, base.count <= baseLimit else { return [] }
        return base
    }
}

/// A manifest that somebody sent, decoded and checked; its chunks may still be missing.
public struct ArrivedManifest: Sendable {
    /// The SHA-256 of its bytes.
    public let name: Digest
    /// What it says.
    public let manifest: Manifest
    let bytes: [UInt8]

    /// Checks what ``ManifestDelta/encode(_:base:)`` made.
    ///
    /// - Throws: ``ContentError`` `.corrupt`, `.badManifest`, `.badName`, `.newerFormat`.
    public init(_ wire: [UInt8], base: [UInt8]?, as name: Digest) throws {
        self.name = name
        bytes = try ManifestDelta.decode(wire, base: base, as: name)
        manifest = try Manifest(decoding: bytes)
    }
}
