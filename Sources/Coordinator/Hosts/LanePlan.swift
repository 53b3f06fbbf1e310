/// How many connections a transfer uses: one at first, then as many as fill a fast line, then more while that helps.
///
/// One connection carries at most its window each round trip. Where little is under way at a time, the line or the
/// processors are what limits, and a further connection would only cost; so more are tried where bandwidth × round trip
/// is large. Each step is judged once its connections stand and have reached their speed, which takes many round trips.
package struct LanePlan: Sendable, Equatable {
    /// No transfer uses more.
    package static let maximum = 8
    /// With less than this under way a connection's window is not what limits; unit: bytes.
    static let underWay = 1024.0 * 1024
    /// What a connection has under way at most: the window of OpenSSH's server; unit: bytes.
    static let window = 2048.0 * 1024
    /// The speed that the first step opens connections for; unit: bytes/s.
    static let speed = 180e6
    /// How long a number of connections is watched before it is judged; unit: seconds.
    static let interval = 0.25
    /// How many round trips new connections take to stand and to reach their speed.
    static let warmUp = 16.0
    /// What twice as many connections must bring, as a ratio.
    static let gain = 1.25

    /// What a transfer must have brought before it opens what an earlier one needed: small ones never do; unit: bytes.
    static let worthwhile = 4096.0 * 1024

    /// The number in use.
    package private(set) var lanes = 1
    private let known: Int?
    /// Seconds for a question and its answer, when nothing else was under way.
    private let roundTrip: Double
    private var bytes = 0.0
    private var seconds = 0.0
    /// A new connection needs time to reach its speed: what was measured meanwhile tells nothing.
    private var isWarmingUp = true
    private var before = 0.0
    private var isSettled = false

    /// - Parameters:
    ///   - roundTrip: unit: seconds.
    ///   - known: what an earlier transfer of this line ended with; nil = nothing is known.
    package init(roundTrip: Double, known: Int? = nil) {
        self.roundTrip = roundTrip
        self.known = known
    }

    /// Takes what was acknowledged since the last call.
    ///
    /// - Parameters:
    ///   - bytes: how much.
    ///   - seconds: in how long.
    /// - Returns: how many more connections should be opened now.
    package mutating func measured(bytes: Int, seconds: Double) -> Int {
        guard !isSettled else { return 0 }
        self.bytes += Double(bytes)
        self.seconds += seconds
        if let known {
            guard self.bytes >= Self.worthwhile else { return 0 }
            defer { lanes = known }
            isSettled = true
            return known - lanes
        }
        // The first connection stands already.
        let opening = isWarmingUp && lanes > 1 ? Self.warmUp * roundTrip : 0
        guard self.seconds >= Self.interval + opening else { return 0 }
        let rate = self.bytes / self.seconds
        self.bytes = 0
        self.seconds = 0
        if isWarmingUp {
            isWarmingUp = false
            return 0
        }
        let isFaster = rate >= before * Self.gain
        guard isFaster, rate * roundTrip >= Self.underWay, lanes < Self.maximum else {
            isSettled = true
            return 0
        }
        let wanted = lanes == 1 ? max(2, Int((Self.speed * roundTrip / Self.window).rounded(.up))) : lanes * 2
        let more = min(wanted, Self.maximum) - lanes
        before = rate
        lanes += more
        isWarmingUp = true
        return more
    }
}
