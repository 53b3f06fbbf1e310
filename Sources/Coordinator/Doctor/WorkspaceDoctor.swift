internal import Basics
public import ClusterFile
internal import Registry
internal import Remote

/// Looks at what the cluster needs on this machine; changes nothing.
public enum WorkspaceDoctor {
    /// - Returns: one check for each subject, in the order in which they matter.
    public static func examine(_ workspace: Workspace, _ file: ClusterFile) -> [DoctorCheck] {
        var findings = Findings()
        client(file, &findings)
        worker(workspace, &findings)
        for identity in Set(file.hosts.filter { !$0.isLocal }.compactMap(\.identity)).sorted() {
            key(workspace.path(identity), &findings)
        }
        knownHosts(workspace, &findings)
        store(workspace, &findings)
        coordinator(workspace, &findings)
        pods(workspace, file, &findings)
        return findings.checks
    }

    private static func client(_ file: ClusterFile, _ findings: inout Findings) {
        guard file.hosts.contains(where: { !$0.isLocal }) else { return }
        if let result = try? ChildProcess.run(["/usr/bin/ssh", "-V"]), result.exit.isSuccess {
            let text = String(decoding: result.errors, as: UTF8.self)
            findings.add("ssh client", text.split(separator: ",").first.map(String.init) ?? text)
        } else {
            findings.add(
                "ssh client",
                .warning,
                "there is none: names and keys of ~/.ssh/config are read by halves",
                remedy: "apt-get install openssh-client"
            )
        }
    }

    private static func worker(_ workspace: Workspace, _ findings: inout Findings) {
        do {
            let worker = try workspace.worker(nil)
            findings.add("worker", "\(worker.path), \(worker.size), sha256 \(worker.digest.short)")
        } catch {
            let explained = error as? any ExplainedError
            findings.add("worker", .failed, explained?.message ?? "\(error)", remedy: explained?.hint)
        }
    }

    private static func key(_ path: String, _ findings: inout Findings) {
        guard Files.kind(path) == .file else {
            return findings.add("key", .failed, "there is no \(path)", remedy: "coord keys bootstrap")
        }
        guard Files.isPrivateFile(path) else {
            return findings.add(
                "key",
                .failed,
                "\(path) may be read by others",
                remedy: "chmod 600 \(ShellQuoting.quote(path))"
            )
        }
        findings.add("key", "\(path), readable by its owner only")
    }

    private static func knownHosts(_ workspace: Workspace, _ findings: inout Findings) {
        guard let text = try? Files.readText(workspace.knownHosts) else { return }
        let lines = KnownHosts(text: text).lines
        let authorities = lines.count { $0.marker == .certAuthority }
        if authorities > 0 {
            findings.add(
                "known hosts",
                .warning,
                "\(authorities) @cert-authority lines in \(workspace.knownHosts) are not supported and not used",
                remedy: "pin the hosts' own keys: coord keys trust HOST"
            )
        } else {
            findings.add("known hosts", "\(lines.count) keys in \(workspace.knownHosts)")
        }
    }

    private static func store(_ workspace: Workspace, _ findings: inout Findings) {
        do {
            let free = try Files.freeSpace(workspace.artifacts)
            if free.bytes < 1 << 30 {
                findings.add(
                    "store",
                    .warning,
                    "only \(free) free in \(workspace.artifacts)",
                    remedy: "make room: a checkpoint that does not fit is not brought home"
                )
            } else {
                findings.add("store", "\(free) free in \(workspace.artifacts)")
            }
            guard Files.kind(workspace.registryPath) != nil else { return }
            _ = try Registry(path: workspace.registryPath, access: .readOnly)
        } catch {
            let explained = error as? any ExplainedError
            findings.add("store", .failed, explained?.message ?? "\(error)", remedy: explained?.hint)
        }
    }

    private static func pods(_ workspace: Workspace, _ file: ClusterFile, _ findings: inout Findings) {
        guard workspace.pods.hasKey else {
            let named = file.hosts.filter { $0.pod != nil }
            guard !named.isEmpty else { return }
            return findings.add(
                "pods",
                .warning,
                "\(PodAccount.keyVariable) is not set: nobody follows \(named.map(\.name).joined(separator: ", ")) "
                    + "to another port, or sees what bills",
                remedy: "put an API key of RunPod into \(PodAccount.keyVariable)"
            )
        }
        let survey = PodSurvey.examine(workspace, file)
        for report in survey.reports {
            let whose = report.host.map { " of host \($0)" } ?? ""
            let price = report.pricePerHour.map { ", $\($0) an hour" } ?? ""
            if report.findings.isEmpty {
                findings.add("pods", "pod \(report.pod)\(whose) is \(report.status)\(price)")
            }
            for finding in report.findings {
                let state = finding.oddity == .gone ? DoctorCheck.State.failed : .warning
                findings.add("pods", state, finding.message, remedy: finding.remedy)
            }
        }
        for note in survey.notes { findings.add("pods", .warning, note) }
    }

    private static func coordinator(_ workspace: Workspace, _ findings: inout Findings) {
        findings.add(
            "coordinator",
            CoordinatorProgram.running(workspace) == nil ? "not running; coord up starts it" : "running"
        )
    }
}
