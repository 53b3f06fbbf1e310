import Basics
import Testing

@testable import Coordinator

/// The planner against cases that can be worked out by hand.
@Suite struct ExchangePlannerTests {
    /// Two hosts of one worker with 1000 samples a second each: a batch of 100 takes 50 ms; a million parameters.
    private func pair(
        _ bytesPerSecond: Double,
        roundTrip: Double = 0,
        steps: Int = 1_000_000
    ) -> ExchangePlanner {
        ExchangePlanner(
            hosts: ["a", "b"].map { .init(name: $0, workers: 1, samplesPerSecond: 1000) },
            links: [
                .init(from: "a", to: "b", bytesPerSecond: bytesPerSecond, roundTrip: roundTrip),
                .init(from: "b", to: "a", bytesPerSecond: bytesPerSecond, roundTrip: roundTrip),
            ],
            batch: 100,
            lanes: 4,
            stepsPerEpoch: steps,
            shapes: [[1000, 1000]]
        )
    }

    private func near(_ a: Double, _ b: Double, _ tolerance: Double = 0.02) -> Bool {
        abs(a - b) <= tolerance * b
    }

    @Test func aPairSendsItsValuesOnceEachWay() {
        // 2.5 MB/s is 20 Mbit/s: half of 4 MB for the other's segment and half for the own result.
        let planner = pair(2.5e6, roundTrip: 0.02)
        let sync = planner.forecast(ExchangeSpec(.sync))
        #expect(sync.bytesPerStep == 4e6)
        #expect(near(sync.exchangeSeconds, 4e6 / 2.5e6 + 0.03))
        #expect(near(sync.stepSeconds, 0.05 + 1.63))
        let int8 = planner.forecast(ExchangeSpec(.int8))
        #expect(near(int8.exchangeSeconds, 1.015625e6 / 2.5e6 + 0.03))
        #expect(near(planner.forecast(ExchangeSpec(.bf16)).exchangeSeconds, 2e6 / 2.5e6 + 0.03))
        let topk = planner.forecast(ExchangeSpec(.topk))
        #expect(near(topk.bytesPerStep, 5e6 / 64))
        let low = planner.forecast(ExchangeSpec(.powersgd))
        #expect(near(low.bytesPerStep, 4 * 4 * 2000))
        #expect(near(low.exchangeSeconds, 32_000 / 2.5e6 + 0.06, 0.2))
    }

    @Test func islandsMeetEveryHSteps() {
        let planner = pair(2.5e6)
        var exchange = ExchangeSpec(.diloco)
        exchange.localSteps = 50
        let diloco = planner.forecast(exchange)
        #expect(diloco.exchange.islands == 2)
        #expect(near(diloco.exchangeSeconds, 1.015625e6 / 2.5e6 / 50, 0.03))
        #expect(near(diloco.stepSeconds, 0.05 + diloco.exchangeSeconds))
        // Four islands on two workers: two after the other, each with a quarter of the batch.
        exchange.islands = 4
        #expect(near(planner.forecast(exchange).stepSeconds, diloco.stepSeconds))
        // Three workers for four islands: one has two, and the others wait.
        var three = planner
        three.hosts.append(.init(name: "c", workers: 1, samplesPerSecond: 1000))
        #expect(near(three.forecast(exchange).stepSeconds - three.forecast(exchange).exchangeSeconds, 0.05))
    }

    @Test func theExactStepOfAnEpochCounts() {
        let planner = pair(2.5e6, steps: 10)
        // Nine steps of a 64th part and one of all.
        #expect(near(planner.forecast(ExchangeSpec(.topk)).bytesPerStep, (9 * 5e6 / 64 + 4e6) / 10))
        #expect(planner.forecast(ExchangeSpec(.sync)).bytesPerStep == 4e6)
    }

    @Test func oneWorkerExchangesNothing() {
        var planner = pair(1e6)
        planner.hosts.removeLast()
        for forecast in planner.table() {
            #expect(forecast.bytesPerStep == 0 && forecast.efficiency == 1)
            #expect(near(forecast.stepSeconds, 0.1))
        }
        #expect(planner.choose().forecast.exchange.kind == .sync)
    }

    @Test func theSlowestLinkIsWaitedFor() {
        var planner = pair(1e9)
        planner.hosts.append(.init(name: "c", workers: 1, samplesPerSecond: 1000))
        for (from, to) in [("a", "c"), ("c", "a"), ("b", "c")] {
            planner.links.append(.init(from: from, to: to, bytesPerSecond: 1e6, roundTrip: 0))
        }
        #expect(planner.unmeasured.isEmpty)
        // c sends a third of its part and of its result to each of two others over one line.
        #expect(near(planner.forecast(ExchangeSpec(.sync)).exchangeSeconds, 2 * 2 * 4.0 / 3))
        planner.links.removeAll { $0.from == "b" || $0.to == "b" }
        #expect(planner.unmeasured == ["a-b", "b-c"])
    }

    @Test(
        arguments: [
            (1e9, ExchangeSpec.Kind.sync), (400e6, .sync), (150e6, .bf16), (90e6, .int8),
        ]
    )
    func autoLeavesSyncOnlyForMoreThanAQuarterOfAStep(rate: Double, kind: ExchangeSpec.Kind) {
        let (forecast, reason) = pair(rate).choose()
        #expect(forecast.exchange.kind == kind, "\(reason)")
        #expect(1 - forecast.efficiency <= 0.25)
        #expect(!reason.contains("alone"))
    }

    @Test func onTheSlowestLinksTheFastestWayWins() {
        let (forecast, reason) = pair(1000).choose()
        #expect(forecast.exchange.kind == .powersgd || forecast.exchange.kind == .diloco)
        #expect(reason.contains("no way"))
        #expect(reason.contains(" alone 1000"), "\(reason)")
    }
}
