import Basics
import Testing

@Suite struct ExchangeLevelsTests {
    private func sites(_ hosts: [String], laneCount: Int = 16, lanes: [LaneSet]? = nil) -> [Int] {
        let held = lanes ?? LanePlanner.assign(laneCount: laneCount, weights: hosts.map { _ in 1 })
        return ExchangeLevels.sites(of: Array(zip(hosts, held)).map { ($0, $1) }, laneCount: laneCount)
    }

    @Test func severalWorkersOfAHostAddUpFirst() {
        #expect(sites(["a", "a", "b", "b"]) == [0, 0, 1, 1])
        #expect(sites(["a", "b", "a", "b"]) == [0, 1, 0, 1])
        let halves = [LaneSet(0..<4), LaneSet(4..<6), LaneSet(6..<8), LaneSet(8..<16)]
        #expect(sites(["a", "a", "a", "b"], lanes: halves) == [0, 0, 0, 1])
    }

    @Test func oneLevelIsEnoughWhereNothingIsSaved() {
        #expect(sites(["a"]) == [])
        // Three quarters are two subtrees: as much crosses as three members and their results send.
        #expect(sites(["a", "a", "a", "b"]) == [])
        #expect(sites(["a", "a", "a"]) == [])
        #expect(sites(["a", "b", "c", "d"]) == [])
    }

    @Test func resultsAreSpreadOncePerHostWhateverTheLanes() {
        // Nothing can be added up within a host, but the results cross once.
        let every = (0..<4).map { LaneSet([$0]) }
        #expect(sites(["a", "b", "a", "b"], laneCount: 4, lanes: every) == [0, 1, 0, 1])
        // Whoever joins holds none yet, but gets the results.
        let joining = [LaneSet([0, 1]), LaneSet([2, 3]), LaneSet()]
        #expect(sites(["a", "b", "b"], laneCount: 4, lanes: joining) == [0, 1, 1])
    }

    @Test func aRunShowsWhatItDoes() {
        var spec = RunSpec(
            name: "r",
            model: TypedSpec(type: "mlp"),
            epochs: 1,
            batch: 64,
            lanes: 4,
            optimizer: TypedSpec(type: "sgd"),
            schedule: TypedSpec(type: "constant")
        )
        let members = ["a", "a", "b", "b"].enumerated().map { ($1, LaneSet([$0])) }
        #expect(spec.exchangeWords(members) == "sync, in two levels")
        #expect(spec.exchangeWords(Array(members.prefix(2))) == "sync")
        spec.exchange = ExchangeSpec(.int8)
        #expect(spec.exchangeWords(members) == "int8")
    }
}
