import Basics
import Testing
import Wire

@testable import Coordinator

/// What is said of a drill follows from what was seen, and nothing else.
@Suite struct DrillWatchTests {
    private let start = ContinuousClock.now

    private func step(_ number: Int, _ seconds: Double = 0.01) -> StepMetric {
        StepMetric(
            step: number,
            epoch: 1,
            loss: 1,
            accuracy: 0.5,
            learningRate: 0.1,
            samples: 64,
            seconds: seconds
        )
    }

    private func watch(_ kind: Injury.Kind, seconds: Double = 4) throws -> DrillWatch {
        DrillWatch(
            Injury(kind, seconds: seconds),
            of: try #require(RunID("r1")),
            host: "b",
            worker: 1,
            before: (80...100).map { step($0) },
            generation: 1,
            lanes: 1,
            now: start
        )
    }

    private func plan(_ number: Int, _ members: [Int], idle: Set<Int> = []) throws -> GenerationPlan {
        GenerationPlan(
            run: try #require(RunID("r1")),
            attempt: 1,
            number: number,
            members: members.map {
                let lanes = idle.contains($0) ? LaneSet() : LaneSet([$0])
                return GenerationPlan.Member(member: $0, host: "h", address: "x", lanes: lanes)
            },
            writers: [],
            secret: WireSecret([])
        )
    }

    private func loss(_ reason: String = "rank 1 is lost") -> TrainerReport {
        .peerLost(generation: 1, member: 1, isSilent: false, reason: reason)
    }

    @Test func aKillIsReportedOnceTheOthersWentOn() throws {
        var watch = try watch(.kill)
        watch.heard(loss(), of: 0, now: start + .milliseconds(5))
        watch.heard(.exited(ProcessEnd(.signalled(9))), of: 1, now: start + .milliseconds(8))
        watch.planned(try plan(2, [0, 2]), "lost b", now: start + .milliseconds(20))
        watch.heard(.joined(generation: 2, repeats: true), of: 0, now: start + .milliseconds(40))
        watch.heard(.joined(generation: 2, repeats: true), of: 2, now: start + .milliseconds(50))
        #expect(watch.report(at: start + .milliseconds(50), runEnded: false) == nil)
        watch.heard(.steps([step(101, 0.06)]), of: 0, now: start + .milliseconds(100))
        #expect(watch.report(at: start + .milliseconds(100), runEnded: false) == nil)
        watch.heard(.steps((102...130).map { step($0) }), of: 0, now: start + .milliseconds(200))
        let report = try #require(watch.report(at: start + .milliseconds(200), runEnded: false))
        #expect(report.end == .recovered && report.isLeftOut && report.membersAgree)
        #expect(report.detectedSeconds == 0.005 && report.detectedBy == "rank 1 is lost")
        #expect(report.recoveredSeconds == 0.05)
        #expect(abs((report.stallSeconds ?? 0) - 0.05) < 1e-9)
        #expect(report.stepsRepeated == 1 && report.stepsMissing == 0 && report.generations == 1)
    }

    @Test func aStepThatNeverCameIsMissing() throws {
        var watch = try watch(.kill)
        watch.planned(try plan(2, [0]), "lost b", now: start)
        watch.heard(.joined(generation: 2, repeats: false), of: 0, now: start)
        watch.heard(.steps((102...130).map { step($0) }), of: 0, now: start + .seconds(1))
        let report = try #require(watch.report(at: start + .seconds(1), runEnded: false))
        #expect(report.stepsMissing == 1 && report.stepsRepeated == 0)
    }

    @Test func aShortStopThatNobodyNoticesIsRiddenOut() throws {
        var watch = try watch(.stop, seconds: 0.5)
        watch.heard(.steps([step(101, 0.51)]), of: 0, now: start + .milliseconds(600))
        #expect(watch.report(at: start + .seconds(3), runEnded: false) == nil)
        let report = try #require(watch.report(at: start + .milliseconds(3600), runEnded: false))
        #expect(report.end == .roddenOut && !report.isLeftOut && report.detectedSeconds == nil)
        #expect(abs((report.stallSeconds ?? 0) - 0.5) < 1e-9)
    }

