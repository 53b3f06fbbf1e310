import Basics
import Testing

@testable import Collectives

/// Who joins a run has no word in who goes on: it has nothing of what was committed.
struct JoinersVoteTests {
    private typealias Seat = GenerationView.Member
    private let view = GenerationView(
        number: 3,
        mark: 9,
        members: [
            Seat(member: 0, lanes: LaneSet([0, 1])), Seat(member: 1, lanes: LaneSet([2, 3])),
            Seat(member: 2, lanes: LaneSet()), Seat(member: 3, lanes: LaneSet()),
        ],
        joiners: [2, 3]
    )
    private let ballot = MembershipRules.Ballot(number: 4, mark: 1, laneCount: 4, reason: "lost")

    private func vote(_ member: Int, joins: Bool) -> MembershipKnowledge {
        var knowledge = MembershipKnowledge(member: member, joins: joins)
        knowledge.confirmed = view
        return knowledge
    }

    @Test func aMajorityIsOneOfThoseWhoHaveTheState() {
        #expect(view.isQuorum([0]))
        #expect(!view.isQuorum([1]))
        #expect(!view.isQuorum([1, 2, 3]))
        #expect(view.isQuorum([1], left: [0]))
        #expect(!view.isQuorum([2, 3], left: [0]))
    }

    @Test func whenAllOthersHaveEndedThoseWhoJoinedAreCounted() {
        // One of them may have caught up, and the other one too: neither goes on alone.
        #expect(!view.isQuorum([2], left: [0, 1]))
        #expect(view.isQuorum([2, 3], left: [0, 1]))
    }

    @Test func membersMakeNoGenerationWithThoseWhoHaveNothing() {
        let votes = [0: vote(0, joins: false), 2: vote(2, joins: true)]
        guard case .proposal(let proposal) = MembershipRules.count(ballot, votes) else {
            Issue.record("member 0 holds lane 0 and may go on")
            return
        }
        #expect(proposal.view.ids == [0])
        #expect(proposal.view.members.map(\.lanes) == [LaneSet(0..<4)])
        guard
            case .insufficient = MembershipRules.count(
                ballot,
                [2: vote(2, joins: true), 3: vote(3, joins: true)]
            )
        else {
            Issue.record("nobody there has the state")
            return
        }
    }

    @Test func whoHasCaughtUpGoesOnWithTheOthers() {
        let votes = [0: vote(0, joins: false), 2: vote(2, joins: false)]
        guard case .proposal(let proposal) = MembershipRules.count(ballot, votes) else {
            Issue.record("member 0 holds lane 0 and may go on")
            return
        }
        #expect(proposal.view.ids == [0, 2])
        #expect(proposal.view.joiners.isEmpty)
    }

    @Test func whoJoinsAsksForNoVotes() {
        let start = ContinuousClock.now
        for joins in [true, false] {
            var machine = MembershipMachine(member: 2, joins: joins, laneCount: 4, seed: 1)
            let basis = GenerationBasis(mark: 9, follows: [GenerationBasis.Followed(view)], left: [])
            let first = GenerationProposal(view: view, basis: basis, reason: "")
            _ = machine.handle(.announced(first), now: start)
            _ = machine.handle(.opened(3), now: start)
            _ = machine.handle(.coordinator(isPresent: false), now: start)
            _ = machine.handle(.lost(3, member: 0, reason: "lost"), now: start)
            #expect((machine.deadline == nil) == joins)
            // What it commits with the state makes it one of them.
            _ = machine.handle(.committed(3), now: start)
            #expect(machine.deadline != nil)
        }
    }

    @Test func whatNeverTookEffectHoldsNobodyUpWhoJoins() {
        var mine = view
        mine.mark = 5
        let basis = GenerationBasis(mark: 7, follows: [GenerationBasis.Followed(view)], left: [])
        let next = GenerationView(number: 4, mark: 7, members: view.members, joiners: [2, 3])
        let proposal = GenerationProposal(view: next, basis: basis, reason: "")
        for joins in [true, false] {
            var knowledge = MembershipKnowledge(member: 2, joins: joins)
            knowledge.candidates = [mine]
            #expect((MembershipRules.object(proposal, knowledge, 4) == nil) == joins)
        }
    }
}
