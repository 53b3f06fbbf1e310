internal import Crypto
internal import FoundationEssentials

/// A key of one direction of one link: AES-256-GCM with counter nonces.
///
/// The counter belongs to the caller: a key never sees one twice.
public struct RecordKey: Sendable {
    /// Bytes of the seal after each record.
    public static let tagBytes = 16
    private let key: SymmetricKey

    /// Derives a key by HKDF-SHA-256.
    ///
    /// - Parameters:
    ///   - secret: what both sides share.
    ///   - salt: what is fresh in this connection.
    ///   - purpose: who speaks to whom; never the same for two keys.
    public init(secret: Redacted<[UInt8]>, salt: [UInt8], purpose: [UInt8]) {
        key = HKDF<SHA256>.deriveKey(
            inputKeyMaterial: SymmetricKey(data: secret.value),
            salt: salt,
            info: purpose,
            outputByteCount: 32
        )
    }

    private static func nonce(_ counter: UInt64) -> AES.GCM.Nonce {
        var bytes = [UInt8](repeating: 0, count: 12)
        withUnsafeBytes(of: counter.bigEndian) { bytes.replaceSubrange(4..<12, with: $0) }
        guard let nonce = try? AES.GCM.Nonce(data: bytes) else { preconditionFailure("a nonce is 12 bytes") }
        return nonce
    }

    /// Writes ciphertext and tag: `text.count + 16` bytes.
    public func seal(
        _ text: UnsafeRawBufferPointer,
        counter: UInt64,
        authenticating header: UnsafeRawBufferPointer,
        into target: UnsafeMutableRawBufferPointer
    ) {
        precondition(
            target.count >= text.count + Self.tagBytes,
            "no room for a record of \(text.count) bytes"
        )
        guard
            let box = try? AES.GCM.seal(text, using: key, nonce: Self.nonce(counter), authenticating: header)
        else { preconditionFailure("AES-GCM refuses a record of \(text.count) bytes") }
        box.ciphertext.copyBytes(to: UnsafeMutableRawBufferPointer(rebasing: target[..<text.count]))
        box.tag.copyBytes(
            to: UnsafeMutableRawBufferPointer(rebasing: target[text.count...]),
            count: Self.tagBytes
        )
    }

    /// Writes the text of a record, `sealed.count - 16` bytes; false when a bit of it is not as it was sealed.
    public func open(
        _ sealed: UnsafeRawBufferPointer,
        counter: UInt64,
        authenticating header: UnsafeRawBufferPointer,
        into target: UnsafeMutableRawBufferPointer
    ) -> Bool {
        let count = sealed.count - Self.tagBytes
        guard count >= 0, target.count >= count,
            let box = try? AES.GCM.SealedBox(
                nonce: Self.nonce(counter),
                ciphertext: UnsafeRawBufferPointer(rebasing: sealed[..<count]),
                tag: UnsafeRawBufferPointer(rebasing: sealed[count...])
            ), let text = try? AES.GCM.open(box, using: key, authenticating: header)
        else { return false }
        text.copyBytes(to: UnsafeMutableRawBufferPointer(rebasing: target[..<count]))
        return true
    }
}
