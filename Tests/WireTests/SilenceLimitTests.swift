import Basics
import Testing

@testable import Wire

/// How long silence is borne follows from where the members are, and is one for all of them.
struct SilenceLimitTests {
    private func plan(_ hosts: [String], _ routes: [PeerRoute]) throws -> GenerationPlan {
        GenerationPlan(
            run: try #require(RunID("20261121-101502-k3f9a")),
            attempt: 1,
            number: 1,
            members: hosts.enumerated().map {
                GenerationPlan.Member(member: $0, host: $1, address: "m\($0)", lanes: LaneSet([$0]))
            },
            writers: [0],
            secret: WireSecret([]),
            routes: routes
        )
    }

    @Test func membersOfOneMachineAreWaitedForLessThanASecond() throws {
        #expect(try plan(["a", "a", "a"], []).silenceLimit == .milliseconds(900))
    }

    @Test(arguments: [
        (PeerRoute("a", "b", .direct, roundTrip: 0.0003), Duration.milliseconds(900)),
        (PeerRoute("b", "a", .dialled(by: "b"), roundTrip: 0.004), .milliseconds(900)),
        (PeerRoute("a", "b", .direct, roundTrip: 0.03), .seconds(3)),
        (PeerRoute("a", "b", .direct), .seconds(3)),
        (PeerRoute("a", "b", .relay(hub: nil), roundTrip: 0.0003), .seconds(3)),
        (PeerRoute("a", "b", .relay(hub: "c"), roundTrip: 0.0003), .seconds(3)),
    ])
    func aPairIsWaitedForAsItsWayIs(route: PeerRoute, limit: Duration) throws {
        #expect(try plan(["a", "b", "b"], [route]).silenceLimit == limit)
    }

    @Test func oneLongWayIsEnoughForAll() throws {
        let near = PeerRoute("a", "b", .direct, roundTrip: 0.0002)
        #expect(try plan(["a", "b", "c"], [near]).silenceLimit == .seconds(3))
        let all = [
            near, PeerRoute("a", "c", .direct, roundTrip: 0.0002),
            PeerRoute("b", "c", .direct, roundTrip: 0.06),
        ]
        #expect(try plan(["a", "b", "c"], all).silenceLimit == .seconds(3))
        // Whoever is far away takes no part any more.
        #expect(try plan(["a", "b"], all).silenceLimit == .milliseconds(900))
    }

    @Test func partsTravelEarlyWhereSomeWireIsNotKnownToBeFast() throws {
        func overlaps(_ hosts: [String], _ rates: [Double?]) throws -> Bool {
            let pairs = [("a", "b"), ("c", "a"), ("b", "c")]
            let routes = zip(pairs, rates).map { PeerRoute($0.0, $0.1, .direct, bytesPerSecond: $1) }
            return try plan(hosts, routes).overlaps
        }
        #expect(try !overlaps(["a", "a"], []))
        #expect(try overlaps(["a", "b"], [125e6]))
        #expect(try overlaps(["a", "b"], [nil]))
        #expect(try overlaps(["a", "b"], []))
        #expect(try !overlaps(["a", "b", "a"], [1.2e9]))
        #expect(try !overlaps(["c", "b", "a"], [1.2e9, 1.2e9, 600e6]))
        #expect(try overlaps(["c", "b", "a"], [1.2e9, 1.2e9, 30e6]))
    }

    @Test func aPlanOfAnEarlierBuildSaysNothingOfRoundTrips() throws {
        let old = #"{"first":"a","second":"b","way":{"direct":{}}}"#
        let route = try MessageCoding.decode(PeerRoute.self, from: Array(old.utf8))
        #expect(route == PeerRoute("a", "b", .direct))
    }
}
