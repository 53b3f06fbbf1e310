/// One thing that `coord doctor` looked at: what was seen, and what to do about it.
public struct DoctorCheck: Codable, Sendable, Hashable {
    /// How it stands.
    public enum State: String, Codable, Sendable {
        /// As it should be.
        case ok
        /// Works, but somebody should know.
        case warning
        /// Keeps the cluster, or this host, from working.
        case failed
    }

    /// The host; nil for this machine's own affairs.
    public var host: String?
    /// What was looked at, in a word or two.
    public var subject: String
    /// How it stands.
    public var state: State
    /// What was seen.
    public var evidence: String
    /// What to do; nil when nothing is to be done.
    public var remedy: String?
}

/// Gathers checks of one place.
struct Findings {
    let host: String?
    private(set) var checks: [DoctorCheck] = []

    init(host: String? = nil) { self.host = host }

    mutating func add(_ subject: String, _ evidence: String) { add(subject, .ok, evidence) }

    mutating func add(
        _ subject: String,
        _ state: DoctorCheck.State,
        _ evidence: String,
        remedy: String? = nil
    ) {
        checks.append(
            DoctorCheck(host: host, subject: subject, state: state, evidence: evidence, remedy: remedy)
        )
    }
}
