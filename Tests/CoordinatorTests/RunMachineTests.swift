import Basics
import Testing
import Wire

@testable import Coordinator

/// Membership decisions without a host, a process or a clock.
@Suite struct RunMachineTests {
    private let start = ContinuousClock.now

    private func machine(_ hosts: [String], lanes: Int = 4) throws -> RunMachine {
        RunMachine(
            run: try #require(RunID("r1")),
            attempt: 1,
            laneCount: lanes,
            hosts: hosts
        )
    }

    private func running(_ hosts: [String], lanes: Int = 4) throws -> RunMachine {
        var machine = try machine(hosts, lanes: lanes)
        for member in hosts.indices {
            _ = machine.handle(.listening(member: member, address: "127.0.0.1:\(9000 + member)"), now: start)
        }
        return machine
    }

    private func plan(_ actions: [RunMachine.Action]) throws -> GenerationPlan {
        for case .announce(let plan, _) in actions { return plan }
        throw TestFailure("no generation in \(actions)")
    }

    @Test func theFirstGenerationWaitsForAllMembers() throws {
        var machine = try machine(["a", "b"])
        #expect(machine.handle(.listening(member: 0, address: "x:1"), now: start).isEmpty)
        let first = try plan(machine.handle(.listening(member: 1, address: "x:2"), now: start))
        #expect(first.number == 1)
        #expect(first.members.map(\.lanes) == [LaneSet([0, 1]), LaneSet([2, 3])])
        #expect(first.writers == [0, 1])
    }

    /// Found by the simulator: such a member was counted for ever, and nobody went on.
    @Test func whoeverCannotComeBackIsEndedWhenItsHostAnswers() throws {
        var machine = try running(["a", "b", "c"])
        let first = machine.succession.basis(mark: 0).follows[0].view
        for member in 0..<3 {
            let opening = RunMachine.Event.opening(member: member, generation: 1, mark: first.mark)
            _ = machine.handle(opening, now: start)
        }
        let lost = RunMachine.Event.peerLost(
            reporter: 0,
            generation: 1,
            member: 2,
            isSilent: true,
            reason: "silent"
        )
        let second = try plan(machine.handle(lost, now: start))
        #expect(second.members.map(\.member) == [0, 1])
        // Member 0 dies; whether 1 began without 2 is not known, and 1 and 2 are half each of those who are left.
        _ = machine.handle(.opening(member: 0, generation: 2, mark: second.view.mark), now: start)
        _ = machine.handle(.exited(member: 0, end: ProcessEnd(.signalled(9))), now: start)
        #expect(machine.parkedFor?.hasPrefix("c can't be reached") == true)
        let back = machine.handle(.returned(host: "c", members: [2: "c:1"]), now: start)
        #expect(back == [.expel(member: 2, reason: "the others go on without it")])
        let third = try plan(machine.handle(.exited(member: 2, end: ProcessEnd(.signalled(9))), now: start))
        #expect(third.members.map(\.member) == [1])
    }

