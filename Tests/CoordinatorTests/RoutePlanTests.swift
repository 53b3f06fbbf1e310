import Basics
import Testing
import Wire

@testable import Coordinator

/// Which way each pair takes, from what was tried.
@Suite struct RoutePlanTests {
    private func reached(_ host: String) -> ReachMatrix.Answer {
        .reached(ProbeResult(host: host, problem: nil, roundTrip: 0.0012, bytesPerSecond: 50_000_000))
    }

    private func way(_ there: ReachMatrix.Answer?, _ back: ReachMatrix.Answer?) -> FoundRoute {
        var matrix = ReachMatrix()
        if let there { matrix["a", "b"] = there }
        if let back { matrix["b", "a"] = back }
        let found = RoutePlan.decide(hosts: ["b", "a"], matrix)
        #expect(found.count == 1)
        return found[0]
    }

    @Test func bothCanDial() {
        let found = way(reached("b"), reached("a"))
        #expect(found.route == PeerRoute("a", "b", .direct))
        #expect(found.words == "a and b: direct, 1.20 ms round trip, \(ByteCount(50_000_000))/s")
        #expect(!found.event.pausesWithoutThisMachine)
    }

    @Test func onlyOneCanDial() {
        #expect(way(reached("b"), .failed("refused")).route.way == .dialled(by: "a"))
        let found = way(.failed("no answer"), reached("a"))
        #expect(found.route.way == .dialled(by: "b"))
        #expect(found.words.contains("only b can dial (a to b: no answer)"))
    }

    @Test func nobodyCanDial() {
        let found = way(.failed("no route to host"), .failed("another machine answers"))
        #expect(found.route == PeerRoute("a", "b", .relay(hub: nil)))
        #expect(found.route.needsCoordinator)
        #expect(
            found.words
                == "a and b: over this machine, they pause while it is away (a to b: no route to host; "
                + "b to a: another machine answers)"
        )
    }

    @Test func oneSideThatCouldNotBeAskedLeavesTheOthersWord() {
        #expect(way(.failed("refused"), nil).route.way == .relay(hub: nil))
        #expect(way(reached("b"), nil).route.way == .direct)
        #expect(way(nil, nil).route.way == .direct)
    }

    @Test func eachPairOnItsOwn() {
        var matrix = ReachMatrix()
        for (from, to) in [("a", "b"), ("b", "a"), ("c", "a")] { matrix[from, to] = reached(to) }
        for (from, to) in [("a", "c"), ("b", "c"), ("c", "b")] { matrix[from, to] = .failed("refused") }
        let ways = RoutePlan.decide(hosts: ["a", "b", "c"], matrix).map(\.route)
        #expect(
            ways == [
                PeerRoute("a", "b", .direct), PeerRoute("a", "c", .dialled(by: "c")),
                PeerRoute("b", "c", .relay(hub: nil)),
            ]
        )
    }

    @Test func pairsThatBothReachAHubMeetThere() {
        let relayed = [("a", "b"), ("a", "c"), ("b", "h"), ("c", "h")].map {
            FoundRoute(PeerRoute($0, $1, .relay(hub: nil)), reason: "no answer")
        }
        let direct = FoundRoute(PeerRoute("a", "h", .direct))
        let ways = RoutePlan.overHubs(
            relayed + [direct],
            [(hub: "g", from: ["a"]), (hub: "h", from: ["a", "b"])]
        ).map(\.route.way)
        #expect(
            ways == [
                .relay(hub: "h"), .relay(hub: nil), .relay(hub: "h"), .relay(hub: nil), .direct,
            ]
        )
        #expect(RoutePlan.overHubs(relayed, []) == relayed)
    }

    @Test func theFirstHubThatServesIsTaken() {
        let pair = FoundRoute(PeerRoute("a", "b", .relay(hub: nil)), reason: "no answer")
        let found = RoutePlan.overHubs(
            [pair],
            [(hub: "g", from: ["a", "b"]), (hub: "h", from: ["a", "b"])]
        )
        #expect(found.map(\.route.way) == [.relay(hub: "g")])
        #expect(found.map(\.words) == ["a and b: over g (no answer)"])
        #expect(found.allSatisfy { !$0.route.needsCoordinator })
    }

    /// Of each pair one side dials, whichever way it is.
    @Test(arguments: [PeerRoute.Way.direct, .dialled(by: "a"), .dialled(by: "b"), .relay(hub: nil)])
    func oneSideOfEachPairDials(way: PeerRoute.Way) throws {
        let hosts = ["a", "b", "a", "b", "c"]
        let plan = GenerationPlan(
            run: try #require(RunID("r1")),
            attempt: 1,
            number: 1,
            members: hosts.enumerated().map {
                GenerationPlan.Member(member: $0.offset, host: $0.element, address: "", lanes: LaneSet())
            },
            writers: [],
            secret: WireSecret([]),
            routes: [PeerRoute("b", "a", way)]
        )
        for one in hosts.indices {
            for other in hosts.indices where other != one {
                let dials = plan.dialled(from: one).contains(other)
                #expect(dials != plan.dialled(from: other).contains(one))
                if case .dialled(let host) = way, Set([hosts[one], hosts[other]]) == ["a", "b"] {
                    #expect(dials == (hosts[one] == host))
                } else {
                    #expect(dials == (other < one))
                }
            }
        }
    }
}
