import Basics
import Testing
import Wire

@testable import Coordinator

/// What the next generation must reckon with, from what members said.
@Suite struct SuccessionTests {
    /// A generation of some members, one lane each, after some others.
    private func plan(
        _ number: Int,
        _ members: [Int],
        after follows: [GenerationView]
    ) throws -> GenerationPlan {
        GenerationPlan(
            run: try #require(RunID("r1")),
            attempt: 1,
            number: number,
            members: members.map {
                GenerationPlan.Member(member: $0, host: "h\($0)", address: "x:\($0)", lanes: LaneSet([$0]))
            },
            writers: [],
            secret: WireSecret([]),
            basis: GenerationBasis(
                mark: UInt64(100 + number),
                follows: follows.map { GenerationBasis.Followed($0) },
                left: []
            )
        )
    }

    /// The members that may be at work after generation 1 of four, as the coordinator knows it.
    private func bodies(_ succession: Succession) -> [[Int]] {
        succession.basis(mark: 0).bodies.map { $0.ids.sorted() }
    }

    private func begun() throws -> (Succession, GenerationView) {
        var succession = Succession()
        let first = try plan(1, [0, 1, 2, 3], after: [])
        succession.proposed(first)
        return (succession, first.view)
    }

    /// Found by the simulator: 1 and 3 waited for ever for those who had died.
    @Test func whoDiedBeforeAProposalWasKnownNeverAcceptedIt() throws {
        var (succession, first) = try begun()
        succession.note(.exited(ProcessEnd(.signalled(9))), of: 0)
        let second = try plan(2, [0, 2], after: [first])
        succession.note(.accepted(second, reason: ""), of: 2)
        #expect(bodies(succession) == [[0, 1, 2, 3]])
        #expect(succession.shortage(of: [1, 3]) == nil)
    }

    @Test func whoAcceptedAProposalBeforeItDiedMayHaveWorkedInIt() throws {
        var (succession, first) = try begun()
        let second = try plan(2, [0, 2], after: [first])
        succession.note(.accepted(second, reason: ""), of: 0)
        succession.note(.exited(ProcessEnd(.signalled(9))), of: 0)
        #expect(bodies(succession) == [[0, 1, 2, 3], [0, 2]])
        #expect(succession.shortage(of: [1, 3]) != nil)
    }

    @Test func whoPromisedANumberToOthersMayStillAcceptTheirProposal() throws {
        var (succession, first) = try begun()
        let announced = try plan(2, [2, 3], after: [first])
        succession.proposed(announced)
        let theirs = try plan(3, [1, 3], after: [first])
        succession.note(.accepted(theirs, reason: ""), of: 1)
        let mark = announced.view.mark
        succession.note(.refused(generation: 2, mark: mark, promised: 3, reason: ""), of: 3)
        #expect(bodies(succession) == [[0, 1, 2, 3], [1, 3]])
        succession.note(.refused(generation: 2, mark: mark, promised: 4, reason: ""), of: 3)
        #expect(bodies(succession) == [[0, 1, 2, 3]])
    }
}