    @Test func aDeadMemberLeavesItsLanesToTheOthersWhoKeepTheirs() throws {
        var machine = try running(["a", "a", "b"], lanes: 8)
        let before = machine.members
        let next = try plan(
            machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start)
        )
        #expect(next.number == 2)
        #expect(next.members.map(\.member) == [0, 2])
        for member in next.members {
            let kept = before[member.member]?.lanes.bits ?? 0
            #expect(member.lanes.bits & kept == kept)
        }
        #expect(next.members.reduce(0) { $0 | $1.lanes.bits } == 0xFF)
    }

    private func unstarted(_ members: [Int]) -> RunMachine.Event {
        .unstarted(members: members, isReachable: false, reason: "b: connection lost")
    }

    @Test func aHostThatIsLostBeforeItsTrainersStartIsNotWaitedFor() throws {
        var machine = try machine(["a", "b", "b"], lanes: 8)
        #expect(machine.handle(unstarted([1, 2]), now: start).isEmpty)
        let first = try plan(machine.handle(.listening(member: 0, address: "a:1"), now: start))
        #expect(first.members.map(\.member) == [0] && first.members[0].lanes.count == 8)
        // One of them was started after all: it has no part.
        let late = machine.handle(.listening(member: 2, address: "b:2"), now: start)
        #expect(late == [.expel(member: 2, reason: "the others began without it")])
        // Others are started in their place once the host answers.
        #expect(machine.handle(.tick, now: start + .seconds(60)).isEmpty)
        let later = start + .seconds(61)
        #expect(machine.handle(.returned(host: "b", members: [:]), now: later).isEmpty)
        let starts = machine.handle(.tick, now: later)
        #expect(starts == [.start(host: "b"), .start(host: "b")])
        #expect(machine.nextMember == 3)
    }

    @Test func nobodyIsStartedInTheirPlaceBeforeTheOthersBegan() throws {
        var machine = try machine(["a", "b"])
        _ = machine.handle(unstarted([1]), now: start)
        _ = machine.handle(.returned(host: "b", members: [:]), now: start)
        #expect(machine.handle(.tick, now: start + .seconds(10)).isEmpty)
        _ = machine.handle(.listening(member: 0, address: "a:1"), now: start + .seconds(10))
        #expect(machine.handle(.tick, now: start + .seconds(11)) == [.start(host: "b")])
    }

    @Test func whoListensAlreadyIsNotTakenForUnstarted() throws {
        var machine = try machine(["a", "b"])
        _ = machine.handle(.listening(member: 1, address: "b:1"), now: start)
        #expect(machine.handle(unstarted([1]), now: start).isEmpty)
        let first = try plan(machine.handle(.listening(member: 0, address: "a:1"), now: start))
        #expect(first.members.map(\.member) == [0, 1])
    }

    /// What two members report a few times a second, one of them slower by `factor`.
    private func report(
        _ machine: inout RunMachine,
        slower factor: Double,
        from first: Int,
        times: Int
    ) -> [RunMachine.Action] {
        var actions: [RunMachine.Action] = []
        for time in first..<(first + times) {
            for member in 0..<2 {
                let lanes = machine.members[member]?.lanes.count ?? 0
                let seconds = 0.01 * Double(lanes) * (member == 1 ? factor : 1)
                let pace = LanePace(threads: 1, lanes: lanes, seconds: seconds)
                actions += machine.handle(
                    .pace(member: member, generation: machine.generation, pace),
                    now: start + .milliseconds(250 * time)
                )
            }
        }
        return actions
    }

    @Test func lanesFollowTheMeasuredSpeed() throws {
        var machine = try running(["a", "b"], lanes: 16)
        // One bad look is noise.
        #expect(report(&machine, slower: 3, from: 0, times: 1).isEmpty)
        #expect(report(&machine, slower: 1, from: 1, times: 20).isEmpty)
        let actions = report(&machine, slower: 2, from: 21, times: 6)
        let next = try plan(actions)
        #expect(actions.count == 1)
        #expect(next.members.map(\.lanes.count) == [11, 5])
        #expect(next.members.reduce(0) { $0 | $1.lanes.bits } == 0xFFFF)
        // What is balanced stays as it is.
        #expect(report(&machine, slower: 2, from: 27, times: 40).isEmpty)
        // Later the slow one has become as fast as the other.
        let back = try plan(report(&machine, slower: 1, from: 67, times: 6))
        #expect(back.members.map(\.lanes.count) == [8, 8])
    }

    /// 6 % of the step are no reason to move at once; they are one when they have cost as much as a move does.
    @Test func lanesFollowALittleOnceThatHasCostAMove() throws {
        var machine = try running(["a", "b"], lanes: 32)
        #expect(report(&machine, slower: 1.13, from: 0, times: 15).isEmpty)
        let next = try plan(report(&machine, slower: 1.13, from: 15, times: 15))
        #expect(next.members.map(\.lanes.count) == [17, 15])
        #expect(report(&machine, slower: 1.13, from: 30, times: 400).isEmpty)
    }

    /// Nothing is lost while nobody makes steps, as in a long validation.
    @Test func lanesDoNotFollowTimeInWhichNobodyWorks() throws {
        var machine = try running(["a", "b"], lanes: 32)
        #expect(report(&machine, slower: 1.13, from: 0, times: 4).isEmpty)
        #expect(report(&machine, slower: 1.13, from: 400, times: 4).isEmpty)
    }

    @Test func whatComesAndGoesAroundAPaceMovesNothing() throws {
        var machine = try running(["a", "b"], lanes: 32)
        var moves = 0
        for turn in 0..<400 {
            moves += report(&machine, slower: turn % 2 == 0 ? 1.09 : 0.91, from: turn, times: 1).count
        }
        #expect(moves == 0)
    }

    @Test func lanesDoNotFollowWhatChangesAllTheTime() throws {
        var machine = try running(["a", "b"], lanes: 16)
        var moves = 0
        for turn in 0..<200 {
            moves += report(&machine, slower: turn % 2 == 0 ? 2 : 1, from: turn * 5, times: 5).count
        }
        // 250 s: at most one move in each rest, and the rests double up to a minute.
        #expect((2...10).contains(moves))
    }

    @Test func lateLanesAreComputedByTheOthersOnceThatIsCheaper() throws {
        var machine = try running(["a", "b"], lanes: 16)
        func late(_ milliseconds: Int, _ generation: Int? = nil) -> [RunMachine.Action] {
            let generation = generation ?? machine.generation
            return machine.handle(
                .late(reporter: 0, generation: generation, members: [1], .milliseconds(milliseconds)),
                now: start + .seconds(10)
            )
        }
        // How long the others would take is not known yet.
        #expect(late(5000).isEmpty)
        #expect(report(&machine, slower: 1.5, from: 0, times: 2).isEmpty)
        // 80 ms for the eight lanes, and 40 ms that the slower one is expected to need more.
        #expect(late(110).isEmpty)
        #expect(late(5000, 7).isEmpty)
        let next = try plan(late(200))
        #expect(next.members.map(\.lanes) == [LaneSet(0..<16), LaneSet()])
        #expect(next.members.map(\.member) == [0, 1])
        // The next one is not late before it is at work.
        #expect(late(5000).isEmpty)
    }

    @Test func whoWasLateGetsLanesAgainByItsSpeed() throws {
        var machine = try running(["a", "b"], lanes: 16)
        _ = report(&machine, slower: 1, from: 0, times: 2)
        let late = RunMachine.Event.late(reporter: 0, generation: 1, members: [1], .milliseconds(400))
        _ = try plan(machine.handle(late, now: start + .seconds(1)))
        // As slow as it was then: 80 ms of the others' and the wait for eight lanes.
        let next = try plan(report(&machine, slower: 1, from: 8, times: 20))
        let counts = next.members.map(\.lanes.count)
        #expect(counts[1] >= 1 && counts[1] <= 3)
    }

    @Test func whoHasNoLanesIsTriedAgainHoweverSlowItWas() throws {
        var machine = try running(["a", "b"], lanes: 16)
        _ = report(&machine, slower: 1, from: 0, times: 2)
        let late = RunMachine.Event.late(reporter: 0, generation: 1, members: [1], .milliseconds(400))
        _ = try plan(machine.handle(late, now: start + .seconds(1)))
        // What it had measured before it heard of the new generation: too slow for a single lane.
        let pace = LanePace(threads: 1, lanes: 8, seconds: 60)
        _ = machine.handle(.pace(member: 1, generation: 1, pace), now: start + .seconds(1.1))
        let next = try plan(report(&machine, slower: 1, from: 8, times: 40))
        #expect(next.members.map(\.lanes.count) == [8, 8])
    }

    @Test func whatNobodyElseCanTakeIsWaitedFor() throws {
        var machine = try running(["a", "b"], lanes: 16)
        _ = report(&machine, slower: 1, from: 0, times: 2)
        let both = RunMachine.Event.late(reporter: 2, generation: 1, members: [0, 1], .seconds(9))
        #expect(machine.handle(both, now: start + .seconds(1)).isEmpty)
    }

    @Test func aPaceOfAnotherGenerationMovesNothing() throws {
        var machine = try running(["a", "b"], lanes: 16)
        for time in 0..<20 {
            let pace = LanePace(threads: 1, lanes: 8, seconds: time % 2 == 0 ? 0.1 : 1)
            let event = RunMachine.Event.pace(member: time % 2, generation: 7, pace)
            #expect(machine.handle(event, now: start + .milliseconds(250 * time)).isEmpty)
        }
    }

    @Test func aRunThatIsOverWaitsForNothing() throws {
        var machine = try running(["a", "b"])
        _ = machine.handle(.finished(member: 0), now: start)
        _ = machine.handle(
            .peerLost(reporter: 1, generation: 1, member: 0, isSilent: false, reason: "cut"),
            now: start
        )
        #expect(machine.deadline != nil)
        let actions = machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start)
        #expect(actions == [.finish])
        #expect(machine.deadline == nil, "a tick at a moment that is past would follow another, without end")
    }

    @Test func orphanedLanesGoToTheFast() throws {
        var machine = try running(["a", "b", "c"], lanes: 16)
        for member in 0..<3 {
            let pace = LanePace(threads: 1, lanes: 4, seconds: member == 0 ? 0.1 : 0.2)
            _ = machine.handle(.pace(member: member, generation: 1, pace), now: start)
        }
        let next = try plan(machine.handle(.exited(member: 2, end: ProcessEnd(.signalled(9))), now: start))
        #expect(next.members.map(\.lanes.count) == [11, 5])
    }

    @Test func aHostThatComesTakesPartOnceItListensAndGetsLanesOnceItHasTheState() throws {
        var machine = try running(["a", "a"], lanes: 4)
        #expect(machine.handle(.joining(member: 2, host: "b"), now: start).isEmpty)
        let next = try plan(machine.handle(.listening(member: 2, address: "x:7"), now: start))
        #expect(next.number == 2)
        #expect(next.members.map(\.member) == [0, 1, 2])
        #expect(next.members.map(\.lanes.count) == [2, 2, 0])
        #expect(next.giver == 0)
        #expect(next.writers == [0, 1])
        // Before it is in this one it has nothing to do with its lanes.
        #expect(machine.handle(.caughtUp(member: 2, generation: 1), now: start).isEmpty)
        let worked = try plan(machine.handle(.caughtUp(member: 2, generation: 2), now: start))
        #expect(worked.members.allSatisfy { !$0.lanes.isEmpty })
        #expect(worked.members.reduce(0) { $0 | $1.lanes.bits } == 0xF)
        #expect(worked.giver == nil)
        #expect(worked.writers == [0, 2])
    }

    @Test func aHostThatJoinedWhenTheCoordinatorEndedJoinsAnew() throws {
        var machine = try running(["a", "b"], lanes: 4)
        _ = machine.handle(.joining(member: 2, host: "c"), now: start)
        let joining = try plan(machine.handle(.listening(member: 2, address: "x:7"), now: start))
        let trainers = joining.members.map { member in
            let trainer = AgentStatus.Trainer(
                run: joining.run,
                attempt: 1,
                member: member.member,
                pid: 7,
                address: member.address,
                isFinished: false,
                end: nil,
                joins: member.member == 2
            )
            return (host: member.host, trainer: trainer)
        }
        var second = RunMachine(run: joining.run, attempt: 1, laneCount: 4, trainers: trainers, plan: joining)
        let deadline = try #require(second.deadline)
        let anew = try plan(second.handle(.tick, now: deadline))
        #expect(anew.joiners == [2])
        #expect(anew.members.map(\.lanes.count) == [2, 2, 0])
        #expect(anew.giver == 0)
    }

    @Test func whoJoinsStaysWithoutLanesWhenAnotherOneHasCaughtUp() throws {
        var machine = try running(["a"], lanes: 4)
        for (member, host) in [(1, "b"), (2, "c")] {
            _ = machine.handle(.joining(member: member, host: host), now: start)
            _ = machine.handle(.listening(member: member, address: "x:7"), now: start)
        }
        let next = try plan(machine.handle(.caughtUp(member: 1, generation: 3), now: start))
        #expect(next.joiners == [2])
        #expect(next.members.map(\.lanes.count) == [2, 2, 0])
    }

    /// Found by the simulator: it refused every generation, and was named in each.
    @Test func whoCaughtUpWithAGenerationThatTheOthersReplacedIsLeftOut() throws {
        var machine = try running(["a", "b", "c"])
        _ = machine.handle(.joining(member: 3, host: "d"), now: start)
        let joining = try plan(machine.handle(.listening(member: 3, address: "x:7"), now: start))
        // The members made one without it.
        var alone = joining
        alone.number = 3
        alone.members.removeLast()
        alone.joiners = []
        alone.basis = GenerationBasis(mark: 77, follows: [.init(joining.view)], left: [])
        for member in 0..<3 {
            _ = machine.handle(.accepted(alone, by: member, reason: "lost 3"), now: start)
        }
        let again = try plan(machine.handle(.routed([], here: []), now: start))
        #expect(again.joiners == [3])
        #expect(machine.handle(.caughtUp(member: 3, generation: 2), now: start).isEmpty)
        let refused = RunMachine.Event.refused(
            member: 3,
            generation: 4,
            mark: again.view.mark,
            promised: 4
        )
        #expect(machine.handle(refused, now: start).isEmpty)
        let actions = machine.handle(.tick, now: try #require(machine.deadline))
        #expect(try plan(actions).members.map(\.member) == [0, 1, 2])
    }

    @Test func whoCaughtUpInAGenerationThatIsOverGetsLanesWithTheNextOne() throws {
        var machine = try running(["a", "b", "b"], lanes: 4)
        _ = machine.handle(.joining(member: 3, host: "c"), now: start)
        _ = machine.handle(.listening(member: 3, address: "x:7"), now: start)
        let lost = RunMachine.Event.exited(member: 1, end: ProcessEnd(.signalled(9)))
        #expect(try plan(machine.handle(lost, now: start)).joiners == [3])
        #expect(machine.handle(.caughtUp(member: 3, generation: 2), now: start).isEmpty)
        let again = RunMachine.Event.exited(member: 2, end: ProcessEnd(.signalled(9)))
        let next = try plan(machine.handle(again, now: start))
        #expect(next.members.map(\.member) == [0, 3])
        #expect(next.joiners.isEmpty && next.members.allSatisfy { $0.lanes.count == 2 })
    }

    @Test func whoCouldNotBeGivenTheStateIsGivenUpAlone() throws {
        var machine = try running(["a", "b"], lanes: 4)
        _ = machine.handle(.joining(member: 2, host: "b"), now: start)
        _ = machine.handle(.listening(member: 2, address: "x:7"), now: start)
        let actions = machine.handle(.unsupplied(member: 2, reason: "no way"), now: start)
        #expect(actions.first == .expel(member: 2, reason: "no way"))
        // Its neighbour may be at work where nobody here hears it: it has not left.
        #expect(try plan(actions).members.map(\.member) == [0, 1])
        #expect(machine.succession.left.isEmpty)
        #expect(machine.handle(.unsupplied(member: 1, reason: "no way"), now: start).isEmpty)
    }

    @Test func noTwoProcessesEverHaveOneNumber() throws {
        var machine = try running(["a", "b"], lanes: 4)
        _ = machine.handle(.joining(member: machine.nextMember, host: "c"), now: start)
        // The next coordinator knows of it even when its host can't be asked.
        let kept = machine.succession.kept(attempt: 1)
        var succession = Succession()
        succession.take(kept)
        let second = RunMachine(
            run: machine.run,
            attempt: 1,
            laneCount: 4,
            trainers: [],
            plan: nil,
            succession: succession
        )
        #expect(second.nextMember == 3)
    }

    @Test func aLossWhileAHostJoinsLeavesItWithoutLanes() throws {
        var machine = try running(["a", "a"], lanes: 4)
        _ = machine.handle(.joining(member: 2, host: "b"), now: start)
        _ = machine.handle(.listening(member: 2, address: "x:7"), now: start)
        let lost = RunMachine.Event.exited(member: 0, end: ProcessEnd(.signalled(9)))
        let next = try plan(machine.handle(lost, now: start))
        #expect(next.members.map(\.lanes) == [LaneSet(0..<4), LaneSet()])
        #expect(next.giver == 1)
    }

    @Test func theStateComesFromTheNearestMember() {
        let members = [(member: 0, host: "far"), (member: 1, host: "here"), (member: 2, host: "b")]
        #expect(StateGiver.choose(for: [], among: members, here: ["here"]) == nil)
        #expect(StateGiver.choose(for: ["b"], among: members, here: ["here"]) == 2)
        #expect(StateGiver.choose(for: ["c"], among: members, here: ["here"]) == 1)
        #expect(StateGiver.choose(for: ["c"], among: members, here: []) == 0)
        #expect(StateGiver.choose(for: ["c"], among: [], here: []) == nil)
    }

    @Test func aHostThatFailsBeforeItWorkedIsMissedByNobody() throws {
        var machine = try running(["a"], lanes: 4)
        _ = machine.handle(.joining(member: 1, host: "b"), now: start)
        #expect(machine.handle(.failed(member: 1, message: "no kernels", hint: nil), now: start).isEmpty)
        let actions = machine.handle(.exited(member: 0, end: ProcessEnd(.signalled(9))), now: start)
        #expect(actions == [.interrupt(reason: "a: trainer 0 ended, killed by signal 9")])
    }

    @Test func aMemberWithoutTheStateCannotCarryTheRunOn() throws {
        var machine = try running(["a"], lanes: 4)
        _ = machine.handle(.joining(member: 1, host: "b"), now: start)
        let second = try plan(machine.handle(.listening(member: 1, address: "x:7"), now: start))
        for member in 0..<2 {
            let opening = RunMachine.Event.opening(member: member, generation: 2, mark: second.view.mark)
            _ = machine.handle(opening, now: start)
        }
        let lost = RunMachine.Event.exited(member: 0, end: ProcessEnd(.signalled(9)))
        let reason = "a: trainer 0 ended, killed by signal 9"
        // It may have the state already, with the news on its way; the run does not begin anew while it lives.
        #expect(!machine.handle(lost, now: start).contains(.interrupt(reason: reason)))
        var late = machine
        let news = RunMachine.Event.caughtUp(member: 1, generation: 2)
        #expect(try plan(late.handle(news, now: start)).members.map(\.member) == [1])
        let ends = machine.handle(.tick, now: start + RunMachine.relinkPatience)
        #expect(ends.contains { if case .expel(member: 1, _) = $0 { true } else { false } })
        let end = RunMachine.Event.exited(member: 1, end: ProcessEnd(.signalled(9)))
        #expect(machine.handle(end, now: start + .seconds(1)) == [.interrupt(reason: reason)])
        var supplied = try running(["a"], lanes: 4)
        _ = supplied.handle(.joining(member: 1, host: "b"), now: start)
        _ = supplied.handle(.listening(member: 1, address: "x:7"), now: start)
        _ = supplied.handle(.caughtUp(member: 1, generation: 2), now: start)
        #expect(try plan(supplied.handle(lost, now: start)).members.map(\.member) == [1])
    }

    @Test func theLanesOfAHostThatLeavesGoToTheOthersBeforeItsTrainersEnd() throws {
        var machine = try running(["a", "b", "b"], lanes: 4)
        let actions = machine.handle(.leave(host: "b"), now: start)
        guard case .announce(let next, let reason)? = actions.first else {
            throw TestFailure("no generation first in \(actions)")
        }
        #expect(reason == "b left")
        #expect(next.members.map(\.member) == [0])
        #expect(
            actions.dropFirst() == [
                .expel(member: 1, reason: "b leaves the run"), .expel(member: 2, reason: "b leaves the run"),
            ]
        )
        #expect(machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start).isEmpty)
    }

    @Test func aSilentMemberIsExpelledAndTheOthersGoOn() throws {
        var machine = try running(["a", "b", "c"])
        let actions = machine.handle(
            .peerLost(reporter: 0, generation: 1, member: 2, isSilent: true, reason: "silent for 3 s"),
            now: start
        )
        #expect(actions.first == .expel(member: 2, reason: "silent for 3 s"))
        #expect(try plan(actions).members.map(\.member) == [0, 1])
    }

    @Test func aBrokenLinkBetweenLivingMembersIsMadeAnewAfterAMoment() throws {
        var machine = try running(["a", "b"])
        let lost = RunMachine.Event.peerLost(
            reporter: 0,
            generation: 1,
            member: 1,
            isSilent: false,
            reason: "reset"
        )
        #expect(machine.handle(lost, now: start).isEmpty)
        #expect(machine.handle(.tick, now: start + .milliseconds(100)).isEmpty)
        let again = try plan(machine.handle(.tick, now: start + .milliseconds(600)))
        #expect(again.number == 2)
        #expect(again.members.count == 2)
        #expect(machine.deadline == nil)
    }

    @Test func newsOfAnOlderGenerationChangesNothing() throws {
        var machine = try running(["a", "b", "c"])
        _ = machine.handle(.exited(member: 2, end: ProcessEnd(.signalled(9))), now: start)
        let stale = RunMachine.Event.peerLost(
            reporter: 0,
            generation: 1,
            member: 2,
            isSilent: false,
            reason: "reset"
        )
        #expect(machine.handle(stale, now: start).isEmpty)
        #expect(machine.relinkAt == nil)
    }

    @Test func theRunEndsWhenAllThatAreLeftHaveFinished() throws {
        var machine = try running(["a", "b", "c"])
        _ = machine.handle(.exited(member: 0, end: ProcessEnd(.signalled(9))), now: start)
        #expect(machine.handle(.finished(member: 1), now: start).isEmpty)
        #expect(machine.handle(.exited(member: 1, end: ProcessEnd(.exited(0))), now: start).isEmpty)
        #expect(machine.handle(.finished(member: 2), now: start) == [.finish])
        #expect(machine.isOver)
    }

    @Test func aMemberThatFinishedDoesNotComeBackForThoseWhoStillWork() throws {
        var machine = try running(["a", "b"])
        _ = machine.handle(.finished(member: 0), now: start)
        _ = machine.handle(
            .peerLost(reporter: 1, generation: 1, member: 0, isSilent: false, reason: "closed"),
            now: start
        )
        let last = try plan(machine.handle(.tick, now: start + .seconds(1)))
        #expect(last.members.map(\.member) == [1])
        #expect(last.members[0].lanes.count == 4)
    }

    @Test func theLastDeathInterruptsTheRun() throws {
        var machine = try running(["a"])
        let actions = machine.handle(.exited(member: 0, end: ProcessEnd(.signalled(9))), now: start)
        #expect(actions == [.interrupt(reason: "a: trainer 0 ended, killed by signal 9")])
    }

    @Test func aTrainerThatSaysWhyItFailedFailsTheRunBeforeTheFirstGeneration() throws {
        var machine = try machine(["a", "b"])
        let actions = machine.handle(
            .failed(member: 0, message: "no such model", hint: "use mlp"),
            now: start
        )
        #expect(actions == [.fail(message: "no such model", hint: "use mlp")])
    }

    @Test func aTrainerThatIsKilledBeforeTheFirstGenerationIsALostOne() throws {
        var machine = try machine(["a", "b", "c"])
        _ = machine.handle(.listening(member: 0, address: "x:1"), now: start)
        #expect(machine.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start).isEmpty)
        let first = try plan(machine.handle(.listening(member: 2, address: "x:3"), now: start))
        #expect(first.number == 1)
        #expect(first.members.map(\.member) == [0, 2])
        #expect(first.members.reduce(0) { $0 | $1.lanes.bits } == 0xF)
    }

    @Test func theOnlyTrainersDeathBeforeTheFirstGenerationFailsTheRun() throws {
        var machine = try machine(["a"])
        let actions = machine.handle(.exited(member: 0, end: ProcessEnd(.signalled(9))), now: start)
        #expect(actions == [.fail(message: "a: trainer 0 ended, killed by signal 9", hint: nil)])
    }

    @Test func aTrainerThatEndsByItselfBeforeTheFirstGenerationFailsTheRun() throws {
        var machine = try machine(["a", "b"])
        let actions = machine.handle(.exited(member: 0, end: ProcessEnd(.exited(70))), now: start)
        guard case .fail(let message, _)? = actions.first else { throw TestFailure("\(actions)") }
        #expect(message.contains("exit status 70"))
    }

    @Test func aRunThatWentOnWithoutItsCoordinatorIsTakenUpWhereItIs() throws {
        var before = try running(["a", "a", "b"])
        let told = try plan(before.handle(.exited(member: 0, end: ProcessEnd(.signalled(9))), now: start))
        let run = try #require(RunID("r1"))
        func trainer(_ member: Int, _ end: ProcessEnd?) -> AgentStatus.Trainer {
            AgentStatus.Trainer(
                run: run,
                attempt: 1,
                member: member,
                pid: end == nil ? 7 : nil,
                address: "127.0.0.1:\(9000 + member)",
                isFinished: false,
                end: end
            )
        }
        var after = RunMachine(
            run: run,
            attempt: 1,
            laneCount: 4,
            trainers: [
                ("a", trainer(0, ProcessEnd(.signalled(9)))), ("a", trainer(1, nil)), ("b", trainer(2, nil)),
            ],
            plan: told
        )
        #expect(after.generation == 2)
        let next = try plan(after.handle(.exited(member: 1, end: ProcessEnd(.signalled(9))), now: start))
        #expect(next.number == 3)
        #expect(next.members.map(\.member) == [2])
    }

    @Test func aHostThatCannotBeAskedIsTakenToBeAtWork() throws {
        let before = try running(["a", "b"])
        #expect(before.generation == 1)
        var again = try machine(["a", "b"])
        var told: GenerationPlan?
        for member in 0..<2 {
            for case .announce(let plan, _) in again.handle(
                .listening(member: member, address: "h:\(member)"),
                now: start
            ) { told = plan }
        }
        let run = try #require(RunID("r1"))
        var after = RunMachine(
            run: run,
            attempt: 1,
            laneCount: 4,
            trainers: [
                (
                    "a",
                    AgentStatus.Trainer(
                        run: run,
                        attempt: 1,
                        member: 0,
                        pid: 7,
                        address: "h:0",
                        isFinished: false,
                        end: nil
                    )
                )
            ],
            plan: told
        )
        #expect(after.members.count == 2)
        let silent = RunMachine.Event.peerLost(
            reporter: 0,
            generation: 1,
            member: 1,
            isSilent: true,
            reason: "silent"
        )
        #expect(try plan(after.handle(silent, now: start)).members.map(\.member) == [0])
    }
}

private struct TestFailure: Error {
    var text: String
    init(_ text: String) { self.text = text }
}
