internal import Basics
internal import ContentStore

// Data on its way to hosts, ahead of a run or for it.
extension Coordinator {
    /// What several hosts are sent at a time is read once.
    func chunkShare() -> ChunkShare {
        if let share = currentShare { return share }
        let share = ChunkShare(store)
        currentShare = share
        return share
    }

    /// Sends hosts what a manifest needs, to all at a time; one that fails does not stop the others.
    func push(_ manifest: Digest, _ what: String, to names: [String], _ peer: ControlPeer) throws {
        for name in names where hosts[name]?.phase != .ready {
            throw CoordinatorError(
                "\(name) is not ready",
                hint: "coord up \(name)",
                exitCode: .unreachable
            )
        }
        let group = DownGroup(waiting: Set(names))
        guard !names.isEmpty else { return peer.finish() }
        let store = self.store
        let share = chunkShare()
        for name in names {
            let mailbox = self.mailbox
            let done: @Sendable ((any ExplainedError)?) -> Void = { failure in
                mailbox.put(
                    .resume { _ in
                        guard let result = group.done(name, failure) else { return }
                        peer.finish(result.failure)
                    }
                )
            }
            hosts[name]?.session.transfer(
                { link in
                    let state = try ChunkTransfer.push(manifest, from: store, to: link, shared: share) {
                        peer.send(.transfer(TransferEvent(host: name, what: what, $0)))
                    }
                    peer.send(.transfer(TransferEvent(host: name, what: what, state, isDone: true)))
                    done(nil)
                },
                failed: { error in
                    peer.send(.note("\(name): \(error.message)"))
                    done(error)
                }
            )
        }
    }
}
