/// What the cluster file says of an agent's life on its host.
///
/// Sent before any work; the agent keeps it in its folder, so that it holds when the coordinator is gone.
public struct AgentTerms: Codable, Sendable, Hashable {
    /// Without work and without word from the coordinator for so long, the agent ends; unit: seconds.
    public var lease: Double
    /// The command that stops the host, run by `/bin/sh`; nil for a host that is never stopped.
    public var stop: String?
    /// Without work for so long, the host is stopped; unit: seconds.
    public var idleStop: Double
    /// True: stopped in the end even with checkpoints that nobody else has.
    public var stopsUnsaved: Bool
    /// All fields.
    public init(lease: Double, stop: String? = nil, idleStop: Double = 600, stopsUnsaved: Bool = false) {
        self.lease = lease
        self.stop = stop
        self.idleStop = idleStop
        self.stopsUnsaved = stopsUnsaved
    }

    /// What holds until the coordinator has said anything: an own host.
    public static let unsaid = AgentTerms(lease: 86_400)
}

/// How long an agent, or its host, will live.
public struct LeaseStatus: Codable, Sendable, Hashable {
    /// True when a stop command waits for its moment.
    public var isArmed: Bool
    /// Until the agent ends or stops its host, if nothing happens; nil while something keeps it; unit: seconds.
    public var secondsLeft: Double?
    /// What keeps it, or what will happen: `a trainer works`.
    public var reason: String
    /// The stop command's last failure.
    public var stopFailure: String?
    /// All fields.
    public init(isArmed: Bool, secondsLeft: Double?, reason: String, stopFailure: String? = nil) {
        self.isArmed = isArmed
        self.secondsLeft = secondsLeft
        self.reason = reason
        self.stopFailure = stopFailure
    }
}

/// Whether the agent comes back by itself, and if not, why.
public struct BootStatus: Codable, Sendable, Hashable {
    /// Who starts the agent after a reboot.
    public enum Starter: String, Codable, Sendable {
        /// Nobody.
        case nobody
        /// A systemd user unit, with lingering.
        case unit
        /// A crontab line `@reboot`.
        case cron
    }

    /// Who starts the agent after a reboot.
    public var starter: Starter
    /// The unit's name, or why there is nobody.
    public var detail: String
    /// Why the agent ends when the user logs out; nil when it does not.
    public var logout: String?
    /// True when lingering was switched on for this, so that it is to be switched off again.
    public var madeLinger: Bool
    /// All fields.
    public init(_ starter: Starter, detail: String, logout: String? = nil, madeLinger: Bool = false) {
        self.starter = starter
        self.detail = detail
        self.logout = logout
        self.madeLinger = madeLinger
    }
}

/// What ended with an agent, and what is still there.
public struct SweepReport: Codable, Sendable, Hashable {
    /// Processes of the agent's folder that were found and ended: `pid 71 coord-worker train`.
    public var ended: [String]
    /// Processes and files that are still there.
    public var left: [String]
    /// What was removed outside the folder: unit, crontab line.
    public var removed: [String]
    /// All fields.
    public init(ended: [String] = [], left: [String] = [], removed: [String] = []) {
        self.ended = ended
        self.left = left
        self.removed = removed
    }
}

/// How a stop command ended.
public struct StopResult: Codable, Sendable, Hashable {
    /// True for exit status 0.
    public var isSuccess: Bool
    /// How it ended and what it printed last: `exit status 1: no such pod`.
    public var text: String
    /// All fields.
    public init(isSuccess: Bool, text: String) {
        self.isSuccess = isSuccess
        self.text = text
    }
}
