internal import Basics

/// Whether a host's key is the right one; asked before anything of ours is shown to the host.
struct SSHTrust {
    var endpoint: SSHEndpoint
    /// The host, or a jump on the way to it.
    var station: ResolvedEndpoint
    var policy: HostKeyPolicy

    /// The pin of the cluster file is the host's, not a jump's.
    private var pin: HostKeyPin? {
        station.isJump ? nil : endpoint.hostKeyFingerprint.map { HostKeyPin($0) }
    }

    /// Where the key of the host may be one of several: the kinds to ask for, one after the other; nil = our usual order.
    ///
    /// A host has a key of each kind and shows one. A pin that is only a fingerprint does not tell the kind.
    var kindsToTry: [String?] {
        guard let pin = endpoint.hostKeyFingerprint.map({ HostKeyPin($0) }), pin.key == nil else {
            return [nil]
        }
        return [nil, "ecdsa-sha2-nistp256", "ssh-rsa"]
    }

    /// The kinds of keys that are known for the host, those of our own file first.
    ///
    /// - Throws: `FileError`.
    func knownKinds() throws -> [String] {
        var kinds = pin.flatMap(\.key).map { [$0.kind] } ?? []
        kinds += try HostKeys.list(endpoint.knownHosts).keys(for: station.knownAs).map(\.kind)
        guard kinds.isEmpty else { return kinds }
        for file in station.knownHostsElsewhere {
            kinds += Self.elsewhere(file).keys(for: station.knownAs).map(\.kind)
        }
        return kinds
    }

    /// Returns when the key is to be trusted; a new one that is accepted is written down.
    ///
    /// Asked in this order: `@revoked` lines anywhere, the pin of the cluster file, our own file, the person's own files,
    /// the policy. libssh 0.10.6 calls a `@revoked` key known, so files are read by us.
    ///
    /// - Throws: ``RemoteError`` `.hostKeyUnknown`, `.hostKeyChanged`, `.hostKeyRevoked`; `FileError`.
    func check(_ key: HostKey) throws {
        let own = try HostKeys.list(endpoint.knownHosts).verdict(on: key, of: station.knownAs)
        let others = station.knownHostsElsewhere.map {
            (file: $0, verdict: Self.elsewhere($0).verdict(on: key, of: station.knownAs))
        }
        let all = [(file: endpoint.knownHosts, verdict: own)] + others
        if let revoked = all.first(where: { $0.verdict == .revoked }) {
            throw refusal(
                .hostKeyRevoked,
                "the key of \(station.name) (\(station.place)), \(key), is marked @revoked in \(revoked.file)",
                "somebody may hold that key: give the host a new one (`ssh-keygen -A` there)"
            )
        }
        if let pin {
            if pin.accepts(key) { return }
            throw refusal(
                .hostKeyChanged,
                "\(station.name) (\(station.place)) shows the key \(key), but `host_key:` says \(pin)",
                "somebody may sit between; when the host was set up anew, correct `host_key:` in the cluster file"
            )
        }
        if own == .known { return }
        // A change in our own file first: it is the one that `coord keys trust` corrects.
        for (file, verdict) in all {
            if case .changed(let known) = verdict { throw changed(key, known, in: file) }
            if verdict == .known { return }
        }
        try ask(key, hasAuthority: all.contains { $0.verdict == .unknown(hasAuthority: true) })
    }

    private func ask(_ key: HostKey, hasAuthority: Bool) throws {
        switch policy {
        case .strict: break
        case .acceptNew:
            return try HostKeys.add(key, of: station.knownAs, to: endpoint.knownHosts)
        case .ask(let isAccepted):
            let question = HostKeyQuestion(
                host: endpoint.name,
                station: station.name,
                address: station.place,
                key: key
            )
            if isAccepted(question) {
                return try HostKeys.add(key, of: station.knownAs, to: endpoint.knownHosts)
            }
        }
        let authority = hasAuthority ? " (its @cert-authority line is not supported and was not used)" : ""
        throw refusal(
            .hostKeyUnknown,
            "the key of \(station.name) (\(station.place)) is not known: \(key)\(authority)",
            station.isJump
                ? "compare the fingerprint, then log in there once with `\(station.command)`, or run `coord up` "
                    + "with --accept-new-host-keys"
                : "compare the fingerprint, then run `coord keys trust \(endpoint.name)`, or `coord up` with "
                    + "--accept-new-host-keys, or write it as `host_key:`"
        )
    }

    private func changed(_ key: HostKey, _ known: [HostKey], in file: String) -> RemoteError {
        let remedy =
            station.isJump
            ? "take the old key out with `ssh-keygen -R \(ShellQuoting.quote(station.knownAs)) -f \(ShellQuoting.quote(file))`"
            : "run `coord keys trust \(endpoint.name)`"
        return refusal(
            .hostKeyChanged,
            "\(station.name) (\(station.place)) shows the key \(key), but \(file) knows "
                + known.map(\.description).joined(separator: ", "),
            "somebody may sit between; when the host was set up anew, \(remedy)"
        )
    }

    /// A file of the person's own that can't be read says nothing, as for ssh itself.
    private static func elsewhere(_ file: String) -> KnownHosts {
        (try? HostKeys.list(file)) ?? KnownHosts(text: "")
    }

    private func refusal(_ code: RemoteError.Code, _ message: String, _ hint: String) -> RemoteError {
        RemoteError(host: endpoint.name, phase: .trust, code: code, message: message, hint: hint)
    }
}

/// What `host_key:` of the cluster file says: a fingerprint, or the key itself.
struct HostKeyPin: Sendable, CustomStringConvertible {
    /// The key, when the file has all of it.
    let key: HostKey?
    private let text: String

    init(_ text: String) {
        self.text = text
        let words = text.split(separator: " ")
        key = words.count >= 2 ? HostKey(base64: words[1]) : nil
    }

    /// True for the key that is meant; fingerprints are the same with and without padding and the `SHA256:`.
    func accepts(_ other: HostKey) -> Bool {
        if let key { return key == other }
        return Self.bare(text) == Self.bare(other.fingerprint)
    }

    /// The fingerprint.
    var description: String { key?.description ?? text }

    private static func bare(_ text: String) -> Substring {
        var text = text.hasPrefix("SHA256:") ? text.dropFirst(7) : text[...]
        while text.last == "=" { text.removeLast() }
        return text
    }
}
