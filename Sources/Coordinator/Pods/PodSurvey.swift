internal import Basics
public import ClusterFile
internal import Registry

/// The pods of a cluster, for commands: as the coordinator knows them, or without one as they are.
public struct PodSurvey: Sendable {
    /// The pods that concern the cluster.
    public var reports: [PodReport] = []
    /// What kept from knowing more.
    public var notes: [String] = []

    /// Nothing yet.
    public init() {}

    /// Takes what the coordinator says.
    public mutating func take(_ event: ControlEvent) {
        if case .pod(let report) = event { reports.append(report) }
        if case .note(let text) = event { notes.append(text) }
    }

    /// Asks the coordinator, or the account itself when none runs; nobody when the cluster never had a pod.
    ///
    /// - Cost: one request to the provider, 10 s at most.
    public static func examine(_ workspace: Workspace, _ file: ClusterFile) -> PodSurvey {
        var survey = PodSurvey()
        do {
            if let client = CoordinatorProgram.running(workspace) {
                _ = try client.ask(.status) { survey.take($0) }
            } else {
                try survey.ask(workspace, file)
            }
        } catch {
            survey.notes.append("pods: \((error as? any ExplainedError)?.description ?? "\(error)")")
        }
        return survey
    }

    private mutating func ask(_ workspace: Workspace, _ file: ClusterFile) throws {
        let registry = try? Registry(path: workspace.registryPath, access: .readOnly)
        let known = (try? registry?.read { try $0.pods() }) ?? []
        guard workspace.pods.hasKey, !known.isEmpty || file.hosts.contains(where: { $0.pod != nil }) else {
            return
        }
        let comparison = PodComparison(
            cluster: file.cluster,
            uses: file.hosts.compactMap { PodUse($0, need: .unneeded("no coordinator runs here")) },
            known: Dictionary(known.map { ($0.id, $0.host) }) { $1 }
        )
        let list = try workspace.pods.pods()
        reports = comparison.reports(of: list)
        if list.unreadable > 0 {
            notes.append("pods: \(list.unreadable) entries of RunPod's list could not be read")
        }
    }
}
