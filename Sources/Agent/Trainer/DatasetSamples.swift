internal import Basics
internal import Datasets
internal import Training

/// A dataset as one run sees it: split, cut into lanes, in the run's order.
struct DatasetSamples: SampleSource {
    /// Samples that are made ready take no more; unit: bytes.
    private static let mostReady = 128 << 20

    let dataset: Dataset
    let split: Split
    let schedule: LaneSchedule
    private let spec: RunSpec
    private let augmentation: Augmentation
    /// Nil where samples only need to be copied.
    private let prefetcher: Prefetcher?

    /// - Parameter threads: that make samples ready, where that is work.
    /// - Throws: `DatasetError` when the split leaves nothing to train on, or `augment` does not fit the samples.
    init(_ dataset: Dataset, _ spec: RunSpec, threads: Int) throws {
        self.dataset = dataset
        self.spec = spec
        split = try Split.make(dataset, spec.split)
        schedule = LaneSchedule(
            dataset: dataset,
            training: split.training,
            laneCount: spec.lanes,
            batch: spec.batch,
            seed: spec.seed,
            sampling: spec.sampling ?? .uniform
        )
        let augmentation = try Augmentation(spec.augment ?? [], shape: dataset.shape, seed: spec.seed)
        self.augmentation = augmentation
        guard dataset.index.isEncoded || !augmentation.isEmpty else {
            prefetcher = nil
            return
        }
        let valueCount = dataset.shape.reduce(1, *)
        prefetcher = Prefetcher(
            valueCount: valueCount,
            room: Self.readyCount(spec, valueCount: valueCount),
            // Of validation each thread has a block in hand and the next one.
            announced: 2 * (spec.batch + threads * TrainingLoop.blockSize),
            threads: threads
        ) { key, target in
            dataset.read(key.sample, into: target)
            guard let place = key.place else { return }
            augmentation.apply(target, step: place.step, position: place.position)
        }
    }

    /// Samples of two steps or two blocks of validation, as far as they fit.
    private static func readyCount(_ spec: RunSpec, valueCount: Int) -> Int {
        min(2 * max(spec.batch, TrainingLoop.blockSize), max(1, mostReady / (4 * valueCount)))
    }

    /// What a dataset takes in memory with what is made ready of it; unit: bytes.
    static func size(_ dataset: Dataset, _ spec: RunSpec) -> Int {
        let valueCount = dataset.shape.reduce(1, *)
        let isMade =
            dataset.index.isEncoded || spec.augment?.contains { $0.type != Augmentation.mixup } == true
        // Id, label and places in lists of each sample; shards are read one by one.
        return dataset.byteCount + 64 * dataset.count
            + (isMade ? 4 * valueCount * readyCount(spec, valueCount: valueCount) : 0)
    }

    var shape: [Int] { dataset.shape }
    var unit: Float { dataset.shape.count == 3 && dataset.index.type == .uint8 ? 255 : 1 }
    var classes: [String] { dataset.classes }
    var stepsPerEpoch: Int { schedule.stepsPerEpoch }
    var trainingIndices: [Int] { split.training }
    var validationIndices: [Int] { split.validation }

    func microbatch(lane: Int, epoch: Int, step: Int) -> [Int] {
        schedule.microbatch(lane: lane, epoch: epoch, step: step)
    }

    func read(_ index: Int, into target: UnsafeMutableBufferPointer<Float>) {
        guard let decoder else { return dataset.read(index, into: target) }
        decoder.take(Prefetcher.Key(sample: index), into: target)
    }

    func read(_ index: Int, step: Int, position: Int, into target: UnsafeMutableBufferPointer<Float>) {
        guard let prefetcher else { return dataset.read(index, into: target) }
        let place = Prefetcher.Key.Place(step: step, position: position)
        prefetcher.take(Prefetcher.Key(sample: index, place: place), into: target)
    }

    /// The prefetcher, where it is work to read samples as they are.
    private var decoder: Prefetcher? { dataset.index.isEncoded ? prefetcher : nil }

    func expect(lanes: [Int], epoch: Int, step: Int, globalStep: Int) {
        guard let prefetcher else { return }
        let share = spec.batch / spec.lanes
        // The first samples of all lanes first, as the lanes are computed side by side.
        let batches = lanes.map { (lane: $0, samples: microbatch(lane: $0, epoch: epoch, step: step)) }
        prefetcher.expect(
            (0..<share).flatMap { place in
                batches.compactMap { lane, samples in
                    place < samples.count
                        ? Prefetcher.Key(
                            sample: samples[place],
                            place: .init(step: globalStep, position: lane * share + place)
                        ) : nil
                }
            }
        )
    }

    func expect(_ indices: ArraySlice<Int>) { decoder?.expect(indices.map { Prefetcher.Key(sample: $0) }) }

    func label(_ index: Int) -> Int { dataset.label(index) }

    func name(of index: Int) -> String { String(dataset.sampleIDs[index].description.prefix(16)) }
}
