internal import Basics
internal import Tensors
internal import Training

/// What one step of a benchmark trains.
struct Workload {
    /// The model by name and parameters.
    var model: TypedSpec
    /// Shape of one sample; `[T]` for tokens.
    var shape: [Int]
    var classes = 10
    var takesTokens = false
    var batch = 64
    var optimizer = TypedSpec(type: "adamw")
    var precision: Precision?

    private static let momentum = TypedSpec(
        type: "sgd",
        parameters: ["learning_rate": .number(0.01), "momentum": .number(0.9)]
    )

    /// By the name that the scripts beside this suite give.
    static let all: [String: Workload] = [
        "simple_cnn": Workload(
            model: TypedSpec(type: "simple_cnn"),
            shape: [1, 28, 28],
            optimizer: momentum
        ),
        "mlp": Workload(
            model: TypedSpec(type: "mlp", parameters: ["hidden": .list([.integer(512), .integer(256)])]),
            shape: [784],
            optimizer: momentum
        ),
        "gpt": Workload(
            model: TypedSpec(
                type: "gpt",
                parameters: ["layers": .integer(4), "heads": .integer(4), "features": .integer(128)]
            ),
            shape: [64],
            classes: 65,
            takesTokens: true,
            batch: 12
        ),
        "resnet18": Workload(
            model: TypedSpec(type: "resnet18", parameters: ["stem": .text("cifar")]),
            shape: [3, 32, 32],
            optimizer: momentum
        ),
        "resnet18-bf16": Workload(
            model: TypedSpec(type: "resnet18", parameters: ["stem": .text("cifar")]),
            shape: [3, 32, 32],
            optimizer: momentum,
            precision: .bf16
        ),
        "mobilenet_v2": Workload(
            model: TypedSpec(type: "mobilenet_v2"),
            shape: [3, 64, 64],
            optimizer: momentum
        ),
        // The two of train-vs-ddp.py.
        "mlp-784-512-256-10": Workload(
            model: TypedSpec(type: "mlp", parameters: ["hidden": .list([.integer(512), .integer(256)])]),
            shape: [784]
        ),
        "simple_cnn-1x28x28": Workload(model: TypedSpec(type: "simple_cnn"), shape: [1, 28, 28]),
    ]

    /// - Throws: ``TrainingError`` `.badSpec` for a name that is not among ``all``.
    static func named(_ name: String) throws -> Workload {
        guard let workload = all[name] else {
            throw TrainingError(.badSpec, "no workload \(name)", hint: "one of \(all.keys.sorted())")
        }
        return workload
    }

    /// The kernel set that OpenBLAS runs in this process.
    ///
    /// - Throws: ``TrainingError`` `.badSpec` when it is none of ours.
    static func kernels() throws -> KernelSet {
        guard let kernels = BLAS.kernelsInForce else {
            throw TrainingError(
                .badSpec,
                "OpenBLAS runs the \(BLAS.coreName) kernels, which are no set of ours",
                hint: "set OPENBLAS_CORETYPE to Nehalem, Haswell or SkylakeX"
            )
        }
        return kernels
    }

    /// What `lanes: auto` is: the most, up to 16, that leave 32 samples a lane.
    var automaticLanes: Int { [16, 8, 4, 2].first { batch % $0 == 0 && batch / $0 >= 32 } ?? 1 }

    /// One epoch at a constant rate.
    func record(lanes: Int, kernels: KernelSet) -> RunRecord {
        RunRecord(
            spec: RunSpec(
                name: "bench",
                model: model,
                epochs: 1,
                batch: batch,
                lanes: lanes,
                optimizer: optimizer,
                schedule: TypedSpec(type: "constant"),
                precision: precision
            ),
            dataset: Digest(of: "noise"),
            kernels: kernels,
            worker: Digest(of: "bench")
        )
    }
}
