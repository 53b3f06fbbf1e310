/// When a host that lost a trainer may bring one into the run again: at once is no use to a run that pays for each arrival
/// and each loss with a step of everybody's time.
///
/// A pure value. The first loss within the window costs a short rest, each further one twice as long as the one before.
struct Cooldown: Sendable {
    /// Losses that are older count no more.
    static let window = Duration.seconds(300)
    /// What is lost at one time is one loss: a host with several trainers that goes down.
    static let together = Duration.seconds(2)
    /// The rest after the first loss, and the longest one.
    static let first = Duration.seconds(5)
    static let longest = Duration.seconds(120)

    private var losses: [String: [ContinuousClock.Instant]] = [:]

    /// Notes that a host lost a trainer, or all of them.
    mutating func lost(_ host: String, at now: ContinuousClock.Instant) {
        var known = (losses[host] ?? []).filter { now - $0 < Self.window }
        if known.last.map({ now - $0 >= Self.together }) ?? true { known.append(now) }
        losses[host] = known
    }

    /// How often a host lost trainers of late.
    func count(_ host: String, at now: ContinuousClock.Instant) -> Int {
        (losses[host] ?? []).count { now - $0 < Self.window }
    }

    /// When a host may come again; the past for one that lost nothing of late.
    func end(_ host: String, at now: ContinuousClock.Instant) -> ContinuousClock.Instant {
        let times = count(host, at: now)
        guard times > 0, let last = losses[host]?.last else { return now }
        return last + min(Self.longest, Self.first * Int(1 << min(times - 1, 8)))
    }

    /// Why a host waits, for people.
    func words(_ host: String, at now: ContinuousClock.Instant) -> String {
        let rest = Int(((end(host, at: now) - now) / .seconds(1)).rounded(.up))
        let times = count(host, at: now)
        let often = times == 1 ? "once" : "\(times) times"
        return
            "\(host) lost a trainer \(often) within \(Int(Self.window / .seconds(60))) min: the next one starts in \(rest) s"
    }
}
