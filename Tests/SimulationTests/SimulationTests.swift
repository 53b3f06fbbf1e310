import Basics
import Testing

@testable import Collectives

#if canImport(Glibc)
import Glibc
#endif

/// The cluster in one thread, under faults: nothing that was committed is lost or doubled, and it goes on.
@Suite(.timeLimit(.minutes(60)))
struct SimulationTests {
    private static let environment = Machine.environment.reduce(into: [String: String]()) { all, entry in
        let parts = entry.split(separator: "=", maxSplits: 1)
        if parts.count == 2 { all[String(parts[0])] = String(parts[1]) }
    }
    /// The first seed; `COORD_SIM_SEED` repeats a schedule that failed and prints what happened in it.
    private static let seed = environment["COORD_SIM_SEED"].flatMap(UInt64.init)
    private static let count = environment["COORD_SIM_SCHEDULES"].flatMap(Int.init) ?? 500

    /// Schedules that found what was wrong in the machines that ship.
    @Test(
        arguments: [
            400_661, 405_618, 408_441, 409_356, 1_004_159, 1_085_123, 1_576_278, 30_023_668, 50_279_613,
            60_173_390, 70_036_929,
        ] as [UInt64]
    )
    func whatWentWrongOnceHolds(seed: UInt64) {
        #expect(Schedule.play(seed: seed).violation == nil)
    }

    @Test func whateverHappensTheRunStaysOneRun() {
        if let seed = Self.seed, Self.environment["COORD_SIM_SCHEDULES"] == nil {
            let outcome = Schedule.play(seed: seed, isTracing: true)
            print(outcome.trace.joined(separator: "\n"))
            #expect(outcome.violation == nil)
            return
        }
        let begin = ContinuousClock.now
        var committed = 0, events = 0
        for number in 0..<Self.count {
            let seed = (Self.seed ?? 1) &+ UInt64(number)
            let outcome = Schedule.play(seed: seed)
            committed += outcome.committed
            events += outcome.events
            if let violation = outcome.violation {
                Issue.record(
                    "\(violation); again: COORD_SIM_SEED=\(seed) swift test --filter SimulationTests"
                )
                if Self.environment["COORD_SIM_ALL"] == nil { return }
            }
        }
        let seconds = (ContinuousClock.now - begin) / .seconds(1)
        print(
            "\(Self.count) schedules in \(seconds) s (\(Int(Double(Self.count) / seconds)) a second): "
                + "\(committed) operations committed, \(events) events"
        )
    }
}
