import Basics
import Testing

@testable import Collectives
@testable import Coordinator

/// The simulator is worth what it finds: each kind of mistake, planted in the place of one decision, must be found.
@Suite(.timeLimit(.minutes(20)))
struct PlantedBugTests {
    enum Bug: String, CaseIterable, CustomTestStringConvertible {
        case majorityOffByOne, staleFrameAccepted, laneAssignedTwice, readyCountedTwice
        case commitBeforeAllReady, retainedResultLost, coordinatorDoesNotReconcile, coordinatorCountsNobody
        case joinsWithoutState

        var testDescription: String { rawValue }

        /// Seeds within which it is found; measured, with room for other seeds.
        var limit: Int {
            switch self {
            case .majorityOffByOne, .coordinatorCountsNobody: 2_000
            case .coordinatorDoesNotReconcile: 5_000
            default: 500
            }
        }

        var harness: Harness {
            var harness = Harness()
            switch self {
            case .majorityOffByOne:
                // Half is taken for a majority, whoever holds lane 0.
                let half: @Sendable (GenerationView, Set<Int>, Set<Int>) -> Bool = { view, some, left in
                    let counted = view.ids.subtracting(left)
                    return 2 * counted.intersection(some).count >= counted.count
                }
                harness.rules.elect = { MembershipRules.count($0, $1, isQuorum: half) }
                harness.rules.objection = { proposal, knowledge, _ in
                    proposal.view.number > knowledge.newest ? nil : "old"
                }
                harness.succession = Succession(isQuorum: half)
            case .joinsWithoutState: harness.waitsForState = false
            case .staleFrameAccepted: harness.accepts = { _, _ in true }
            case .laneAssignedTwice:
                harness.rules.elect = { ballot, votes in
                    guard case .proposal(var proposal) = MembershipRules.count(ballot, votes) else {
                        return MembershipRules.count(ballot, votes)
                    }
                    for index in proposal.view.members.indices {
                        proposal.view.members[index].lanes.bits |= 1
                    }
                    return .proposal(proposal)
                }
                harness.rules.objection = { proposal, knowledge, _ in
                    proposal.view.number > knowledge.newest ? nil : "old"
                }
            case .readyCountedTwice:
                // The own word is counted once when it is said and once when it is sent.
                harness.verdict = { ledger, readies in
                    readies + 1 >= ledger.readyDigests.count ? .commit : ledger.verdict
                }
            case .commitBeforeAllReady:
                harness.verdict = { ledger, _ in
                    2 * ledger.readyDigests.count { $0 != nil } > ledger.readyDigests.count
                        ? .commit : ledger.verdict
                }
            case .retainedResultLost:
                harness.keep = { state in
                    var state = state
                    state.ready = nil
                    return state
                }
            case .coordinatorDoesNotReconcile:
                harness.reconciles = false
                harness.rules.objection = { proposal, knowledge, laneCount in
                    // Members that trust whoever proposes.
                    proposal.view.number > knowledge.newest ? nil : "old"
                }
            case .coordinatorCountsNobody:
                harness.succession = Succession(isQuorum: { _, _, _ in true })
                harness.rules.objection = { proposal, knowledge, _ in
                    proposal.view.number > knowledge.newest ? nil : "old"
                }
            }
            return harness
        }
    }

    @Test(arguments: Bug.allCases)
    func isFound(bug: Bug) {
        let harness = bug.harness
        for seed in 1...bug.limit {
            if let violation = Schedule.play(seed: UInt64(seed), harness: harness).violation {
                print("\(bug): found by seed \(seed): \(violation)")
                return
            }
        }
        Issue.record("\(bug) was not found within \(bug.limit) seeds")
    }
}
