public import Basics
public import Wire

/// A fault that a person wants to see the run stand.
public struct DrillRequest: Codable, Sendable, Hashable {
    /// What is done, and for how long.
    public var injury: Injury
    /// Whose worker; nil = whichever worker is last.
    public var host: String?
    /// The worker's number; nil = the last one of the host.
    public var worker: Int?
    /// Not before this step is known to be done; nil = now.
    public var step: Int?
    /// Who asks: user@machine.
    public var who: String

    /// All fields.
    public init(_ injury: Injury, host: String?, worker: Int?, step: Int?, who: String) {
        self.injury = injury
        self.host = host
        self.worker = worker
        self.step = step
        self.who = who
    }
}

/// What came of a drill; times are this machine's, from the moment at which the host's agent was told.
public struct DrillReport: Codable, Sendable, Hashable {
    /// The run.
    public var run: RunID
    /// What was done.
    public var kind: Injury.Kind
    /// Where.
    public var host: String
    /// To which worker.
    public var worker: Int
    /// The last step that was known to be done.
    public var step: Int
    /// Until the first word of it was here; unit: seconds; nil = nothing was noticed.
    public var detectedSeconds: Double?
    /// That word.
    public var detectedBy: String?
    /// Until all members of the next generation had met; unit: seconds; nil = none was needed.
    public var recoveredSeconds: Double?
    /// The longest step from then on less the usual one; unit: seconds; nil = no step came.
    public var stallSeconds: Double?
    /// The median of the steps before; unit: seconds.
    public var usualStepSeconds: Double?
    /// Steps in flight that were computed again: 0 or 1 for each generation.
    public var stepsRepeated: Int
    /// Steps of whose numbers one is missing between the first and the last that came since.
    public var stepsMissing: Int
    /// True when the worker was left out.
    public var isLeftOut: Bool
    /// How many generations began since.
    public var generations: Int
    /// True when lanes moved to other workers because of its speed.
    public var lanesFollowed: Bool
    /// Whether every step since was committed: then all members held a result with one digest.
    public var membersAgree: Bool
    /// Why the watch ended.
    public var end: End

    /// Why a drill's report is made when it is.
    public enum End: String, Codable, Sendable {
        /// The run goes on as before.
        case recovered
        /// Nobody was left out, and no generation was needed.
        case roddenOut
        /// The run is over.
        case runEnded
        /// It took longer than anybody should wait.
        case tooLong
    }
}
