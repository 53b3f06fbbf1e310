internal import Basics
internal import ClusterFile
internal import Registry
internal import Wire

/// What the coordinator knows of the account's pods.
struct PodWatch {
    /// How often the account is looked at.
    var interval: Duration
    /// What it said last.
    var list: PodList?
    /// Why it said nothing, last time.
    var problem: PodError?
    /// When that was.
    var asked: ContinuousClock.Instant?
    /// Who waits for the answer that is on its way.
    var waiting: [(Coordinator) -> Void] = []
    /// What was written down already.
    var told: Set<PodReport.Finding> = []
}

// Rented pods: what their provider says of them, held against what the cluster wants.
extension Coordinator {
    /// Looks at the account again and again.
    func watchPods() {
        after(pods.interval) { coordinator in
            coordinator.askForPods { _ in }
            coordinator.watchPods()
        }
    }

    /// Asks the account, and goes on when it has answered, or has not; at once when there is nothing to ask.
    ///
    /// - Parameter age: an answer that is not older will do.
    func askForPods(age: Duration = .zero, then: @escaping (Coordinator) -> Void) {
        guard let file, workspace.pods.hasKey,
            file.hosts.contains(where: { $0.pod != nil }) || !read({ try $0.pods() }).isEmpty
        else { return then(self) }
        if let asked = pods.asked, .now - asked < age { return then(self) }
        pods.waiting.append(then)
        guard pods.waiting.count == 1 else { return }
        away("pods", { [workspace] in try workspace.pods.pods() }) { coordinator, result in
            coordinator.podsAnswered(result)
        }
    }

    private func podsAnswered(_ result: Result<PodList, any Error>) {
        pods.asked = .now
        switch result {
        case .success(let list):
            pods.list = list
            pods.problem = nil
            rememberPods(list)
        case .failure(let error):
            let problem = error as? PodError ?? PodError(.unreachable, "\(error)")
            if problem.message != pods.problem?.message { log("pod", problem.message) }
            pods.problem = problem
        }
        tellOfPods()
        let waiting = pods.waiting
        pods.waiting = []
        for then in waiting { then(self) }
    }

    /// Writes down which pods are the cluster's, so that one that leaves the cluster file is not lost track of.
    private func rememberPods(_ list: PodList) {
        guard let file else { return }
        let known = Dictionary(read { try $0.pods() }.map { ($0.id, $0.host) }) { $1 }
        let there = Set(list.pods.filter { $0.status != .terminated }.map(\.id))
        let new = file.hosts.filter { host in
            host.pod.map { there.contains($0) && known[$0] != host.name } ?? false
        }
        let gone = known.keys.filter { !there.contains($0) }
        // An entry that could not be read may be any of them.
        guard !new.isEmpty || (!gone.isEmpty && list.unreadable == 0) else { return }
        write { transaction in
            for host in new {
                if let id = host.pod { try transaction.put(PodRow(id: id, host: host.name, seen: now)) }
            }
            if list.unreadable == 0 { for id in gone { try transaction.removePod(id) } }
        }
    }

    /// The pods that concern the cluster, as the account last told; nothing before it has.
    func podReports() -> [PodReport] {
        guard let file, let list = pods.list, pods.problem == nil else { return [] }
        let comparison = PodComparison(
            cluster: file.cluster,
            uses: file.hosts.compactMap { PodUse($0, need: need($0)) },
            known: Dictionary(read { try $0.pods() }.map { ($0.id, $0.host) }) { $1 }
        )
        return comparison.reports(of: list)
    }

    private func need(_ spec: HostSpec) -> PodUse.Need {
        guard let entry = hosts[spec.name] else { return .unneeded("its host is not asked for") }
        let isWanted = active?.hosts.contains(spec.name) == true && active?.left.contains(spec.name) != true
        switch entry.phase {
        case .ready:
            // One that is rented stops by itself.
            if isWanted || spec.rented || entry.status?.serve?.live != nil { return .needed }
            return .unneeded("nothing runs there, and without `rented: true` and `stop:` nothing stops it")
        case .failed, .lost: return isWanted ? .needed : .unneeded("its host is not up")
        case .down: return .unneeded("its host is down")
        case .idle: return bringUps.isEmpty ? .unneeded("its host is not asked for") : .needed
        case .resolve, .connect, .trust, .probe, .push, .start, .link: return .needed
        }
    }

    /// Writes down what is newly odd, and tells those who follow the run.
    private func tellOfPods() {
        var odd: Set<PodReport.Finding> = []
        for report in podReports() {
            for finding in report.findings {
                odd.insert(finding)
                guard !pods.told.contains(finding) else { continue }
                log("pod", "\(finding.message) — \(finding.remedy)", run: active?.id, host: report.host)
                if let active { tell(active.id, .note("\(finding.message) — \(finding.remedy)")) }
            }
        }
        // Without an answer nothing is known to have passed.
        if pods.problem == nil { pods.told = odd }
    }

    /// Sends a command what is known of the pods.
    ///
    /// - Parameter onlyOdd: nothing of those with which all is well.
    func sendPods(to peer: ControlPeer, onlyOdd: Bool) {
        for report in podReports() where !onlyOdd || !report.findings.isEmpty { peer.send(.pod(report)) }
        if let problem = pods.problem { peer.send(.note("pods: \(problem)")) }
        if let count = pods.list?.unreadable, count > 0, pods.problem == nil {
            peer.send(.note("pods: \(count) entries of RunPod's list could not be read"))
        }
    }
}
