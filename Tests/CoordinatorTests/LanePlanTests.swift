import Testing

@testable import Coordinator

@Suite struct LanePlanTests {
    /// Feeds a plan with what a line carries for a number of connections, a tenth of a second at a time.
    private func lanes(
        roundTrip: Double,
        seconds: Double = 60,
        _ bytesPerSecond: (Int) -> Double
    ) -> Int {
        var plan = LanePlan(roundTrip: roundTrip)
        for _ in 0..<Int(seconds * 10) {
            _ = plan.measured(bytes: Int(bytesPerSecond(plan.lanes) / 10), seconds: 0.1)
        }
        return plan.lanes
    }

    @Test func aShortRoundTripNeedsOneConnection() {
        #expect(lanes(roundTrip: 0.0002) { _ in 900e6 } == 1)
        #expect(lanes(roundTrip: 0.01) { _ in 25e6 } == 1)
    }

    @Test func connectionsAreAddedWhileTheyHelp() {
        // 42 MB/s each at 50 ms: five fill a fast line, and more are tried where those were far from it.
        #expect(lanes(roundTrip: 0.05, seconds: 0.6) { Double($0) * 42e6 } == 5)
        #expect(lanes(roundTrip: 0.05) { Double($0) * 42e6 } == LanePlan.maximum)
        #expect(lanes(roundTrip: 0.015) { Double($0) * 140e6 } == 8)
        // One is enough for a line that it fills; only others show that.
        #expect(lanes(roundTrip: 0.015) { _ in 120e6 } == 2)
    }

    @Test func whatALineNeededIsKnownTheNextTime() {
        var plan = LanePlan(roundTrip: 0.05, known: 5)
        let answers = (0..<5).map { _ in plan.measured(bytes: 2 << 20, seconds: 0.01) }
        #expect(answers == [0, 4, 0, 0, 0])
        #expect(plan.lanes == 5)
        #expect((0..<100).allSatisfy { _ in plan.measured(bytes: 50_000_000, seconds: 0.1) == 0 })
    }

    @Test func anIntervalMustPassBeforeAnythingIsJudged() {
        var plan = LanePlan(roundTrip: 0.02)
        var answers = (0..<5).map { _ in plan.measured(bytes: 10_000_000, seconds: 0.049) }
        #expect(answers == [0, 0, 0, 0, 0])
        #expect(plan.lanes == 1)
        // The first whole interval is a warm-up, the second decides.
        answers = [
            plan.measured(bytes: 10_000_000, seconds: 0.1), plan.measured(bytes: 100_000_000, seconds: 1),
        ]
        #expect(answers == [0, 1])
        #expect(plan.lanes == 2)
        // The new one takes its time; then there is no growth: settled for good.
        answers = [30_000_000, 30_000_000, 30_000_000].map { plan.measured(bytes: $0, seconds: 0.3) }
        #expect(answers == [0, 0, 0])
        answers = [30_000_000, 5_000_000_000].map { plan.measured(bytes: $0, seconds: 1) }
        #expect(answers == [0, 0])
        #expect(plan.lanes == 2)
    }

    @Test func nothingMovingIsNoReasonForMore() {
        #expect(lanes(roundTrip: 0.05) { _ in 0 } == 1)
    }
}
