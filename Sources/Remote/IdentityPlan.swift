/// Which keys are offered to a host, in which order.
///
/// A host hangs up after a few wrong ones (MaxAuthTries, 6 by default), so none is offered that was not asked for.
enum IdentityPlan {
    /// A key file of the cluster file or of `~/.ssh/config`.
    struct KeyFile: Sendable, Equatable {
        /// Where it is.
        var path: String
        /// The public half; nil when only the passphrase would show it.
        var publicKey: HostKey?
        /// How the private half lies there.
        var half = Half.plain

        /// The private half.
        enum Half: Sendable, Equatable {
            /// It can be used.
            case plain
            /// It needs a passphrase.
            case encrypted
            /// There is only a public key: an agent must have the rest.
            case missing
        }
    }

    /// One thing to try.
    enum Offer: Sendable, Equatable {
        /// The agent signs.
        case agent(HostKey)
        /// The file's key.
        case file(String)
        /// The file's key, once somebody says the passphrase.
        case locked(String, HostKey?)
    }

    /// The offers, best first, as ssh itself orders them: the agent's keys that were named, its others, files.
    ///
    /// - Parameters:
    ///   - isExplicit: the cluster file names the one key.
    ///   - identitiesOnly: no other keys of the agent.
    static func offers(
        files: [KeyFile],
        agent: [HostKey],
        isExplicit: Bool,
        identitiesOnly: Bool
    ) -> [Offer] {
        var offers: [Offer] = []
        for file in files {
            // A key that is named and readable needs nobody's help.
            if isExplicit, file.half == .plain { continue }
            if let key = file.publicKey, agent.contains(key) { offers.append(.agent(key)) }
        }
        if !isExplicit, !identitiesOnly {
            offers += agent.map { .agent($0) }.filter { !offers.contains($0) }
        }
        for file in files {
            if let key = file.publicKey, offers.contains(.agent(key)) { continue }
            switch file.half {
            case .plain: offers.append(.file(file.path))
            case .encrypted: offers.append(.locked(file.path, file.publicKey))
            case .missing: break
            }
        }
        return offers
    }
}
