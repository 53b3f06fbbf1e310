import Basics
import Testing
import Wire

@testable import Serving

private func placement(_ number: Int) -> Placement {
    Placement(
        version: ServedVersion(model: "m", version: number, checkpoint: Digest(of: "\(number)")),
        folder: "/\(number)"
    )
}

/// A machine with a hand-turned clock that saves when it is told to.
private struct Bench {
    var machine = ReleaseMachine()
    var now: Duration = .zero
    var saves: [SavedState] = []
    var view = ReleaseMachine.View()
    var saveFailure: ServingError?

    @discardableResult
    mutating func on(_ event: ReleaseMachine.Event) -> [ReleaseMachine.Action] {
        var all: [ReleaseMachine.Action] = []
        var actions = machine.handle(event, at: now)
        while let action = actions.first {
            actions.removeFirst()
            all.append(action)
            if case .save(let state) = action {
                if saveFailure == nil { saves.append(state) }
                actions = machine.handle(.saved(failure: saveFailure), at: now) + actions
            }
            if case .publish(let new) = action { view = new }
        }
        return all
    }

    /// Releases a version whose child loads at once.
    mutating func release(_ number: Int) -> ChildID {
        let actions = on(.release(placement(number), ticket: number))
        guard case .spawn(let child, _)? = actions.first else {
            Issue.record("nothing was spawned: \(actions)")
            return ChildID(number: -1)
        }
        on(.loaded(child, difference: 0))
        return child
    }
}

private func refusal(_ actions: [ReleaseMachine.Action]) -> String? {
    for case .reply(_, .refused(let message, _)) in actions { return message }
    return nil
}

private func spawned(_ actions: [ReleaseMachine.Action]) -> [ChildID] {
    actions.compactMap { if case .spawn(let id, _) = $0 { id } else { nil } }
}

