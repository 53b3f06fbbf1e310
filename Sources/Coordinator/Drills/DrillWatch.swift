internal import Basics
internal import Wire

/// Watches a run after a fault that a person asked for, and says what came of it.
///
/// A pure value: what the coordinator hears anyhow goes in, with the time; the report comes out.
struct DrillWatch: Sendable {
    /// Steps that must have come after the recovery, so that a late blow is seen.
    static let settling = 20
    /// How long after the end of the fault anything that follows from it must have shown.
    static let patience = Duration.seconds(3)
    /// How long after that a recovery is waited for.
    static let longest = Duration.seconds(60)

    let injury: Injury
    let host: String
    let worker: Int
    private let run: RunID
    private let struck: ContinuousClock.Instant
    private let step: Int
    private let usual: Double?
    /// The generation that was in force, and how many lanes the worker had there.
    private let generation: Int
    private let lanes: Int

    private var detected: (after: Duration, by: String)?
    private var recovered: Duration?
    private var awaited: (generation: Int, members: Set<Int>)?
    private var stepAtRecovery: Int?
    private var repeated: Set<Int> = []
    private var generations = 0
    /// The generation in force now.
    private var newest: Int
    private var seconds: [Int: Double] = [:]
    private var isLeftOut = false
    private var lanesFollowed = false
    private var diverged = false

    /// - Parameters:
    ///   - before: the newest steps before it.
    ///   - generation: the one in force.
    ///   - lanes: how many the worker has there.
    init(
        _ injury: Injury,
        of run: RunID,
        host: String,
        worker: Int,
        before: [StepMetric],
        generation: Int,
        lanes: Int,
        now: ContinuousClock.Instant
    ) {
        self.lanes = lanes
        self.injury = injury
        self.run = run
        self.host = host
        self.worker = worker
        (self.generation, newest) = (generation, generation)
        struck = now
        step = before.last?.step ?? 0
        let sorted = before.map(\.seconds).sorted()
        usual = sorted.isEmpty ? nil : sorted[sorted.count / 2]
    }

    /// A worker reported something.
    mutating func heard(_ report: TrainerReport, of member: Int, now: ContinuousClock.Instant) {
        switch report {
        case .peerLost(let number, let lost, _, let reason) where number >= newest:
            // Whoever enters a newer generation leaves the one before; and what else goes wrong is not this fault.
            if member == worker || lost == worker || lost == nil { notice(reason, now) }
        case .exited(let end) where member == worker: notice("its agent saw it end: \(end)", now)
        case .failed(let message, _):
            if member == worker { notice(message, now) }
            diverged = diverged || message.contains("different results")
        case .joined(let number, let repeats) where number > generation:
            if repeats { repeated.insert(number) }
            guard awaited?.generation == number else { return }
            awaited?.members.remove(member)
            guard awaited?.members.isEmpty == true else { return }
            recovered = now - struck
            stepAtRecovery = max(step, seconds.keys.max() ?? 0)
            awaited = nil
        case .steps(let steps):
            for metric in steps where metric.step > step { seconds[metric.step] = metric.seconds }
        default: break
        }
    }

    /// A generation begins.
    ///
    /// One in which the worker stays may have any reason: only what was lost and is heard of the worker is noticed.
    mutating func planned(_ plan: GenerationPlan, _ reason: String, now: ContinuousClock.Instant) {
        guard plan.number > newest else { return }
        newest = plan.number
        generations += 1
        let held = plan.members.first { $0.member == worker }?.lanes.count
        if held == nil {
            isLeftOut = true
            notice(reason, now)
        }
        if let held, held < lanes { lanesFollowed = true }
        // What comes after the recovery (somebody joins) is another matter.
        if recovered == nil, isFelt { awaited = (plan.number, Set(plan.members.map(\.member))) }
    }

    /// Whether there is anything to recover from: lanes that move are what `slow` is about.
    private var isFelt: Bool { detected != nil || injury.kind == .slow && lanesFollowed }

    private mutating func notice(_ words: String, _ now: ContinuousClock.Instant) {
        if detected == nil { detected = (now - struck, words) }
    }

    /// When the fault itself is over.
    private var faultEnd: ContinuousClock.Instant {
        switch injury.kind {
        case .kill, .corrupt: struck
        case .stop, .partition, .slow: struck + .seconds(injury.seconds)
        }
    }

    /// When to look again.
    var deadline: ContinuousClock.Instant {
        let end = faultEnd + Self.patience
        return detected == nil || injury.kind == .slow ? end : end + Self.longest
    }

    /// The report, once there is nothing more to wait for.
    func report(at now: ContinuousClock.Instant, runEnded: Bool) -> DrillReport? {
        if runEnded { return report(.runEnded) }
        if let stepAtRecovery, injury.kind != .slow {
            return (seconds.keys.max() ?? 0) >= stepAtRecovery + Self.settling ? report(.recovered) : nil
        }
        guard now >= faultEnd + Self.patience else { return nil }
        if injury.kind == .slow, awaited == nil { return report(lanesFollowed ? .recovered : .roddenOut) }
        if detected == nil { return report(.roddenOut) }
        return now >= faultEnd + Self.patience + Self.longest ? report(.tooLong) : nil
    }

    private func report(_ end: DrillReport.End) -> DrillReport {
        let last = seconds.keys.max() ?? step
        let longest = seconds.values.max()
        return DrillReport(
            run: run,
            kind: injury.kind,
            host: host,
            worker: worker,
            step: step,
            detectedSeconds: detected.map { $0.after / .seconds(1) },
            detectedBy: detected?.by,
            recoveredSeconds: recovered.map { $0 / .seconds(1) },
            stallSeconds: longest.flatMap { longest in usual.map { max(0, longest - $0) } },
            usualStepSeconds: usual,
            stepsRepeated: repeated.count,
            stepsMissing: last - step - seconds.count,
            isLeftOut: isLeftOut,
            generations: generations,
            lanesFollowed: lanesFollowed,
            membersAgree: !diverged && !seconds.isEmpty,
            end: end
        )
    }
}
