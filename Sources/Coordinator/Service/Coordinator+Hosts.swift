internal import Basics
internal import ClusterFile
internal import Registry
internal import Remote
internal import Wire

// Hosts: the ones of the file in force, their news, their way back.
extension Coordinator {
    /// Makes the hosts of `file` the cluster's; sessions of hosts that did not change go on.
    func use(_ file: ClusterFile, trust: HostTrust) {
        self.file = file
        // A host that comes back later needs them too; one that was wrong is replaced by the next that is said.
        passphrases.merge(trust.passphrases) { $1 }
        var trust = trust
        trust.passphrases = passphrases
        let names = Set(file.hosts.map(\.name))
        for (name, entry) in hosts where !names.contains(name) {
            entry.session.close()
            hosts[name] = nil
        }
        for spec in file.hosts {
            if let entry = hosts[spec.name] {
                if entry.spec == spec, entry.phase != .failed, entry.phase != .down { continue }
                entry.session.close()
            }
            let mailbox = self.mailbox
            let session = HostSession(
                spec: spec,
                workspace: workspace,
                trust: trust.policy { question in
                    mailbox.put(
                        .resume { coordinator in
                            for bringUp in coordinator.bringUps {
                                bringUp.peer.send(
                                    .unknownHostKey(
                                        host: question.host,
                                        fingerprint: question.key.fingerprint
                                    )
                                )
                            }
                        }
                    )
                },
                passphrase: trust.passphrase { question in
                    mailbox.put(
                        .resume { coordinator in
                            for bringUp in coordinator.bringUps {
                                bringUp.peer.send(
                                    .passphraseNeeded(host: question.host, path: question.path)
                                )
                            }
                        }
                    )
                },
                cursors: { [registry] in (try? Self.cursors(of: spec.name, in: registry)) ?? [:] },
                post: { name, session, news in mailbox.put(.host(name, session: session, news)) }
            )
            hosts[spec.name] = HostEntry(spec: spec, session: session, phase: .idle)
        }
    }

    private static func cursors(of host: String, in registry: Registry) throws -> [RunID: Int] {
        try registry.read { snapshot in
            var cursors: [RunID: Int] = [:]
            for run in try snapshot.runs() {
                cursors[run.id] = Int(try snapshot.cursor(host: host, run: run.id))
            }
            return cursors
        }
    }

    func received(_ news: HostSession.News, from name: String) {
        guard hosts[name] != nil else { return }
        switch news {
        case .phase(let phase, let detail): moved(name, phase, detail)
        case .facts(let facts):
            let isMore = hosts[name]?.facts?.gpus == nil && facts.gpus != nil
            hosts[name]?.facts = facts
            if isMore, hosts[name]?.phase == .ready { remember(name) }
        case .up(let status):
            let isNewAgent = hosts[name]?.status.map { $0.pid != status.pid } ?? false
            hosts[name]?.status = status
            hosts[name]?.heard = .now
            hosts[name]?.isHopeless = false
            hosts[name]?.failures = 0
            moved(name, .ready, hosts[name].map(detail) ?? "")
            remember(name)
            arrived(name, failure: nil)
            settle(name, status)
            hostIsBack(name, status, isNewAgent: isNewAgent)
        case .failed(let phase, let message, let hint, let exitCode):
            let failure = CoordinatorError(message, hint: hint, exitCode: exitCode)
            moved(name, .failed, "\(phase.rawValue): \(message)")
            remember(name)
            arrived(name, failure: failure)
            hosts[name]?.isHopeless = exitCode != .unreachable
            hostFailed(name)
        case .lost(let reason):
            let reason = reason + (hosts[name].flatMap(stopWords) ?? "")
            moved(name, .lost, reason)
            remember(name)
            log("host", reason, host: name)
            retry(name)
            lostBeforeBeginning(name, reason)
        case .event(let event): received([(event, name)])
        }
    }

    /// Tries again, more rarely each time, while a run needs the host.
    func retry(_ name: String) {
        guard let failures = hosts[name].map({ $0.failures + 1 }),
            let pause = RetryPolicy().pause(failures: failures, random: .random(in: 0..<1))
        else { return }
        hosts[name]?.failures = failures
        after(pause) { coordinator in
            guard let entry = coordinator.hosts[name], entry.phase == .lost || entry.phase == .failed,
                !entry.isHopeless
            else { return }
            entry.session.bringUp()
        }
    }

    private func hostFailed(_ name: String) {
        guard let active, !active.left.contains(name) else { return }
        if active.hosts.contains(name) { takeUp() }
        // A host that was missing at the start helps when it comes.
        if active.hosts.contains(name) || hosts[name]?.spec.trains == true { retry(name) }
    }

    func moved(_ name: String, _ phase: HostPhase, _ detail: String) {
        hosts[name]?.phase = phase
        let notes = phase == .ready ? hosts[name].map(notes) ?? [] : []
        let event = ControlEvent.host(HostEvent(host: name, phase: phase, detail: detail, notes: notes))
        for bringUp in bringUps { bringUp.peer.send(event) }
        if phase == .lost || phase == .ready, let active, active.hosts.contains(name) {
            tell(active.id, event)
        }
    }

    private func remember(_ name: String) {
        guard let entry = hosts[name] else { return }
        let worker = try? workspace.worker(nil).digest
        write { transaction in
            try transaction.put(
                HostRow(
                    name: name,
                    address: entry.spec.place,
                    worker: worker,
                    kernels: entry.status?.kernels,
                    cores: entry.status?.cores ?? 0,
                    memory: ByteCount(entry.status?.memory ?? 0),
                    lastSeen: entry.phase == .ready ? now : nil,
                    phase: entry.phase.rawValue,
                    facts: entry.facts.flatMap { try? MessageCoding.encode($0) }
                        .map { String(decoding: $0, as: UTF8.self) }
                )
            )
        }
    }
}
