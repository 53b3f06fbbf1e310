internal import Basics
internal import Dispatch
internal import Synchronization

/// How a group reaches one of its members.
public struct PeerWay: Hashable, Sendable, CustomStringConvertible {
    /// The kinds, fastest first.
    public enum Kind: String, Sendable {
        /// Values stand in memory that both processes map.
        case memory
        /// A unix socket on one machine.
        case local
        /// A connection between machines, or what looks like one from here.
        case network
    }
    /// The member.
    public var rank: Int
    /// How its values come.
    public var kind: Kind
    /// Whether the link is encrypted.
    public var isSealed: Bool
    /// Why not through memory; nil when they do.
    public var reason: String?

    /// For people: `memory`, or the kind and the reason.
    public var description: String {
        guard let reason else { return kind.rawValue }
        return "\(isSealed ? "encrypted " : "")\(kind.rawValue): \(reason)"
    }
}

/// Which links are encrypted and authenticated record by record.
public enum LinkSealing: Sendable {
    /// All but those on loopback and between processes of one machine.
    case betweenMachines
    /// All.
    case always
    /// None, unless the other side asks for it: for networks that are trusted, and measurements.
    case never

    func applies(to link: any Link) -> Bool {
        switch self {
        case .betweenMachines: !link.staysOnMachine
        case .always: true
        case .never: false
        }
    }
}

extension Group {
    /// Another member, as it was met.
    struct Peer {
        var memory: PeerMemory
        var isLocal: Bool
        var isSealed: Bool
    }
}

// Members that are all on one machine exchange through memory, on the caller's thread.
extension Group {
    /// How each of the others is reached, in rank order.
    ///
    /// All members of a group use memory, or none does. Whether all can is settled in its first operation; before that,
    /// this is what this member knows.
    public var ways: [PeerWay] {
        let isPossible = shared.state.withLock { $0.sharesMemory } ?? (exchange != nil)
        let odd = peers.sorted { $0.key < $1.key }.compactMap { rank, peer -> String? in
            if case .missing(let why) = peer.memory { return "rank \(rank): \(why)" }
            return nil
        }
        return peers.sorted { $0.key < $1.key }.map { rank, peer in
            PeerWay(
                rank: rank,
                kind: isPossible ? .memory : peer.isLocal ? .local : .network,
                isSealed: peer.isSealed,
                reason: isPossible
                    ? nil : odd.first ?? "another member can't map everybody's memory"
            )
        }
    }

    func exchangeThroughMemory(_ posted: PostedOperation) -> CollectivesError? {
        guard let exchange else { return exchangeOverLinks(posted) }
        let settled = shared.state.withLock { $0.sharesMemory }
        if settled == false { return exchangeOverLinks(posted) }
        waitWhileSilent()
        if let refusal = begin(posted, { $0.throughMemory = posted.operation }) { return refusal }
        if settled == nil {
            guard let isPossible = exchange.isPossible() else { return leave(posted.operation, nil) }
            let refusal: CollectivesError?? = shared.state.withLock { state in
                state.sharesMemory = isPossible
                if isPossible { return nil }
                // The group's thread does it, unless it has ended meanwhile.
                state.throughMemory = nil
                if let failure = state.failure {
                    state.isInFlight = false
                    return failure
                }
                state.posted = posted
                return .some(nil)
            }
            if let refusal { return refusal ?? waitForThread() }
        }
        var ready: Digest?
        let outcome = exchange.run(posted) { digest in
            ready = digest
            shared.state.withLock { $0.member.becomeReady(digest) }
        }
        switch outcome {
        case .committed: return commit()
        case .failed(let error):
            shared.state.withLock { $0.trouble = error }
            return leave(posted.operation, error)
        case .stopped:
            // The last word may have come with the end.
            if let ready, case .committed = exchange.verdict(posted.operation, ready) { return commit() }
            return leave(posted.operation, nil)
        }
    }

    /// All members hold one result.
    private func commit() -> CollectivesError? {
        let bytesRead = exchange?.bytesRead ?? 0
        let isLast = shared.state.withLock { state in
            state.member.commit()
            state.counters.bytesThroughMemory = bytesRead
            state.throughMemory = nil
            state.isInFlight = false
            if let next = state.nextFailure { state.failure = next }
            return state.failure != nil
        }
        if isLast {
            shared.wake.signal()
            shared.hasLeft.signal()
        }
        return nil
    }

    /// This member gives up, or was told to.
    private func leave(_ operation: UInt64, _ error: CollectivesError?) -> CollectivesError? {
        let failure = shared.state.withLock { state in
            state.throughMemory = nil
            state.isInFlight = false
            if state.failure == nil { state.failure = error }
            return state.failure
        }
        shared.wake.signal()
        shared.hasLeft.signal()
        return error ?? failure ?? CollectivesError(.aborted, "operation \(operation) was given up")
    }
}
