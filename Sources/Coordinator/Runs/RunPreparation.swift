public import Basics
public import ClusterFile
internal import ContentStore
public import Datasets
internal import Registry

extension ClusterFile {
    /// How a dataset is cut for the file's run: as the file says, else as suits the kind of dataset.
    public func split(of dataset: Dataset) -> SplitSpec {
        var split = run?.split ?? SplitSpec()
        if places["run.split.validation"] == nil {
            split.validation = Split.usualValidation(dataset.index.kind)
        }
        return split
    }
}

/// Turns a cluster file's run into a record, with every check that needs the data or the hosts.
struct RunPreparation: Sendable {
    let file: ClusterFile
    let store: ChunkStore
    let registry: Registry
    /// The best kernel set of each training host.
    let kernels: [(host: String, kernels: KernelSet?)]
    let worker: Digest

    /// Reads the dataset and checks the run against it.
    ///
    /// - Throws: ``CoordinatorError``, `ClusterFileError`, `DatasetError`: all 65.
    func prepare() throws -> PreparedRun {
        guard var spec = file.run else {
            throw CoordinatorError("\(file.path): there is no run: in it", exitCode: .badInput)
        }
        guard spec.engine == .native else {
            throw CoordinatorError(
                "\(file.path): engine \(spec.engine.rawValue) can't train yet",
                hint: "use engine: native",
                exitCode: .badInput
            )
        }
        let dataset = try findDataset()
        // A letter that ends no window of a text is still a letter of it.
        let counts = dataset.index.kind == .text ? [] : dataset.index.classCounts
        let empty = zip(dataset.classes, counts).filter { $0.1 == 0 }.map(\.0)
        guard empty.isEmpty else {
            throw CoordinatorError(
                "dataset \(dataset.name): no sample of class \(empty.joined(separator: ", "))",
                hint:
                    "coord data check \(dataset.name) lists the classes; add samples or leave the class out",
                exitCode: .badInput
            )
        }
        guard spec.sampling != .balanced || dataset.index.kind != .text else {
            throw CoordinatorError(
                "\(file.path): sampling: balanced: \(dataset.name) is a text, which has no classes to balance",
                hint: "use sampling: uniform",
                exitCode: .badInput
            )
        }
        spec.split = file.split(of: dataset)
        let split = try Split.make(dataset, spec.split)
        guard !split.training.isEmpty, !split.validation.isEmpty else {
            throw CoordinatorError(
                "dataset \(dataset.name): \(split.training.count) training and \(split.validation.count) validation samples",
                hint: "change run.split so that both have some",
                exitCode: .badInput
            )
        }
        let schedule = LaneSchedule(
            dataset: dataset,
            training: split.training,
            laneCount: spec.lanes,
            batch: spec.batch,
            seed: spec.seed
        )
        try file.checkAgainst(stepsPerEpoch: schedule.stepsPerEpoch)
        if spec.exchange?.kind == .diloco, spec.exchange?.islands == nil {
            spec.exchange?.islands = Self.islands(lanes: spec.lanes, workers: workers)
        }
        let record = RunRecord(spec: spec, dataset: dataset.id, kernels: try chooseKernels(), worker: worker)
        return PreparedRun(
            record: record,
            stepsPerEpoch: schedule.stepsPerEpoch,
            trainingSamples: split.training.count,
            validationSamples: split.validation.count
        )
    }

    private var workers: Int { file.hosts.filter(\.trains).reduce(0) { $0 + $1.workers } }

    /// One island a worker, as far as the lanes can be cut into a power of two of them.
    static func islands(lanes: Int, workers: Int) -> Int {
        var islands = 1
        while islands * 2 <= min(lanes, workers) { islands *= 2 }
        return islands
    }

    private func findDataset() throws -> Dataset {
        guard let name = file.dataset else {
            throw CoordinatorError("\(file.path): no dataset: given for the run", exitCode: .badInput)
        }
        if let row = try registry.read({ try $0.dataset(named: name) }) {
            return try Dataset(store: store, manifest: row.manifest)
        }
        let known = try registry.read { try $0.datasets().map(\.name) }
        throw CoordinatorError(
            "no dataset \(name); there is \(known.isEmpty ? "none yet" : known.joined(separator: ", "))",
            hint: name == "digits" ? "coord data get digits" : "coord data add \(name) PATH",
            exitCode: .badInput
        )
    }

    /// The best set that all hosts have, or the pinned one if all have it.
    private func chooseKernels() throws -> KernelSet {
        for (host, kernels) in kernels {
            guard let kernels else {
                throw CoordinatorError("\(host): its CPU has none of our kernel sets", exitCode: .unreachable)
            }
            if let pinned = file.kernels, kernels < pinned {
                throw CoordinatorError(
                    "\(host) has kernels up to \(kernels.rawValue), the run pins \(pinned.rawValue)",
                    hint: "pin \(kernels.rawValue), or take the host out of the run",
                    exitCode: .badInput
                )
            }
        }
        return file.kernels ?? kernels.compactMap(\.kernels).min() ?? .v2
    }
}