@Suite struct ReleaseMachineTests {
    @Test func switchIsSavedThenPublishedThenAnswered() {
        var bench = Bench()
        let child = ChildID(number: 1)
        #expect(
            bench.on(.release(placement(1), ticket: 7)) == [.spawn(child, placement(1)), .publish(.init())]
        )
        let actions = bench.on(.loaded(child, difference: 1e-6))
        let version = placement(1).version
        #expect(
            actions == [
                .save(SavedState(live: placement(1))),
                .log(.notice, "m@1 is live, before it nothing"),
                .publish(.init(live: .init(version: version, child: child))),
                .reply(
                    ticket: 7,
                    .released(live: version, previous: nil, goldenMaximumDifference: 1e-6)
                ),
            ]
        )
    }

    @Test(arguments: [1e-3, Double.nan, .infinity])
    func goldenDifferenceAboveTheToleranceIsRefused(difference: Double) {
        var bench = Bench()
        let live = bench.release(1)
        let child = spawned(bench.on(.release(placement(2), ticket: 2)))[0]
        let actions = bench.on(.loaded(child, difference: difference))
        #expect(refusal(actions)?.contains("golden") == true)
        #expect(actions.contains(.end(child)))
        #expect(bench.view.live?.child == live)
        #expect(bench.saves.count == 1)
    }

    @Test func candidateThatDiesOrHangsIsRefused() {
        var bench = Bench()
        let live = bench.release(1)
        let dying = spawned(bench.on(.release(placement(2), ticket: 2)))[0]
        #expect(refusal(bench.on(.exited(dying, how: "killed by signal 11")))?.contains("signal 11") == true)
        let hanging = spawned(bench.on(.release(placement(2), ticket: 3)))[0]
        #expect(bench.machine.nextDeadline == .seconds(60))
        bench.now = .seconds(60)
        let actions = bench.on(.tick)
        #expect(refusal(actions)?.contains("did not load") == true)
        #expect(actions.contains(.kill(hanging)))
        #expect(bench.view.live?.child == live)
        #expect(bench.machine.nextDeadline == nil)
    }

    @Test func secondReleaseWaitsForTheFirst() {
        var bench = Bench()
        bench.on(.release(placement(1), ticket: 1))
        #expect(
            refusal(bench.on(.release(placement(2), ticket: 2)))?.contains("m@1 is being released") == true
        )
        #expect(refusal(bench.on(.rollback(ticket: 3))) != nil)
    }

    @Test func liveVersionReleasedAgainIsAnsweredAtOnce() {
        var bench = Bench()
        _ = bench.release(1)
        _ = bench.release(2)
        let actions = bench.on(.release(placement(2), ticket: 9))
        #expect(spawned(actions).isEmpty)
        #expect(actions.count == 1)
    }

    @Test func sameVersionFromAnotherFolderKeepsTheWayBack() {
        var bench = Bench()
        _ = bench.release(1)
        let old = bench.release(2)
        var moved = placement(2)
        moved.folder = "/elsewhere"
        let child = spawned(bench.on(.release(moved, ticket: 9)))[0]
        let actions = bench.on(.loaded(child, difference: 0))
        #expect(actions.contains(.end(old)))
        #expect(bench.view.live?.child == child)
        #expect(bench.view.previous?.version.version == 1)
    }

    @Test func thirdReleaseEndsTheOldestChild() {
        var bench = Bench()
        let first = bench.release(1)
        let second = bench.release(2)
        let third = spawned(bench.on(.release(placement(3), ticket: 3)))[0]
        #expect(bench.on(.loaded(third, difference: 0)).last == .end(first))
        #expect(bench.view.live?.child == third)
        #expect(bench.view.previous?.child == second)
    }

    @Test func rollbackSwapsAndSwapsBack() {
        var bench = Bench()
        let first = bench.release(1)
        let second = bench.release(2)
        #expect(spawned(bench.on(.rollback(ticket: 3))).isEmpty)
        #expect(bench.view.live?.child == first)
        #expect(bench.saves.last == SavedState(live: placement(1), previous: placement(2)))
        bench.on(.rollback(ticket: 4))
        #expect(bench.view.live?.child == second)
    }

    @Test func rollbackLoadsAPreviousVersionThatIsOnDiskOnly() {
        var bench = Bench()
        let first = bench.release(1)
        let second = bench.release(2)
        bench.on(.exited(first, how: "killed"))
        #expect(bench.view.previous?.child == nil)
        let again = spawned(bench.on(.rollback(ticket: 3)))[0]
        #expect(bench.view.live?.child == second)
        bench.on(.loaded(again, difference: 0))
        #expect(bench.view.live?.child == again)
        #expect(bench.view.previous?.child == second)
    }

    @Test func stateThatCanNotBeWrittenStopsTheSwitch() {
        var bench = Bench()
        let live = bench.release(1)
        bench.saveFailure = ServingError(.failed, "no space")
        let child = spawned(bench.on(.release(placement(2), ticket: 2)))[0]
        let actions = bench.on(.loaded(child, difference: 0))
        #expect(refusal(actions) == "no space")
        #expect(actions.contains(.end(child)))
        #expect(bench.view.live?.child == live)
    }

    @Test func deadLiveChildIsStartedAgainThreeTimesAMinute() {
        var bench = Bench()
        let first = bench.release(1)
        var child = bench.release(2)
        for _ in 1...3 {
            child = spawned(bench.on(.exited(child, how: "killed")))[0]
            #expect(bench.view.isComing)
            bench.on(.loaded(child, difference: 0))
            #expect(bench.view.live?.child == child)
        }
        let actions = bench.on(.exited(child, how: "killed"))
        #expect(spawned(actions).isEmpty)
        #expect(bench.view.live?.child == first)
        #expect(bench.view.previous == nil)
        #expect(bench.saves.last == SavedState(live: placement(1)))
    }

    @Test func deathsThatAreLongAgoDoNotCount() {
        var bench = Bench()
        _ = bench.release(1)
        var child = bench.release(2)
        for _ in 1...10 {
            bench.now += .seconds(21)
            child = spawned(bench.on(.exited(child, how: "killed")))[0]
            bench.on(.loaded(child, difference: 0))
        }
        #expect(bench.view.live?.version.version == 2)
    }

    @Test func dyingVersionWithoutAWayBackIsTriedAgainLater() {
        var bench = Bench()
        var child = bench.release(1)
        for _ in 1...3 { child = spawned(bench.on(.exited(child, how: "killed")))[0] }
        #expect(spawned(bench.on(.exited(child, how: "killed"))).isEmpty)
        #expect(bench.view.live?.child == nil)
        #expect(!bench.view.isComing)
        bench.now = .seconds(60)
        #expect(bench.machine.nextDeadline == .seconds(60))
        #expect(spawned(bench.on(.tick)).count == 1)
        #expect(bench.view.isComing)
    }

    @Test func startBringsBothVersionsBack() {
        var bench = Bench()
        let actions = bench.on(.start(SavedState(live: placement(2), previous: placement(1))))
        let children = spawned(actions)
        #expect(children.count == 2)
        #expect(bench.view.isComing)
        bench.on(.loaded(children[0], difference: 0))
        #expect(bench.view.live?.child == children[0])
        bench.on(.failed(children[1], message: "gone", hint: nil))
        #expect(bench.view.previous?.version.version == 1)
        #expect(bench.view.previous?.child == nil)
    }

    @Test func stopWaitsForTheChildrenThenKillsThem() {
        var bench = Bench()
        let first = bench.release(1)
        let second = bench.release(2)
        #expect(Array(bench.on(.stop).suffix(2)) == [.end(first), .end(second)])
        #expect(bench.view == .init())
        #expect(bench.on(.exited(first, how: "exit status 0")).isEmpty)
        #expect(bench.machine.nextDeadline == .seconds(10))
        bench.now = .seconds(10)
        #expect(bench.on(.tick) == [.kill(second)])
        #expect(bench.machine.nextDeadline == nil)
        #expect(bench.on(.exited(second, how: "killed")) == [.finish])
    }

    @Test func stopWithoutChildrenEndsAtOnce() {
        var bench = Bench()
        #expect(bench.on(.stop).contains(.finish))
    }
}
