internal import Dispatch
internal import Synchronization

// Faults on purpose, to see that the others stand them.
extension Group {
    /// Harm that a member does to its own part of a group.
    public enum Injury: Hashable, Sendable {
        /// Its links carry nothing until then, and nobody is told; through memory it gives nothing either.
        case silence(until: ContinuousClock.Instant)
        /// One bit of the next frame to each other member is flipped behind its checksum or seal.
        case damage
    }

    /// Does it, from now on.
    public func injure(_ injury: Injury) {
        shared.state.withLock { state in
            state.injury = injury
            if case .silence(let end) = injury { state.silentUntil = end }
        }
        shared.wake.signal()
    }

    /// A member that is silent gives the others nothing through memory either.
    func waitWhileSilent() {
        guard let end = shared.state.withLock({ $0.silentUntil }) else { return }
        let left = max(0, (end - ContinuousClock.now) / .seconds(1))
        _ = shared.hasEnded.wait(timeout: .now() + left)
        shared.state.withLock { $0.silentUntil = nil }
    }
}

extension CommLoop {
    /// Begins a drill.
    func suffer(_ injury: Group.Injury) {
        switch injury {
        case .silence(let end): silentUntil = end
        case .damage: for link in links { link.damagesNext = true }
        }
    }

    /// Takes orders alone while this member is silent; nil when it is not.
    func turnInSilence() throws(CollectivesError) -> Bool? {
        guard let end = silentUntil else { return nil }
        guard ContinuousClock.now < end else {
            silentUntil = nil
            return nil
        }
        polls.clear()
        polls.add(shared.wake.descriptor, read: true, write: false)
        polls.wait(until: end)
        return try polls.isReadable(0) ? takeOrders(.now) : true
    }
}
