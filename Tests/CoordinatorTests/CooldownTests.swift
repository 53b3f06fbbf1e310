import Basics
import Testing
import Wire

@testable import Coordinator

/// When a host that lost a trainer may bring another one.
@Suite struct CooldownTests {
    private let start = ContinuousClock.now

    @Test func eachLossWithinTheWindowDoublesTheRest() {
        var cooldown = Cooldown()
        #expect(cooldown.end("a", at: start) == start)
        var rests: [Duration] = []
        for time in 0..<8 {
            let now = start + .seconds(20 * time)
            cooldown.lost("a", at: now)
            rests.append(cooldown.end("a", at: now) - now)
        }
        #expect(rests == [5, 10, 20, 40, 80, 120, 120, 120].map { .seconds($0) })
        #expect(cooldown.end("b", at: start) == start)
    }

    @Test func whatIsLongAgoCountsNoMore() {
        var cooldown = Cooldown()
        cooldown.lost("a", at: start)
        let later = start + Cooldown.window + .seconds(1)
        cooldown.lost("a", at: later)
        #expect(cooldown.end("a", at: later) - later == Cooldown.first)
        #expect(cooldown.count("a", at: later + Cooldown.window) == 0)
    }

    @Test func whatIsLostAtOneTimeIsOneLoss() {
        var cooldown = Cooldown()
        for milliseconds in [0, 3, 40, 900] { cooldown.lost("a", at: start + .milliseconds(milliseconds)) }
        #expect(cooldown.count("a", at: start + .seconds(1)) == 1)
    }

    @Test func itSaysWhy() {
        var cooldown = Cooldown()
        cooldown.lost("a", at: start)
        #expect(
            cooldown.words("a", at: start)
                == "a lost a trainer once within 5 min: the next one starts in 5 s"
        )
        cooldown.lost("a", at: start + .seconds(30))
        #expect(
            cooldown.words("a", at: start + .seconds(31))
                == "a lost a trainer 2 times within 5 min: the next one starts in 9 s"
        )
    }

    // MARK: In the run

    private func running(_ hosts: [String]) throws -> RunMachine {
        var machine = RunMachine(
            run: try #require(RunID("r1")),
            attempt: 1,
            laneCount: 8,
            hosts: hosts,
            makeSecret: { WireSecret([1, 2, 3]) }
        )
        for member in hosts.indices {
            _ = machine.handle(.listening(member: member, address: "x:\(member)"), now: start)
        }
        return machine
    }

    private func isStart(_ action: RunMachine.Action, on host: String) -> Bool {
        action == .start(host: host)
    }

    @Test func aKilledTrainerIsStartedAgainAfterItsRestAndJoins() throws {
        var machine = try running(["a", "b", "b"])
        let lost = machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start)
        #expect(lost.contains(.note("b lost a trainer once within 5 min: the next one starts in 5 s")))
        #expect(machine.deadline == start + .seconds(5))
        #expect(machine.handle(.tick, now: start + .seconds(4)).isEmpty)
        #expect(machine.handle(.tick, now: start + .seconds(5)) == [.start(host: "b")])
        #expect(machine.handle(.tick, now: start + .seconds(60)).isEmpty)
        _ = machine.handle(.joining(member: 3, host: "b", isBack: true), now: start + .seconds(60))
        let back = machine.handle(.listening(member: 3, address: "x:3"), now: start + .seconds(61))
        guard case .announce(let plan, "b is back and to join")? = back.last else {
            Issue.record("\(back)")
            return
        }
        #expect(plan.members.map(\.member) == [0, 2, 3])
    }

    @Test func aFrozenTrainerIsStartedAgainToo() throws {
        var machine = try running(["a", "b", "c"])
        _ = machine.handle(
            .peerLost(reporter: 0, generation: 1, member: 1, isSilent: true, reason: "nothing came"),
            now: start
        )
        // The others say the same, and its agent reaps it: one loss.
        _ = machine.handle(
            .peerLost(reporter: 2, generation: 1, member: 1, isSilent: true, reason: "nothing came"),
            now: start
        )
        _ = machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start + .seconds(3))
        #expect(machine.handle(.tick, now: start + .seconds(6)) == [.start(host: "b")])
    }

    @Test(arguments: [
        ProcessEnd(.exited(65)), ProcessEnd(.signalled(9), cause: "the host ran out of memory"),
    ])
    func whatWouldEndAgainIsNotStartedAgain(end: ProcessEnd) throws {
        var machine = try running(["a", "b"])
        _ = machine.handle(.exited(member: 1, end: end), now: start)
        #expect(machine.deadline == nil)
        // A host that left and came counts all the same.
        #expect(machine.cooldown.count("b", at: start) == 1)
    }

    @Test func aHostThatCannotBeReachedIsWaitedFor() throws {
        var machine = try running(["a", "b", "c"])
        _ = machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start)
        #expect(machine.handle(.tick, now: start + .seconds(5)) == [.start(host: "b")])
        _ = machine.handle(.lacks(host: "b", isReachable: false), now: start + .seconds(5))
        #expect(machine.deadline == nil)
        _ = machine.handle(.returned(host: "b", members: [:]), now: start + .seconds(50))
        #expect(machine.handle(.tick, now: start + .seconds(50)) == [.start(host: "b")])
    }

    @Test func aHostThatWasSentAwayStartsNobody() throws {
        var machine = try running(["a", "b", "c"])
        _ = machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start)
        _ = machine.handle(.leave(host: "b"), now: start + .seconds(1))
        #expect(machine.handle(.tick, now: start + .seconds(6)).isEmpty)
    }

    @Test func nobodyIsStartedWhileNobodyMayGoOn() throws {
        var machine = try running(["a", "b", "b"])
        _ = machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start)
        machine.parkedFor = "a can't be reached"
        #expect(machine.handle(.tick, now: start + .seconds(5)).isEmpty)
        machine.parkedFor = nil
        #expect(machine.handle(.tick, now: start + .seconds(6)) == [.start(host: "b")])
    }
}
