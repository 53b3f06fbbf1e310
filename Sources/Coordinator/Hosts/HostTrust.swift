internal import Basics
internal import Remote
internal import Synchronization
internal import Wire

/// What people said about hosts that nobody knew, and about keys that are encrypted.
struct HostTrust: Sendable, Equatable {
    var trusted: [String: String]
    var acceptsNew: Bool
    /// By the key's file.
    var passphrases: [String: WireSecret]

    init(_ request: UpRequest) {
        trusted = request.trusted
        acceptsNew = request.acceptsNewHostKeys
        passphrases = request.passphrases
    }

    /// - Parameter needed: told of a key whose passphrase nobody said, or said wrongly.
    func passphrase(needed: @escaping @Sendable (PassphraseQuestion) -> Void) -> PassphraseSource {
        { [passphrases] question in
            if question.attempt == 1, let words = passphrases[question.path] {
                return Redacted(String(decoding: words.bytes, as: UTF8.self))
            }
            needed(question)
            return nil
        }
    }

    /// - Parameter unknown: told of a key that nobody has accepted.
    func policy(unknown: @escaping @Sendable (HostKeyQuestion) -> Void) -> HostKeyPolicy {
        if acceptsNew { return .acceptNew }
        return .ask { [trusted] question in
            if trusted[question.host] == question.key.fingerprint { return true }
            unknown(question)
            return false
        }
    }
}
