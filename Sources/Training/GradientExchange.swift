public import Basics
internal import Tensors

/// How one exchange ended.
public enum ExchangeOutcome: Sendable, Equatable {
    /// Every member holds the same sum and goes on.
    case committed
    /// The membership changed before the sum was safe: compute the lanes of ``GradientExchange/lanes`` that are
    /// still missing for this very operation, and call again.
    case retry
}

/// A lane subtree's sum, as one member contributes it.
public struct Contribution {
    /// The lanes that were summed, along the lane tree.
    public var subtree: LaneSubtree
    /// The sum, `[N]`; must stay as it is until the exchange returns.
    public var values: UnsafeBufferPointer<Float>

    /// A subtree and its values.
    public init(subtree: LaneSubtree, values: UnsafeBufferPointer<Float>) {
        self.subtree = subtree
        self.values = values
    }
}

/// How the members of a run add up what their lanes computed; implemented by the agent over `Collectives`.
///
/// All members call ``exchange(operation:contributions:laneValues:sum:settles:)`` with the same sequence of operations:
/// 0, 1, 2, … counting training steps and evaluations alike. An operation is a transaction: it is committed on all
/// members or on none.
public protocol GradientExchange: AnyObject {
    /// The lanes this member computes now; changes only inside `exchange`.
    var lanes: LaneSet { get }

    /// True once a lane that this member computes was given to somebody else.
    ///
    /// From any thread, also while the lane is computed; costs a lock.
    func hasMoved(lane: Int) -> Bool

    /// Leaves the operation for the generation that gave lanes of this member to others: then ``lanes`` are those to
    /// compute for this very operation.
    ///
    /// - Throws: as ``exchange(operation:contributions:laneValues:sum:settles:)``.
    func moveOn() throws

    /// True when a member that joined waits for the state as it stands before the next operation.
    var wantsState: Bool { get }

    /// Takes that state.
    func take(state: StateCopy) throws

    /// The state that this member joined without; nil while it is on its way.
    ///
    /// - Parameter waits: until it has come.
    /// - Throws: when the run can't go on, or when joining has to begin anew.
    func takeState(waits: Bool) throws -> CheckpointState?

    /// Hears that this member holds what the others hold, and can compute lanes.
    func didCatchUp()

    /// Memory for gradients and sums that the exchange need not copy; nil where any memory is as good.
    ///
    /// On a 64-byte boundary, undefined contents; used until the loop ends, then given back by ``giveBack(_:)``.
    func takeMemory(count: Int) -> UnsafeMutableBufferPointer<Float>?

    /// Takes back what ``takeMemory(count:)`` gave.
    func giveBack(_ memory: UnsafeMutableBufferPointer<Float>)

    /// Bytes that went to other members so far.
    var bytesSent: Int { get }

    /// How many operations the last committed call was: more than one where a sum takes several.
    var lastOperations: UInt64 { get }

    /// Begins an operation whose contributions are still computed; ``exchange(operation:contributions:laneValues:sum:settles:)``
    /// with the same ones ends it.
    ///
    /// - Parameters:
    ///   - buckets: in which ranges they become final, in this order: a function of the model, the same for all members.
    ///   - width: W of the lanes' rows.
    /// - Returns: false when all is to be given at once.
    /// - Precondition: after true, contributions and sum stay where they are until the operation has ended.
    func begin(
        operation: UInt64,
        contributions: [Contribution],
        buckets: [Range<Int>],
        width: Int,
        sum: UnsafeMutableBufferPointer<Float>
    ) -> Bool

    /// Tells that the contributions are final in the first buckets; from any thread.
    func give(buckets: Int)

    /// Gives up for good, in an operation that was begun: nobody reads the contributions afterwards.
    func abandon()

    /// Adds up one operation over all lanes of the run and commits it.
    ///
    /// - Parameters:
    ///   - operation: the number of the operation, one more than the last committed one.
    ///   - contributions: exactly the subtrees of `lanes` (`LaneSet.subtrees(laneCount:)`), each `[N]`; N may be 0.
    ///   - laneValues: `[laneCount × W]`, row i for lane i: in: the rows of this member's lanes are filled;
    ///     on `.committed` all rows are.
    ///   - sum: `[N]`: on `.committed` the tree sum over all lanes. On `.retry` its contents are undefined,
    ///     and it must not be touched between the calls.
    ///   - settles: where values lose something on their way, nothing may be left behind: this operation is exact and
    ///     carries all that earlier ones lost.
    /// - Returns: whether the operation is committed.
    /// - Throws: when the run can't go on (stopped, expelled, links gone for good).
    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome
}

extension GradientExchange {
    /// Nobody else is there.
    public var bytesSent: Int { 0 }

    /// One.
    public var lastOperations: UInt64 { 1 }

    /// False: all is given at once.
    public func begin(
        operation: UInt64,
        contributions: [Contribution],
        buckets: [Range<Int>],
        width: Int,
        sum: UnsafeMutableBufferPointer<Float>
    ) -> Bool { false }

    /// Never called while nothing is begun.
    public func give(buckets: Int) { preconditionFailure("nothing was begun") }

    /// Never called while nothing is begun.
    public func abandon() { preconditionFailure("nothing was begun") }

    /// False: nobody else is there.
    public func hasMoved(lane: Int) -> Bool { false }

    /// Never called while lanes stay.
    public func moveOn() throws { preconditionFailure("lanes moved without anybody to take them") }

    /// False: nobody joins.
    public var wantsState: Bool { false }

    /// None: any memory is as good.
    public func takeMemory(count: Int) -> UnsafeMutableBufferPointer<Float>? { nil }

    /// Never called while none was given.
    public func giveBack(_ memory: UnsafeMutableBufferPointer<Float>) {
        preconditionFailure("nobody took this memory")
    }

    /// An arena of the exchange's memory, or of any.
    func makeArena(count: Int) -> FloatArena {
        guard count > 0, let memory = takeMemory(count: count) else { return FloatArena(count: count) }
        return FloatArena(taking: memory) { self.giveBack(memory) }
    }

    /// Never called while nobody joins.
    public func take(state: StateCopy) throws { preconditionFailure("nobody asked for the state") }

    /// Never called while nobody joins.
    public func takeState(waits: Bool) throws -> CheckpointState? { nil }

    /// Never called while nobody joins.
    public func didCatchUp() {}
}

/// The exchange of a run with one member: adds the subtrees it is given.
public final class SoloExchange: GradientExchange {
    /// All lanes.
    public let lanes: LaneSet

    /// - Parameter laneCount: the lanes of the run.
    public init(laneCount: Int) { lanes = LaneSet(0..<laneCount) }

    /// Copies the one contribution, the whole tree.
    public func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        precondition(contributions.count == 1, "a lone member holds the whole tree")
        _ = sum.update(fromContentsOf: contributions[0].values)
        return .committed
    }
}
