import Basics
import Synchronization
import Testing

@testable import Training

/// Samples that keep what was announced and what was read.
private final class Announced: SampleSource {
    /// A sample, and the step and place it is trained on at; -1 for validation.
    struct Place: Hashable {
        var index: Int
        var step = -1
        var position = -1
    }

    private let base: MadeSamples
    private let seen = Mutex<(expected: [Place: Int], early: [Place])>(([:], []))

    init(_ base: MadeSamples) { self.base = base }

    var shape: [Int] { base.shape }
    var classes: [String] { base.classes }
    var stepsPerEpoch: Int { base.stepsPerEpoch }
    var trainingIndices: [Int] { base.trainingIndices }
    var validationIndices: [Int] { base.validationIndices }
    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        base.microbatch(lane: lane, epoch: epoch, step: step)
    }
    func label(_ index: Int) -> Int { base.label(index) }

    /// Announced, and not read since.
    var idle: Set<Place> { seen.withLock { Set($0.expected.filter { $0.value > 0 }.keys) } }
    /// Read without having been announced.
    var early: Set<Place> { seen.withLock { Set($0.early) } }

    private func announce(_ places: [Place]) {
        seen.withLock { for place in places { $0.expected[place, default: 0] += 1 } }
    }

    private func note(_ place: Place) {
        seen.withLock { seen in
            if seen.expected[place, default: 0] > 0 {
                seen.expected[place, default: 0] -= 1
            } else {
                seen.early.append(place)
            }
        }
    }

    func expect(lanes: [Int], epoch: Int, step: Int, globalStep: Int) {
        let share = base.batch / base.lanes
        announce(
            lanes.flatMap { lane in
                microbatch(lane: lane, epoch: epoch, step: step).enumerated().map {
                    Place(index: $1, step: globalStep, position: lane * share + $0)
                }
            }
        )
    }

    func expect(_ indices: ArraySlice<Int>) { announce(indices.map { Place(index: $0) }) }

    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
        // What is measured before the first step is not validation.
        if index >= trainingIndices.count { note(Place(index: index)) }
        base.read(index, into: target)
    }

    func read(_ index: Int, step: Int, position: Int, into target: UnsafeMutableBufferPointer<Float>) {
        note(Place(index: index, step: step, position: position))
        base.read(index, into: target)
    }
}

@Suite struct AnnouncementTests {
    /// Behind the first step everything is announced before it is read, once, and nothing in vain; with and without validation.
    @Test(arguments: [1, 4], [0, 20, 1500])
    func whatIsReadWasAnnounced(threads: Int, validation: Int) throws {
        let record = Made.record(model: Made.mlp, epochs: 3)
        let samples = Announced(
            MadeSamples(
                shape: [20],
                training: 203,
                validation: validation,
                batch: record.spec.batch,
                lanes: record.spec.lanes
            )
        )
        try Made.train(record, samples, threads: threads)
        let early = samples.early
        #expect(early.count { $0.step == 0 } == record.spec.batch)
        // And the examples of a checkpoint, the first 16.
        let examples = early.filter { $0.step != 0 }
        #expect(examples.allSatisfy { $0.step == -1 && $0.index < 203 + 16 })
        #expect(samples.idle.isEmpty)
    }
}
