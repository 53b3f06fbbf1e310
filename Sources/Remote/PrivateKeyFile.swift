internal import Basics

/// What a private key's file tells without its passphrase.
struct PrivateKeyFile: Sendable, Equatable {
    /// True when a passphrase is needed.
    var isEncrypted: Bool
    /// The public half, where the format keeps it in the clear.
    var publicKey: HostKey?

    /// Reads OpenSSH's own format and PEM; nil when the text is no private key.
    init?(text: String) {
        let lines = text.split(whereSeparator: \.isNewline)
        guard
            let begin = lines.first(where: { $0.hasPrefix("-----BEGIN ") && $0.hasSuffix("PRIVATE KEY-----") }
            )
        else { return nil }
        if begin == "-----BEGIN OPENSSH PRIVATE KEY-----" {
            let body = lines.drop { $0 != begin }.dropFirst().prefix { !$0.hasPrefix("-----") }
            guard let bytes = Base64.decode(body.joined()), let key = Self.openSSH(bytes) else { return nil }
            self = key
        } else {
            isEncrypted =
                begin.contains("ENCRYPTED") || lines.contains { $0.hasPrefix("Proc-Type: 4,ENCRYPTED") }
            publicKey = nil
        }
    }

    private init(isEncrypted: Bool, publicKey: HostKey?) {
        self.isEncrypted = isEncrypted
        self.publicKey = publicKey
    }

    /// `openssh-key-v1`: cipher, way of deriving the key, its options, number of keys, public key.
    private static func openSSH(_ bytes: [UInt8]) -> PrivateKeyFile? {
        let magic = Array("openssh-key-v1\0".utf8)
        guard bytes.starts(with: magic) else { return nil }
        var reader = SSHReader(Array(bytes[magic.count...]))
        guard let cipher = reader.string(), reader.string() != nil, reader.string() != nil,
            reader.number() == 1, let key = reader.string()
        else { return nil }
        return PrivateKeyFile(isEncrypted: cipher != Array("none".utf8), publicKey: HostKey(blob: key))
    }

    /// The public half in a `.pub` file beside the key; nil when there is none that makes sense.
    static func publicKey(beside path: String) -> HostKey? {
        (try? Files.readText(path + ".pub", limit: 64 << 10)).flatMap { publicKey(text: $0) }
    }

    /// A public key in one line, as `.pub` files hold it.
    static func publicKey(text: String) -> HostKey? {
        let words = text.split(whereSeparator: { $0 == " " || $0.isNewline })
        guard words.count >= 2, let key = HostKey(base64: words[1]), key.kind == words[0] else { return nil }
        return key
    }
}

/// Reads the numbers and strings of SSH's formats; nil where the bytes end too early.
struct SSHReader {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    /// Four bytes, the highest first.
    mutating func number() -> Int? {
        guard rest.count >= 4 else { return nil }
        defer { rest = rest.dropFirst(4) }
        return rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
    }

    /// A length and that many bytes.
    mutating func string() -> [UInt8]? {
        guard let count = number(), rest.count >= count else { return nil }
        defer { rest = rest.dropFirst(count) }
        return Array(rest.prefix(count))
    }

    /// A string as it travels.
    static func string(_ bytes: [UInt8]) -> [UInt8] { number(bytes.count) + bytes }

    /// A number as it travels.
    static func number(_ value: Int) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) }
    }
}
