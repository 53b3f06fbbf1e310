internal import Basics
internal import Datasets
internal import Training

/// A dataset as one run sees it: split, cut into lanes, in the run's order.
struct DatasetSamples: SampleSource {
    let dataset: Dataset
    let split: Split
    let schedule: LaneSchedule

    /// - Throws: `DatasetError` when the split leaves nothing to train on.
    init(_ dataset: Dataset, _ spec: RunSpec) throws {
        self.dataset = dataset
        split = try Split.make(dataset, spec.split)
        schedule = LaneSchedule(
            dataset: dataset,
            training: split.training,
            laneCount: spec.lanes,
            batch: spec.batch,
            seed: spec.seed
        )
    }

    var shape: [Int] { dataset.shape }
    var classes: [String] { dataset.classes }
    var stepsPerEpoch: Int { schedule.stepsPerEpoch }
    var trainingIndices: [Int] { split.training }
    var validationIndices: [Int] { split.validation }

    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        schedule.microbatch(lane: lane, epoch: epoch, step: step)
    }

    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
        dataset.read(index, into: target)
    }

    func label(_ index: Int) -> Int { dataset.label(index) }
}
