import Basics
import Testing
import Wire

@testable import Coordinator

/// Membership of hosts that meet over this machine: a way that breaks is no member that died.
@Suite struct RelayedRunTests {
    private let start = ContinuousClock.now
    private static let overHere = [PeerRoute("a", "b", .relay(hub: nil))]

    private func running(
        _ hosts: [String] = ["a", "b"],
        _ routes: [PeerRoute] = overHere
    ) throws -> RunMachine {
        var machine = RunMachine(
            run: try #require(RunID("r1")),
            attempt: 1,
            laneCount: 4,
            hosts: hosts,
            routes: nil,
            makeSecret: { WireSecret([1, 2, 3]) }
        )
        for member in hosts.indices {
            let actions = machine.handle(.listening(member: member, address: "x:\(member)"), now: start)
            #expect(actions.isEmpty, "the first generation waits for the routes")
        }
        let plan = try plan(machine.handle(.routed(routes, here: []), now: start))
        #expect(plan.number == 1)
        #expect(plan.routes == routes)
        #expect(
            plan.owners == SumPlan.owners(plan.members.map { ($0.member, $0.host) }, routes: routes, here: [])
        )
        return machine
    }

    private func plan(_ actions: [RunMachine.Action]) throws -> GenerationPlan {
        for case .announce(let plan, _) in actions { return plan }
        throw NoPlan(actions: "\(actions)")
    }

    private struct NoPlan: Error { var actions: String }

    private func lost(
        _ generation: Int,
        reporter: Int = 0,
        member: Int = 1,
        isSilent: Bool = false
    ) -> RunMachine.Event {
        .peerLost(
            reporter: reporter,
            generation: generation,
            member: member,
            isSilent: isSilent,
            reason: "gone"
        )
    }

    @Test func whereSomeMeetOverAThirdThatOneAddsUp() {
        let members = [(0, "a"), (1, "b"), (2, "hub"), (3, "hub")]
        let direct = [PeerRoute("a", "hub", .direct), PeerRoute("b", "hub", .dialled(by: "b"))]
        let overHub = direct + [PeerRoute("a", "b", .relay(hub: "hub"))]
        #expect(SumPlan.owners(members, routes: direct, here: []).isEmpty)
        #expect(SumPlan.owners(members, routes: overHub, here: []) == [2, 3])
        // Over a relay to the hub itself the bytes cross ssh once.
        let star = [
            PeerRoute("a", "hub", .relay(hub: "hub")), PeerRoute("b", "hub", .relay(hub: "hub")), overHub[2],
        ]
        #expect(SumPlan.owners(members, routes: star, here: []) == [2, 3])
        // A hub that does not train adds nothing up.
        #expect(SumPlan.owners([(0, "a"), (1, "b")], routes: overHub, here: []).isEmpty)
        // This machine is where relays without a hub meet.
        let overHere = [
            PeerRoute("a", "b", .relay(hub: nil)), PeerRoute("a", "local", .relay(hub: nil)),
            PeerRoute("b", "local", .relay(hub: nil)),
        ]
        let three = [(0, "a"), (1, "local"), (2, "b")]
        #expect(SumPlan.owners(three, routes: overHere, here: ["local"]) == [1])
        #expect(SumPlan.owners(three, routes: overHere, here: []).isEmpty)
        // Who is met over a third by somebody does not add up for all.
        let four = members + [(4, "c")]
        let chain =
            overHub + [
                PeerRoute("c", "a", .direct), PeerRoute("c", "b", .direct), PeerRoute("c", "hub", .direct),
            ]
        #expect(SumPlan.owners(four, routes: chain, here: []) == [2, 3, 4])
    }

    @Test func theOwnersArePartOfThePlan() throws {
        var machine = try running(["a", "b", "hub"], [PeerRoute("a", "b", .relay(hub: "hub"))])
        let lost = RunMachine.Event.exited(member: 2, end: ProcessEnd(.signalled(9)))
        #expect(machine.members.count == 3)
        #expect(try plan(machine.handle(lost, now: start)).owners.isEmpty)
    }

    @Test func theRoutesMayBeKnownFirst() throws {
        var machine = RunMachine(
            run: try #require(RunID("r1")),
            attempt: 1,
            laneCount: 4,
            hosts: ["a", "b"],
            routes: nil
        )
        #expect(machine.handle(.routed(Self.overHere, here: []), now: start).isEmpty)
        #expect(machine.handle(.listening(member: 0, address: "x:0"), now: start).isEmpty)
        #expect(try plan(machine.handle(.listening(member: 1, address: "x:1"), now: start)).number == 1)
    }

    @Test func silenceOverARelayMakesLinksAnewAndKillsNobody() throws {
        var machine = try running()
        #expect(machine.handle(lost(1, isSilent: true), now: start).isEmpty)
        #expect(machine.handle(lost(1, reporter: 1, member: 0, isSilent: true), now: start).isEmpty)
        let again = try plan(machine.handle(.tick, now: start + .seconds(1)))
        #expect(again.members.count == 2)
        #expect(again.routes == Self.overHere)
    }

    @Test func aMemberThatStaysSilentIsExpelledAfterOneMoreTry() throws {
        var machine = try running()
        _ = machine.handle(lost(1, isSilent: true), now: start)
        #expect(try plan(machine.handle(.tick, now: start + .seconds(1))).number == 2)
        // It did not come to the meeting either.
        _ = machine.handle(lost(2), now: start + .seconds(11))
        let actions = machine.handle(.tick, now: start + .seconds(12))
        #expect(actions.first == .expel(member: 1, reason: "gone"))
        #expect(try plan(actions).members.map(\.member) == [0])
    }

    @Test func silenceOnADirectWayStillExpels() throws {
        var machine = try running(["a", "b", "c"])
        let actions = machine.handle(lost(1, member: 2, isSilent: true), now: start)
        #expect(actions.first == .expel(member: 2, reason: "gone"))
    }

    @Test func membersWaitForTheRelayOfTheirHostAndGoOnWhenItStands() throws {
        var machine = try running()
        #expect(machine.handle(.relay(host: "b", isUp: false), now: start).isEmpty)
        _ = machine.handle(lost(1), now: start)
        #expect(machine.handle(.tick, now: start + .seconds(1)).isEmpty)
        #expect(machine.handle(.tick, now: start + .seconds(30)).isEmpty)
        #expect(machine.handle(.relay(host: "b", isUp: true), now: start + .seconds(31)).isEmpty)
        #expect(machine.deadline == start + .seconds(31))
        let again = try plan(machine.handle(.tick, now: start + .seconds(31)))
        #expect(again.members.count == 2)
        #expect(machine.deadline == nil)
    }

    @Test func aHostWithoutARelayForAMinuteIsLostWhileAnotherAnswers() throws {
        var machine = try running()
        _ = machine.handle(.relay(host: "b", isUp: false), now: start)
        _ = machine.handle(lost(1), now: start)
        #expect(machine.handle(.tick, now: start + .seconds(1)).isEmpty)
        let actions = machine.handle(.tick, now: start + .seconds(62))
        #expect(actions.first == .expel(member: 1, reason: "no relay connection to b"))
        #expect(try plan(actions).members.map(\.member) == [0])
    }

    @Test func withNoHostLeftTheyWaitForThisMachine() throws {
        var machine = try running()
        for host in ["a", "b"] { _ = machine.handle(.relay(host: host, isUp: false), now: start) }
        _ = machine.handle(lost(1), now: start)
        var now = start + .seconds(1)
        for _ in 0..<20 {
            #expect(machine.handle(.tick, now: now).isEmpty)
            now = try #require(machine.deadline)
        }
        #expect(now > start + .seconds(600))
        _ = machine.handle(.relay(host: "a", isUp: true), now: now)
        #expect(machine.handle(.tick, now: now).isEmpty, "b is still missing")
        _ = machine.handle(.relay(host: "b", isUp: true), now: now)
        #expect(try plan(machine.handle(.tick, now: now)).members.count == 2)
    }

    @Test func aMachineThatTakesARunUpAgainWaitsForItsRelays() throws {
        let run = try #require(RunID("r1"))
        let plan = GenerationPlan(
            run: run,
            attempt: 1,
            number: 4,
            members: ["a", "b"].enumerated().map {
                GenerationPlan.Member(
                    member: $0.offset,
                    host: $0.element,
                    address: "x:\($0.offset)",
                    lanes: LaneSet([2 * $0.offset, 2 * $0.offset + 1])
                )
            },
            writers: [0],
            secret: WireSecret([]),
            routes: Self.overHere
        )
        var machine = RunMachine(run: run, attempt: 1, laneCount: 4, trainers: [], plan: plan)
        _ = machine.handle(lost(4), now: start)
        #expect(machine.handle(.tick, now: start + .seconds(1)).isEmpty)
        for host in ["a", "b"] {
            _ = machine.handle(.relay(host: host, isUp: true), now: start + .seconds(2))
        }
        let next = try self.plan(machine.handle(.tick, now: start + .seconds(2)))
        #expect(next.number == 5)
        #expect(next.members.count == 2)
    }

    @Test func breaksThatLieFarApartAreNotCountedTogether() throws {
        var machine = try running()
        for round in 1...20 {
            let now = start + .seconds(100 * round)
            _ = machine.handle(lost(round), now: now)
            #expect(try plan(machine.handle(.tick, now: now + .seconds(1))).members.count == 2)
        }
        // One that breaks each time at once is given up in the end.
        var now = start + .seconds(3000)
        for round in 21...60 {
            _ = machine.handle(lost(round), now: now)
            let actions = machine.handle(.tick, now: now + .seconds(1))
            if case .expel(let member, _)? = actions.first {
                #expect(member == 1)
                #expect(round <= 27)
                return
            }
            now += .seconds(2)
        }
        Issue.record("links were made anew for ever")
    }
}
