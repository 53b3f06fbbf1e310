internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Registry
internal import Wire

// The life of agents: what they hold alone, when they end, what comes back by itself.
extension Coordinator {
    /// How often a host that is ready is asked how it is: often enough for the shortest lease that makes sense, and for
    /// trainers to know that somebody coordinates.
    private static let beatInterval = Duration.seconds(10)

    /// Asks all hosts how they are, now and then; whose connection is dead is found by it.
    func beat() {
        after(Self.beatInterval) { coordinator in
            for (name, entry) in coordinator.hosts where entry.phase == .ready {
                entry.session.perform(
                    { [mailbox = coordinator.mailbox] client in
                        guard case .status(let status) = try client.call(.status, timeout: 20_000) else {
                            return
                        }
                        mailbox.put(.resume { $0.heard(status, from: name) })
                    },
                    failed: { _ in }
                )
            }
            coordinator.beat()
        }
    }

    private func heard(_ status: AgentStatus, from name: String) {
        guard let entry = hosts[name], entry.phase == .ready else { return }
        if let failure = status.lease?.stopFailure, failure != entry.status?.lease?.stopFailure {
            log("host", "the stop command: \(failure)", host: name)
        }
        hosts[name]?.status = status
        hosts[name]?.heard = .now
        settle(name, status)
    }

    // MARK: Checkpoints that one host holds alone

    /// Tells an agent which of its checkpoints are safe, and brings the others home.
    func settle(_ name: String, _ status: AgentStatus) {
        var safe: [Digest] = []
        for digest in status.unsaved ?? [] {
            let rows = read { try $0.checkpoints(manifest: digest) }
            // One that the registry does not know is on its way in the agent's events.
            guard let wanted = rows.last(where: \.isUsable) ?? rows.last else { continue }
            if rows.contains(where: \.isHome) || !wanted.isUsable {
                safe.append(digest)
            } else {
                bringHome(digest, of: wanted.run, from: name)
            }
        }
        guard !safe.isEmpty else { return }
        hosts[name]?.session.perform({ [safe] in try $0.call(.saved(safe)) }, failed: { _ in })
    }

    /// A checkpoint is home: those who made it need not keep their machines for it.
    func acknowledge(_ manifest: Digest, to names: Set<String>) {
        for name in names where hosts[name]?.phase == .ready {
            // A host that can't hear it now asks again by its status.
            hosts[name]?.session.perform({ try $0.call(.saved([manifest])) }, failed: { _ in })
        }
    }

    /// Brings home what only a host has, on the host's own thread, before its data goes.
    func rescue(from name: String) -> @Sendable (BulkLink, [Digest]) throws -> Void {
        { [store, mailbox] link, unsaved in
            for digest in unsaved {
                do {
                    try ChunkTransfer.pull(digest, from: link, into: store)
                } catch let error as any ExplainedError {
                    throw CoordinatorError(
                        "\(name): checkpoint \(digest.short) is only there and can't be brought home "
                            + "(\(error.message)); nothing was ended",
                        hint: "try again; or coord down --lose-checkpoints gives it up",
                        exitCode: error.exitCode
                    )
                }
                mailbox.put(.resume { $0.write { try $0.markHome(digest) } })
            }
            try link.call(.saved(unsaved))
        }
    }

    // MARK: After a restart of machines

    /// True when the registry has all events that the agents had kept.
    func hasHeardAll(_ statuses: [(String, AgentStatus)]) -> Bool {
        guard let run = active?.id else { return true }
        return statuses.allSatisfy { host, status in
            guard let last = status.events?[run] else { return true }
            return read { try $0.cursor(host: host, run: run) } >= Int64(last)
        }
    }

    /// Why no agent knows of the run any more.
    func lossWords(_ statuses: [(String, AgentStatus)]) -> String {
        guard let active, !read({ try $0.generations(of: active.id) }).isEmpty,
            let row = read({ try $0.run(active.id) })
        else { return "the coordinator ended before training began" }
        let began = row.started ?? row.created
        let words = statuses.sorted { $0.0 < $1.0 }.map { host, status in
            guard let uptime = status.uptime, now - uptime > began else { return "\(host)'s agent was ended" }
            return "\(host)'s machine was started again \(Self.ago(uptime)) ago"
        }
        return words.joined(separator: ", ")
    }

    // MARK: Words

    /// True when a host's agent is of another build than the one that is here now.
    func isOutdated(_ entry: HostEntry) -> Bool {
        guard let worker = entry.status?.worker, let triple = entry.facts?.triple,
            let built = try? workspace.worker(triple)
        else { return false }
        return built.digest != worker
    }

    /// What people should know of a host's agent.
    func notes(_ entry: HostEntry) -> [String] {
        guard let status = entry.status else { return [] }
        return AgentNotes.words(
            status,
            isRented: entry.spec.rented,
            age: (ContinuousClock.now - entry.heard) / .seconds(1)
        )
    }

    /// What a lost connection to a rented host without work most likely means.
    func stopWords(_ entry: HostEntry) -> String? {
        guard entry.spec.rented, let left = entry.status?.lease?.secondsLeft else { return nil }
        let age = (ContinuousClock.now - entry.heard) / .seconds(1)
        // The status is as old as the last beat, at most.
        return left - age < 60 ? "; it had no work and has most likely stopped itself" : nil
    }

    static func ago(_ seconds: Double) -> String {
        let whole = Int(seconds)
        if whole < 120 { return "\(whole) s" }
        return whole < 7200 ? "\(whole / 60) min" : "\(whole / 3600) h"
    }
}

/// What people should know of an agent, in words.
enum AgentNotes {
    /// - Parameter age: of the status; unit: seconds.
    static func words(_ status: AgentStatus, isRented: Bool, age: Double) -> [String] {
        var words: [String] = []
        if let lease = status.lease, isRented {
            if !lease.isArmed {
                words.append("not armed: it is not stopped by itself")
            } else if let left = lease.secondsLeft {
                words.append("armed, stops in \(Coordinator.ago(max(0, left - age))): \(lease.reason)")
            } else {
                words.append("armed, not stopped while: \(lease.reason)")
            }
            if let failure = lease.stopFailure { words.append("the stop command: \(failure)") }
        }
        if let boot = status.boot {
            if boot.starter == .nobody {
                words.append("its agent does not come back after a reboot (\(boot.detail))")
            }
            if let logout = boot.logout { words.append("its agent does not outlive a logout: \(logout)") }
        }
        return words
    }
}

extension HostSpec {
    /// What the host's agent is told of its life; an own host is never stopped.
    var terms: AgentTerms {
        AgentTerms(
            lease: lease / .seconds(1),
            stop: rented ? stop : nil,
            idleStop: idleStop / .seconds(1),
            stopsUnsaved: stopsUnsaved
        )
    }
}
