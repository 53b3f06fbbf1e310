internal import Basics

/// A host's public key.
public struct HostKey: Hashable, Sendable, CustomStringConvertible {
    /// The key's kind as in the protocol: `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`.
    public let kind: String
    /// The key as it travels: the kind, then its numbers.
    public let blob: [UInt8]

    /// Takes a key as it travels; nil when the bytes do not begin with a kind.
    public init?(blob: [UInt8]) {
        guard blob.count > 4 else { return nil }
        let length = blob[..<4].reduce(0) { $0 << 8 | Int($1) }
        guard length > 0, length <= 64, blob.count > 4 + length else { return nil }
        let kind = blob[4..<4 + length]
        guard kind.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { return nil }
        self.kind = String(decoding: kind, as: UTF8.self)
        self.blob = blob
    }

    /// Takes a key in base64, as in `known_hosts` and `.pub` files.
    public init?(base64: some StringProtocol) {
        guard let blob = Base64.decode(base64) else { return nil }
        self.init(blob: blob)
    }

    /// The key in base64.
    public var base64: String { Base64.encode(blob) }

    /// `SHA256:` and the hash in base64, as `ssh-keygen -l` prints it.
    public var fingerprint: String { "SHA256:" + Base64.encode(Digest(of: blob).raw, padded: false) }

    /// The fingerprint and the kind.
    public var description: String { "\(fingerprint) (\(kind))" }
}
