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
        // 45 MB/s each at 50 ms, lines of 180 and of 100 MB/s: the last ones bring too little.
        #expect(lanes(roundTrip: 0.05) { min(Double($0) * 45e6, 180e6) } == 8)
        #expect(lanes(roundTrip: 0.05) { min(Double($0) * 45e6, 100e6) } == 4)
        #expect(lanes(roundTrip: 0.05) { Double($0) * 45e6 } == LanePlan.maximum)
        // One is enough for a line that it fills; only a second shows that.
        #expect(lanes(roundTrip: 0.05) { _ in 45e6 } == 2)
    }

    @Test func anIntervalMustPassBeforeAnythingIsJudged() {
        var plan = LanePlan(roundTrip: 1)
        var answers = (0..<5).map { _ in plan.measured(bytes: 50_000_000, seconds: 0.049) }
        #expect(answers == [0, 0, 0, 0, 0])
        #expect(plan.lanes == 1)
        // The first whole interval is a warm-up, the second decides.
        answers = [
            plan.measured(bytes: 50_000_000, seconds: 0.1), plan.measured(bytes: 500_000_000, seconds: 1),
        ]
        #expect(answers == [0, 1])
        #expect(plan.lanes == 2)
        // No growth: settled for good.
        answers = [500_000_000, 500_000_000, 5_000_000_000].map { plan.measured(bytes: $0, seconds: 1) }
        #expect(answers == [0, 0, 0])
        #expect(plan.lanes == 2)
    }

    @Test func nothingMovingIsNoReasonForMore() {
        #expect(lanes(roundTrip: 0.05) { _ in 0 } == 1)
    }
}
