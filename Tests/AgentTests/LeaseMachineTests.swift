import Testing
import Wire

@testable import Agent

@Suite("When an agent ends and a host is stopped") struct LeaseMachineTests {
    private typealias Facts = LeaseMachine.Facts

    private let start = SuspendingClock.now
    private let own = AgentTerms(lease: 100)
    private let rented = AgentTerms(lease: 100, stop: "halt", idleStop: 10)

    private func at(_ seconds: Double) -> SuspendingClock.Instant { start + .seconds(seconds) }

    private func machine(_ terms: AgentTerms) -> LeaseMachine { LeaseMachine(terms: terms, now: start) }

    // MARK: Own hosts

    @Test func anAgentThatNobodyNeedsEndsAfterItsLease() {
        var machine = machine(own)
        #expect(machine.tick(Facts(), at: at(99)) == nil)
        #expect(machine.status(at: at(99)).secondsLeft == 1)
        #expect(
            machine.tick(Facts(), at: at(100))
                == .end(reason: "no work and no word from the coordinator for 100 s")
        )
    }

    @Test(arguments: [
        Facts(isTraining: true), Facts(isServing: true), Facts(unsaved: 1),
    ])
    fileprivate func aRunOrAReleaseOrAnUnsentCheckpointKeepsItAndTheLeaseBeginsAnewBehindIt(
        facts: LeaseMachine.Facts
    ) {
        var machine = machine(own)
        #expect(machine.tick(facts, at: at(5000)) == nil)
        #expect(machine.status(at: at(5000)).secondsLeft == nil)
        #expect(machine.tick(Facts(), at: at(5099)) == nil)
        #expect(machine.tick(Facts(), at: at(5100)) != nil)
    }

    @Test func anyWordOfTheCoordinatorKeepsAnOwnAgent() {
        var machine = machine(own)
        machine.contacted(at: at(90))
        #expect(machine.tick(Facts(), at: at(189)) == nil)
        #expect(machine.tick(Facts(), at: at(190)) != nil)
    }

    @Test func anOwnHostIsNeverStopped() {
        var machine = machine(own)
        for second in stride(from: 0.0, through: 100_000, by: 500) {
            if case .stop = machine.tick(Facts(), at: at(second)) { Issue.record("stopped at \(second) s") }
        }
        #expect(machine.demandStop() == false)
    }

    // MARK: Rented hosts

    @Test func aRentedHostIsStoppedWithoutWorkHoweverOftenTheCoordinatorSaysHello() {
        var machine = machine(rented)
        for second in 1...9 {
            machine.contacted(at: at(Double(second)))
            #expect(machine.tick(Facts(), at: at(Double(second))) == nil)
        }
        #expect(
            machine.status(at: at(9))
                == LeaseStatus(isArmed: true, secondsLeft: 1, reason: "is stopped without work")
        )
        #expect(machine.tick(Facts(), at: at(10)) == .stop(reason: "no work for 10 s"))
        #expect(machine.tick(Facts(), at: at(11)) == nil, "one command at a time")
    }

    @Test func theAgentOfARentedHostNeverEndsByItself() {
        var machine = machine(rented)
        for second in stride(from: 0.0, through: 1000, by: 50) {
            if case .end = machine.tick(Facts(unsaved: 1), at: at(second)) {
                Issue.record("ended at \(second) s")
            }
        }
    }

    @Test func workKeepsItAndATrainerThatOnlyWaitsDoesNot() {
        var machine = machine(rented)
        #expect(machine.tick(Facts(isTraining: true, isWorking: true), at: at(50)) == nil)
        #expect(machine.tick(Facts(isTraining: true), at: at(59)) == nil)
        #expect(machine.tick(Facts(isTraining: true), at: at(60)) != nil)
        var serving = self.machine(rented)
        #expect(serving.tick(Facts(isServing: true), at: at(500)) == nil)
        #expect(serving.status(at: at(500)).reason == "a version is served")
        var used = self.machine(rented)
        used.used(at: at(30))
        #expect(used.tick(Facts(), at: at(39)) == nil)
        #expect(used.tick(Facts(), at: at(40)) != nil)
    }

    @Test func theOnlyCopyOfACheckpointIsNeverStopped() {
        var machine = machine(rented)
        #expect(machine.tick(Facts(unsaved: 2), at: at(1_000_000)) == nil)
        let status = machine.status(at: at(1_000_000))
        #expect(status.secondsLeft == nil)
        #expect(status.reason == "waits, with 2 checkpoints that are nowhere else")
        #expect(
            machine.tick(Facts(), at: at(1_000_000)) != nil,
            "they are safe now, and the work is long over"
        )
    }

    @Test func withLeaveToLoseThemTheyStillHaveTheTimeOfALease() {
        var terms = rented
        terms.stopsUnsaved = true
        var machine = machine(terms)
        #expect(machine.tick(Facts(unsaved: 1), at: at(109)) == nil)
        #expect(
            machine.tick(Facts(unsaved: 1), at: at(110))
                == .stop(reason: "no work for 10 s, 1 checkpoints are lost as stop_unsaved allows")
        )
    }

    @Test func aCommandThatFailsIsTriedAgainEverMoreRarely() {
        var machine = machine(rented)
        var now = 10.0
        var waits: [Double] = []
        #expect(machine.tick(Facts(), at: at(now)) != nil)
        for _ in 0..<7 {
            machine.stopEnded(isSuccess: false, at: at(now))
            let failed = now
            while machine.tick(Facts(), at: at(now)) == nil { now += 1 }
            waits.append(now - failed)
        }
        #expect(waits == [30, 60, 120, 240, 480, 600, 600])
        machine.stopEnded(isSuccess: false, at: at(now))
        machine.used(at: at(now))
        #expect(machine.tick(Facts(), at: at(now + 9)) == nil)
        #expect(machine.tick(Facts(), at: at(now + 10)) != nil, "new work forgets old failures")
    }

    @Test func aMachineThatStaysAfterASuccessIsToldAgain() {
        var machine = machine(rented)
        #expect(machine.tick(Facts(), at: at(10)) != nil)
        machine.stopEnded(isSuccess: true, at: at(10))
        #expect(machine.tick(Facts(), at: at(609)) == nil)
        #expect(machine.tick(Facts(), at: at(610)) != nil)
    }

    @Test func whoeverAsksForItGetsItAtOnceAndAgainWhileItFails() {
        var machine = machine(rented)
        #expect(machine.demandStop() == true)
        #expect(machine.demandStop() == false, "it is under way")
        machine.stopEnded(isSuccess: false, at: at(1))
        #expect(machine.tick(Facts(unsaved: 3), at: at(30)) == nil)
        #expect(machine.tick(Facts(unsaved: 3), at: at(31)) != nil)
    }

    @Test func termsThatChangeBeginAnewAndEqualOnesDoNot() {
        var machine = machine(rented)
        machine.agreed(rented, at: at(9))
        #expect(machine.tick(Facts(), at: at(10)) != nil)
        var other = self.machine(rented)
        var longer = rented
        longer.idleStop = 20
        other.agreed(longer, at: at(9))
        #expect(other.tick(Facts(), at: at(28)) == nil)
        #expect(other.tick(Facts(), at: at(29)) != nil)
    }
}
