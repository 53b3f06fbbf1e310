internal import Basics

/// Whether a host's key is the right one; asked before anything of ours is shown to the host.
struct SSHTrust {
    var endpoint: SSHEndpoint
    var resolved: ResolvedEndpoint
    var policy: HostKeyPolicy

    /// How the host is called in the file of known hosts.
    private var name: String { KnownHosts.name(address: resolved.address, port: resolved.port) }

    /// The kinds of keys that are known for the host.
    func knownKinds() throws -> [String] {
        try HostKeys.list(endpoint.knownHosts).keys(for: name).map(\.kind)
    }

    /// Returns when the key is to be trusted; a new one that is accepted is written down.
    ///
    /// libssh 0.10.6 calls a `@revoked` key known, so the file is read by us.
    ///
    /// - Throws: ``RemoteError`` `.hostKeyUnknown`, `.hostKeyChanged`, `.hostKeyRevoked`; `FileError`.
    func check(_ key: HostKey) throws {
        let verdict = try HostKeys.list(endpoint.knownHosts).verdict(on: key, of: name)
        if verdict == .revoked {
            throw refusal(
                .hostKeyRevoked,
                "the key of \(endpoint.name) (\(resolved.place)), \(key), is marked @revoked in \(endpoint.knownHosts)",
                "somebody may hold that key: give the host a new one (`ssh-keygen -A` there)"
            )
        }
        if let pinned = endpoint.hostKeyFingerprint {
            if Self.isSame(pinned, key.fingerprint) { return }
            throw refusal(
                .hostKeyChanged,
                "\(endpoint.name) (\(resolved.place)) shows the key \(key), but `host_key:` says \(pinned)",
                "somebody may sit between; when the host was set up anew, correct `host_key:` in the cluster file"
            )
        }
        switch verdict {
        case .known, .revoked: return
        case .changed(let known):
            throw refusal(
                .hostKeyChanged,
                "\(endpoint.name) (\(resolved.place)) shows the key \(key), but \(endpoint.knownHosts) knows "
                    + known.map(\.description).joined(separator: ", "),
                "somebody may sit between; when the host was set up anew, run `coord keys trust \(endpoint.name)`"
            )
        case .unknown(let hasAuthority):
            switch policy {
            case .strict: break
            case .acceptNew:
                return try HostKeys.add(key, of: name, to: endpoint.knownHosts)
            case .ask(let isAccepted):
                let question = HostKeyQuestion(host: endpoint.name, address: resolved.place, key: key)
                if isAccepted(question) {
                    return try HostKeys.add(key, of: name, to: endpoint.knownHosts)
                }
            }
            let authority =
                hasAuthority ? " (its @cert-authority line is not supported and was not used)" : ""
            throw refusal(
                .hostKeyUnknown,
                "the key of \(endpoint.name) (\(resolved.place)) is not known: \(key)\(authority)",
                "compare the fingerprint, then run `coord keys trust \(endpoint.name)`, or `coord up` with "
                    + "--accept-new-host-keys, or write it as `host_key:`"
            )
        }
    }

    /// Fingerprints are the same with and without padding and the `SHA256:`.
    private static func isSame(_ a: String, _ b: String) -> Bool { bare(a) == bare(b) }

    private static func bare(_ text: String) -> Substring {
        var text = text.hasPrefix("SHA256:") ? text.dropFirst(7) : text[...]
        while text.last == "=" { text.removeLast() }
        return text
    }

    private func refusal(_ code: RemoteError.Code, _ message: String, _ hint: String) -> RemoteError {
        RemoteError(host: endpoint.name, phase: .trust, code: code, message: message, hint: hint)
    }
}
