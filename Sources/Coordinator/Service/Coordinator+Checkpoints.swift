internal import Basics
internal import ContentStore
internal import Registry
internal import Wire

// Checkpoints: brought home, verified, registered, kept by the run's policy.
extension Coordinator {
    /// How long what the keep policy lets go can still be brought back; unit: seconds.
    private static let trashTime: Double = 14 * 86_400

    /// Fetches a checkpoint that a host holds.
    ///
    /// - Parameter then: called when it is home, or could not be brought.
    func bringHome(
        _ manifest: Digest,
        of run: RunID,
        from host: String,
        then: (@Sendable (Coordinator, Bool) -> Void)? = nil
    ) {
        if read({ try $0.checkpoint(manifest, of: run) })?.isHome == true {
            acknowledge(manifest, to: [host])
            then?(self, true)
            return
        }
        if pulls[manifest] != nil {
            if let then { pulls[manifest]?.then.append(then) }
            return
        }
        guard let entry = hosts[host] else {
            then?(self, false)
            return
        }
        pulls[manifest] = Pull(run: run, then: then.map { [$0] } ?? [])
        let store = self.store
        let mailbox = self.mailbox
        entry.session.transfer(
            { client in
                try ChunkTransfer.pull(manifest, from: client, into: store)
                mailbox.put(
                    .resume { coordinator in
                        coordinator.cameHome(manifest, of: run)
                    }
                )
            },
            failed: { error in
                mailbox.put(
                    .resume { coordinator in
                        coordinator.stayedAway(manifest, of: run, host: host, error)
                    }
                )
            }
        )
    }

    private func cameHome(_ manifest: Digest, of run: RunID) {
        let waiting = pulls.removeValue(forKey: manifest)?.then ?? []
        let row = write { transaction -> CheckpointRow? in
            try transaction.markHome(manifest)
            return try transaction.checkpoint(manifest, of: run)
        }
        acknowledge(manifest, to: Set(read { try $0.checkpoints(manifest: manifest) }.flatMap(\.hosts)))
        if let row {
            let monitor =
                read { try $0.run(run) }?.record.flatMap { try? Monitor(named: $0.spec.monitor) }
                ?? .valAccuracy
            let best = read { try $0.best(of: run, by: monitor) }
            tell(
                run,
                .checkpoint(
                    run: run,
                    epoch: row.epoch,
                    manifest: manifest,
                    isBest: best?.manifest == manifest
                )
            )
            keepPolicyIsDue(run)
        }
        for then in waiting { then(self, true) }
        finishIfComplete()
    }

    /// Applies the keep policy now or soon: its cost grows with the number of checkpoints.
    private func keepPolicyIsDue(_ run: RunID) {
        guard policyDueFor == nil else { return }
        guard let wait = policyThrift.wait(at: .now) else { return applyKeepPolicy(run) }
        policyDueFor = run
        after(wait) { coordinator in
            if coordinator.policyDueFor == run { coordinator.applyKeepPolicy(run) }
        }
    }

    /// What is neither best nor latest, pinned nor deployed goes to the trash; its bytes stay until a prune.
    func applyKeepPolicy(_ run: RunID) {
        let begin = ContinuousClock.now
        policyDueFor = nil
        defer { policyThrift.spent(from: begin, to: .now) }
        let plan = read { try $0.keepPlan(now: now) }
        // Equal runs share their checkpoints: what another run keeps stays.
        let kept = Set(plan.kept.map(\.checkpoint.manifest))
        for row in plan.trashable where row.run == run && row.state == .saved && !kept.contains(row.manifest)
        {
            write { try $0.trash(row.manifest, until: now + Self.trashTime) }
        }
    }

    private func stayedAway(
        _ manifest: Digest,
        of run: RunID,
        host: String,
        _ error: any ExplainedError
    ) {
        let waiting = pulls.removeValue(forKey: manifest)?.then ?? []
        log(
            "checkpoint",
            "\(manifest.short) could not be fetched from \(host): \(error.message)",
            run: run,
            host: host
        )
        if error is LostConnection || error.exitCode == .unreachable {
            // A host that is gone brings it when it is back; one that is there is asked again.
            after(.seconds(1)) { coordinator in
                guard coordinator.hosts[host]?.phase == .ready else { return }
                coordinator.bringHome(manifest, of: run, from: host)
            }
        } else {
            tell(run, .note("checkpoint \(manifest.short) stays on \(host): \(error.message)"))
            if active?.id == run {
                active?.checkpointFailure = error.message
                finishIfComplete()
            }
        }
        for then in waiting { then(self, false) }
    }
}
