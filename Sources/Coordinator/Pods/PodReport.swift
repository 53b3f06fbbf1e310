internal import Basics
internal import ClusterFile

/// A pod of the account that concerns the cluster, and what is odd about it.
public struct PodReport: Codable, Sendable, Hashable {
    /// What does not fit together.
    public enum Oddity: String, Codable, Sendable {
        /// It bills, and the cluster does nothing with it.
        case unused
        /// It is the cluster's, and the cluster file does not name it.
        case untracked
        /// The cluster file names it, and it was deleted.
        case gone
        /// The cluster file names it, and it is stopped.
        case stopped
        /// It costs something else than the cluster file says.
        case price
    }

    /// Something odd.
    public struct Finding: Codable, Sendable, Hashable {
        /// What kind it is.
        public var oddity: Oddity
        /// What was seen.
        public var message: String
        /// What a person may do; nothing is done by itself.
        public var remedy: String
    }

    /// RunPod's id.
    public var pod: String
    /// Its name there; empty when it is gone.
    public var name: String
    /// Its host in the cluster file; nil for a pod that the file does not name.
    public var host: String?
    /// What it is doing, in RunPod's words; `GONE` for a pod that is not there.
    public var status: String
    /// What an hour costs now; unit: USD.
    public var pricePerHour: Double?
    /// The command that logs in there; nil while it does not answer SSH.
    public var login: String?
    /// What is odd.
    public var findings: [Finding]
}

/// What the cluster wants of a pod.
struct PodUse: Equatable, Sendable {
    /// Whether it should be running.
    enum Need: Equatable, Sendable {
        /// Something is done there, or it stops by itself.
        case needed
        /// Nothing is done there, in words that follow "but".
        case unneeded(String)
    }

    var host: String
    var pod: String
    /// What the cluster file says that an hour costs.
    var pricePerHour: Double?
    var user: String?
    var need: Need

    init?(_ spec: HostSpec, need: Need) {
        guard let pod = spec.pod else { return nil }
        self.init(host: spec.name, pod: pod, pricePerHour: spec.pricePerHour, user: spec.user, need: need)
    }

    init(host: String, pod: String, pricePerHour: Double? = nil, user: String? = nil, need: Need = .needed) {
        self.host = host
        self.pod = pod
        self.pricePerHour = pricePerHour
        self.user = user
        self.need = need
    }
}

/// Compares the account's pods with the cluster.
struct PodComparison {
    /// The cluster's name: pods named `coord-NAME-…` are its own.
    var cluster: String
    /// The pods of the cluster file, in its order.
    var uses: [PodUse]
    /// Pods that the cluster file named once: id → host.
    var known: [String: String]

    /// Prices are told with more digits than people write.
    private static let priceTolerance = 0.005

    /// - Returns: the pods of the file in its order, then those that are the cluster's all the same, by id.
    func reports(of account: PodList) -> [PodReport] {
        let pods = Dictionary(account.pods.map { ($0.id, $0) }) { first, _ in first }
        let named = uses.map { report($0, pods[$0.pod]) }
        let files = Set(uses.map(\.pod))
        let others = account.pods.filter { !files.contains($0.id) && $0.status != .terminated && isOurs($0) }
        return named + others.sorted { $0.id < $1.id }.map(lost)
    }

    private func isOurs(_ pod: Pod) -> Bool {
        pod.name.hasPrefix("coord-\(cluster)-") || pod.name == "coord-\(cluster)" || known[pod.id] != nil
    }

    private func report(_ use: PodUse, _ pod: Pod?) -> PodReport {
        guard let pod, pod.status != .terminated else {
            return PodReport(
                pod: use.pod,
                name: pod?.name ?? "",
                host: use.host,
                status: pod?.status.word ?? "GONE",
                findings: [
                    PodReport.Finding(
                        oddity: .gone,
                        message:
                            "pod \(use.pod) of host \(use.host) is gone: it was deleted outside of coord, with its disk",
                        remedy:
                            "rent another one and write its id as `pod:`, or take \(use.host) out of the cluster file"
                    )
                ]
            )
        }
        var report = PodReport(pod, host: use.host, user: use.user)
        if pod.status == .exited || pod.status == .error {
            report.add(
                .stopped,
                "pod \(pod.id) of host \(use.host) is stopped (\(pod.status.word)); its disk still bills",
                "runpodctl pod start \(pod.id), then coord up \(use.host)"
            )
        }
        if pod.bills, case .unneeded(let why) = use.need {
            report.add(
                .unused,
                "pod \(pod.id) of host \(use.host) bills\(pod.priceWords), but \(why)",
                "use it (coord up \(use.host)), or stop it (runpodctl pod stop \(pod.id))"
            )
        }
        if pod.bills, let ours = use.pricePerHour, let theirs = pod.pricePerHour,
            abs(ours - theirs) > Self.priceTolerance * max(ours, theirs)
        {
            report.add(
                .price,
                "pod \(pod.id) of host \(use.host) costs $\(theirs) an hour, and the cluster file says \(ours)",
                "price_per_hour: \(theirs)"
            )
        }
        return report
    }

    private func lost(_ pod: Pod) -> PodReport {
        var report = PodReport(pod, host: nil, user: nil)
        let why = known[pod.id].map { "was host \($0)" } ?? "is named \(pod.name)"
        let bills = pod.bills ? "bills\(pod.priceWords)" : "is \(pod.status.word)"
        report.add(
            .untracked,
            "pod \(pod.id) \(bills) and \(why), but the cluster file does not name it",
            "`pod: \(pod.id)` in a host takes it in, runpodctl pod stop \(pod.id) stops it, "
                + "runpodctl pod delete \(pod.id) deletes it with its disk"
        )
        return report
    }
}

extension PodReport {
    fileprivate init(_ pod: Pod, host: String?, user: String?) {
        self.init(
            pod: pod.id,
            name: pod.name,
            host: host,
            status: pod.status.word,
            pricePerHour: pod.pricePerHour,
            login: pod.place.map { "ssh -p \($0.port) \(user ?? $0.user ?? "root")@\($0.address)" },
            findings: []
        )
    }

    fileprivate mutating func add(_ oddity: Oddity, _ message: String, _ remedy: String) {
        findings.append(Finding(oddity: oddity, message: message, remedy: remedy))
    }
}

extension Pod {
    /// ` $0.34 an hour`, or nothing when it was not told.
    fileprivate var priceWords: String { pricePerHour.map { " $\($0) an hour" } ?? "" }
}
