internal import Basics
internal import Remote
internal import Synchronization

/// What people said about hosts that nobody knew.
struct HostTrust: Sendable, Equatable {
    var trusted: [String: String]
    var acceptsNew: Bool

    init(_ request: UpRequest) {
        trusted = request.trusted
        acceptsNew = request.acceptsNewHostKeys
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
