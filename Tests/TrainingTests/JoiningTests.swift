import Basics
import Testing

@testable import Training

/// A lone member: what it exchanges is written down, and its state is copied before one of the operations.
private final class RecordingExchange: GradientExchange {
    let lanes: LaneSet
    let copiesBefore: Int
    private(set) var operations: [(values: [Double], sum: [Float])] = []
    private(set) var copy: StateCopy?

    init(laneCount: Int, copiesBefore: Int) {
        lanes = LaneSet(0..<laneCount)
        self.copiesBefore = copiesBefore
    }

    var wantsState: Bool { operations.count == copiesBefore && copy == nil }
    func take(state: StateCopy) throws { copy = state }

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        _ = sum.update(fromContentsOf: contributions[0].values)
        operations.append((laneValues, Array(sum)))
        return .committed
    }
}

/// A member that joins: it hears what the other one exchanged, and has the state from some operation on.
private final class HearingExchange: GradientExchange {
    var lanes: LaneSet { hasCaughtUp ? everything : LaneSet() }
    let everything: LaneSet
    let heard: [(values: [Double], sum: [Float])]
    let state: CheckpointState
    /// The operation before which the state has come.
    let arrives: UInt64
    private(set) var next: UInt64
    private(set) var waited: UInt64?
    private(set) var hasCaughtUp = false

    /// - Parameter works: gets all lanes once it has caught up.
    init(_ other: RecordingExchange, from first: UInt64, arrives: UInt64, works: Bool) throws {
        everything = works ? other.lanes : LaneSet()
        heard = other.operations
        state = try CheckpointState.read(files: try #require(other.copy).files())
        (next, self.arrives) = (first, arrives)
    }

    func takeState(waits: Bool) throws -> CheckpointState? {
        if waits { waited = next }
        return waits || next >= arrives ? state : nil
    }
    func didCatchUp() { hasCaughtUp = true }

    func exchange(
        operation: UInt64,
        contributions: [Contribution],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        settles: Bool
    ) throws -> ExchangeOutcome {
        #expect(operation == next)
        let theirs = heard[Int(operation)]
        if let own = contributions.first {
            #expect(Array(own.values) == theirs.sum)
            #expect(laneValues == theirs.values)
        }
        laneValues = theirs.values
        _ = sum.update(fromContentsOf: theirs.sum)
        next += 1
        return .committed
    }
}

/// A member that comes while the others are at work.
@Suite(.timeLimit(.minutes(5))) struct JoiningTests {
    private func join(
        _ record: RunRecord,
        before operation: Int,
        arrives: UInt64,
        works: Bool = false,
        room: Int = 1 << 30
    ) throws -> (HearingExchange, same: Bool) {
        let samples = Made.flat()
        let recording = RecordingExchange(laneCount: 4, copiesBefore: operation)
        let whole = try Made.train(record, samples, exchange: recording)
        let standing = try Standing(reading: try #require(recording.copy).standing)
        #expect(standing.nextOperation == UInt64(operation))
        let hearing = try HearingExchange(
            recording,
            from: standing.nextOperation,
            arrives: arrives,
            works: works
        )
        let joined = try Made.train(record, samples, exchange: hearing, standing: standing, room: room)
        #expect(hearing.hasCaughtUp)
        let same = joined.checkpoints.last?.files.map(\.bytes) == whole.checkpoints.last?.files.map(\.bytes)
        return (hearing, same)
    }

    @Test(arguments: [0, 1, 5, 9], [0, 1, 7, 1000] as [UInt64])
    func whoHearsTheSumsEndsWithTheSameBits(operation: Int, later: UInt64) throws {
        var record = Made.record(model: Made.mlp, epochs: 4)
        record.spec.averaging = 0.9
        let (hearing, same) = try join(record, before: operation, arrives: UInt64(operation) + later)
        #expect(same)
        // No checkpoint can be made without the state.
        if later <= 1 { #expect(hearing.waited == nil) }
        if later == 1000 { #expect(hearing.waited != nil) }
    }

    @Test func whoHasCaughtUpComputesWhatTheOthersCompute() throws {
        #expect(try join(Made.record(model: Made.mlp), before: 3, arrives: 9, works: true).same)
    }

    @Test func aBacklogWithoutRoomWaitsForTheState() throws {
        let (hearing, same) = try join(Made.record(model: Made.mlp), before: 3, arrives: 1000, room: 20_000)
        #expect(same)
        let waited = try #require(hearing.waited)
        #expect((4...12).contains(waited))
    }

    @Test func theStateOfAnotherOperationIsRefused() throws {
        let record = Made.record(model: Made.mlp)
        let samples = Made.flat()
        let (early, late) = (
            RecordingExchange(laneCount: 4, copiesBefore: 3), RecordingExchange(laneCount: 4, copiesBefore: 4)
        )
        _ = try Made.train(record, samples, exchange: early)
        _ = try Made.train(record, samples, exchange: late)
        let standing = try Standing(reading: try #require(early.copy).standing)
        let hearing = try HearingExchange(late, from: 3, arrives: 5, works: false)
        let error = #expect(throws: TrainingError.self) {
            try Made.train(record, samples, exchange: hearing, standing: standing)
        }
        #expect(error?.message.contains("operation 4, not 3") == true)
        #expect(throws: TrainingError.self) { try Standing(reading: "{}") }
    }
}