    @Test func aLossWithoutARecoveryIsWaitedForAndThenSaid() throws {
        var watch = try watch(.partition, seconds: 2)
        watch.heard(loss(), of: 0, now: start + .seconds(1))
        #expect(watch.report(at: start + .seconds(30), runEnded: false) == nil)
        let report = try #require(watch.report(at: start + .seconds(66), runEnded: false))
        #expect(report.end == .tooLong && !report.membersAgree)
    }

    @Test func aSlowWorkerLosesLanesAndStays() throws {
        var watch = try watch(.slow, seconds: 5)
        watch.planned(
            try plan(2, [0, 1], idle: [1]),
            "lanes follow the measured speed: a 5, b 3",
            now: start + .seconds(2)
        )
        watch.heard(.joined(generation: 2, repeats: true), of: 0, now: start + .seconds(2))
        watch.heard(.joined(generation: 2, repeats: true), of: 1, now: start + .seconds(2))
        watch.heard(.steps((101...400).map { step($0) }), of: 0, now: start + .seconds(4))
        #expect(watch.report(at: start + .seconds(5), runEnded: false) == nil)
        let report = try #require(watch.report(at: start + .seconds(8), runEnded: false))
        #expect(report.lanesFollowed && !report.isLeftOut && report.detectedSeconds == nil)
    }

    @Test func lanesThatMoveAndWhoComesAreNotTheFault() throws {
        var watch = try watch(.stop, seconds: 0.5)
        watch.planned(
            try plan(2, [0, 1], idle: [1]),
            "the lanes of b are 0.4 s late",
            now: start + .seconds(0.4)
        )
        watch.heard(loss("rank 0 gave up generation 1: aborted"), of: 1, now: start + .seconds(0.5))
        watch.heard(.joined(generation: 2, repeats: true), of: 0, now: start + .seconds(0.5))
        watch.heard(.joined(generation: 2, repeats: true), of: 1, now: start + .seconds(0.6))
        watch.planned(try plan(3, [0, 1, 4]), "c is to join", now: start + .seconds(1))
        watch.heard(.steps((101...400).map { step($0) }), of: 0, now: start + .seconds(2))
        let report = try #require(watch.report(at: start + .seconds(4), runEnded: false))
        #expect(report.end == .roddenOut && report.detectedSeconds == nil && report.lanesFollowed)
        #expect(!report.isLeftOut && report.recoveredSeconds == nil)
    }

    @Test func aLossBehindATakeOverIsWhatCounts() throws {
        var watch = try watch(.stop, seconds: 3)
        watch.planned(
            try plan(2, [0, 1], idle: [1]),
            "the lanes of b are 0.4 s late",
            now: start + .seconds(0.4)
        )
        let other = TrainerReport.peerLost(generation: 2, member: 2, isSilent: false, reason: "another one")
        watch.heard(other, of: 0, now: start + .seconds(1))
        let silent = TrainerReport.peerLost(generation: 2, member: 1, isSilent: true, reason: "nothing came")
        watch.heard(silent, of: 0, now: start + .seconds(1.5))
        watch.planned(try plan(3, [0]), "lost b", now: start + .seconds(1.6))
        watch.heard(.joined(generation: 3, repeats: true), of: 0, now: start + .seconds(1.7))
        watch.heard(.steps((101...130).map { step($0) }), of: 0, now: start + .seconds(2))
        let report = try #require(watch.report(at: start + .seconds(2), runEnded: false))
        #expect(report.detectedSeconds == 1.5 && report.detectedBy == "nothing came")
        #expect(report.recoveredSeconds == 1.7 && report.isLeftOut && report.generations == 2)
    }

    @Test func otherResultsAreNoAgreement() throws {
        var watch = try watch(.corrupt)
        watch.heard(
            .failed(message: "members hold different results of operation 9", hint: nil),
            of: 0,
            now: start
        )
        let report = try #require(watch.report(at: start, runEnded: true))
        #expect(report.end == .runEnded && !report.membersAgree)
    }
}
