internal import Remote

/// How far a host is on its way into the cluster.
public enum HostPhase: String, Codable, Sendable, Hashable, CaseIterable {
    /// In the cluster file, not asked for yet.
    case idle
    /// Turning its name into addresses.
    case resolve
    /// Making the SSH connection.
    case connect
    /// Judging its key, and showing ours.
    case trust
    /// Looking at what the machine is.
    case probe
    /// Sending the worker program.
    case push
    /// Starting the agent.
    case start
    /// Opening the conversation with the agent.
    case link
    /// Ready for work.
    case ready
    /// Could not be brought up.
    case failed
    /// Was ready; the connection broke and is made anew.
    case lost
    /// Its agent has ended, as `coord down` asked.
    case down

    /// Its place on the way up.
    var order: Int { Self.allCases.firstIndex(of: self) ?? 0 }

    /// The phase that a connection was in; nil for what comes after the login.
    init?(_ phase: RemoteError.Phase) {
        switch phase {
        case .resolve: self = .resolve
        case .connect, .handshake: self = .connect
        case .trust, .authenticate: self = .trust
        case .open, .command, .stream, .upload, .keys: return nil
        }
    }
}
