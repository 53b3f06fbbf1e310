/// How many connections a transfer uses: one at first, twice as many while that makes it faster.
///
/// One connection carries at most its window each round trip. Where little is under way at a time, the line or the
/// processors are what limits, and a further connection would only cost; so more are tried where bandwidth × round trip
/// is large, and tried again while throughput follows. Doubled, because each step takes half a second and some round trips.
package struct LanePlan: Sendable, Equatable {
    /// No transfer uses more.
    package static let maximum = 8
    /// With less than this under way a connection's window is not what limits; unit: bytes.
    static let underWay = 1024.0 * 1024
    /// How long a number of connections is watched before it is judged; unit: seconds.
    static let interval = 0.25
    /// What twice as many connections must bring, as a ratio.
    static let gain = 1.4

    /// The number in use.
    package private(set) var lanes = 1
    /// Seconds for a question and its answer, when nothing else was under way.
    private let roundTrip: Double
    private var bytes = 0.0
    private var seconds = 0.0
    /// A new connection needs time to reach its speed: what was measured meanwhile tells nothing.
    private var isWarmingUp = true
    private var before = 0.0
    private var isSettled = false

    /// - Parameter roundTrip: unit: seconds.
    package init(roundTrip: Double) { self.roundTrip = roundTrip }

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
        guard self.seconds >= Self.interval else { return 0 }
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
        let more = min(lanes, Self.maximum - lanes)
        before = rate
        lanes += more
        isWarmingUp = true
        return more
    }
}
