import Basics
import Tensors
import Testing

@testable import Training

@Suite struct MemoryTests {
    private static let models: [(name: String, spec: TypedSpec, shape: [Int])] = [
        ("mlp", Made.mlp, [20]), ("cnn", Made.cnn, [2, 9, 8]),
        ("tiny_net", TypedSpec(type: "tiny_net", parameters: ["width": .integer(4)]), [3, 16, 16]),
        (
            "resnet18",
            TypedSpec(type: "resnet18", parameters: ["width": .integer(4), "stem": .text("cifar")]),
            [3, 16, 16]
        ),
        (
            "mobilenet_v2",
            TypedSpec(type: "mobilenet_v2", parameters: ["stem": .text("cifar"), "dropout": .number(0.2)]),
            [3, 16, 16]
        ),
        (
            "vit_tiny",
            TypedSpec(
                type: "vit_tiny",
                parameters: [
                    "layers": .integer(2), "heads": .integer(2), "features": .integer(16),
                    "dropout": .number(0.1),
                ]
            ), [3, 16, 16]
        ),
        (
            "gpt",
            TypedSpec(
                type: "gpt",
                parameters: [
                    "layers": .integer(3), "heads": .integer(2), "features": .integer(16),
                    "dropout": .number(0.1),
                ]
            ), [8]
        ),
    ]

    private func fill(_ workspace: Workspace, _ model: Model, count: Int) {
        let random = RandomSource(seed: 3)
        for position in 0..<count {
            for place in workspace.raw.indices {
                let bits = random.block(.order, step: position, position: place)[0]
                workspace.raw[place] =
                    model.takesTokens ? Float(bits % UInt32(model.classCount)) : RandomSource.unit(bits)
            }
            let channels = model.inputShape.count == 3 ? model.inputShape[0] : 1
            workspace.accept(
                position: position,
                count: count,
                mean: [Float](repeating: model.takesTokens ? 0 : 0.5, count: channels),
                deviation: [Float](repeating: model.takesTokens ? 1 : 0.3, count: channels)
            )
            workspace.setTargets(position: position, label: position % model.classCount)
        }
    }

    /// Whatever lies where: the same loss and the same bits of every gradient, and of every logit.
    @Test(arguments: Self.models.indices)
    func computingAgainAndSharingMemoryChangeNoBit(index: Int) throws {
        try BLAS.pinToOneThread()
        let (name, spec, shape) = Self.models[index]
        let kernels = try Kernels(Made.kernels)
        let model = try Model(spec, inputShape: shape, classCount: 5)
        let weights = FloatArena(count: model.parameterCount)
        model.initialize(weights.pointer, seed: 1)
        var found: [(loss: Double, gradient: [Float])] = []
        for recomputes in [false, true] {
            let workspace = Workspace(
                model: model,
                kernels: kernels,
                capacity: 9,
                trains: true,
                recomputes: recomputes
            )
            let gradient = FloatArena(count: model.parameterCount)
            // A full and a smaller pass: what the first leaves behind must not show.
            for count in [9, 8] {
                fill(workspace, model, count: count)
                let pass = TrainingPass(
                    gradients: gradient.pointer,
                    random: RandomSource(seed: 2),
                    step: 4,
                    position: 16
                )
                let loss = FloatMode.withDeterministicMode {
                    workspace.train(count: count, weights: weights.pointer, pass).loss
                }
                found.append((loss, Array(gradient.buffer)))
            }
        }
        #expect(found[0].loss == found[2].loss && found[0].gradient == found[2].gradient, "\(name)")
        #expect(found[1].loss == found[3].loss && found[1].gradient == found[3].gradient, "\(name)")

        let training = WorkspaceLayout(model: model, capacity: 9, purpose: .training)
        let again = WorkspaceLayout(model: model, capacity: 9, purpose: .recomputing)
        let evaluation = WorkspaceLayout(model: model, capacity: 9, purpose: .evaluation)
        #expect(again.bytes <= training.bytes && evaluation.bytes < training.bytes)
        if model.nodes.count > 12 {
            #expect(again.segments.count > 1 && again.count < training.count, "\(name)")
        }

        let sharing = Workspace(model: model, kernels: kernels, capacity: 9, trains: false)
        let keeping = Workspace(model: model, kernels: kernels, capacity: 9, trains: true)
        for workspace in [sharing, keeping] { fill(workspace, model, count: 7) }
        let logits = FloatMode.withDeterministicMode {
            [sharing, keeping].map { $0.predict(count: 7, weights: weights.pointer) }
        }
        #expect(logits[0] == logits[1], "\(name)")
    }

    @Test func aRunThatComputesAgainEndsWithTheSameWeights() throws {
        try BLAS.pinToOneThread()
        let record = Made.record(model: TypedSpec(type: "tiny_net", parameters: ["width": .integer(4)]))
        let plain = try Made.train(record, Made.images())
        for fit in [
            MemoryFit(recomputes: true), MemoryFit(sharesLanes: true),
            MemoryFit(sharesLanes: true, recomputes: true),
        ] {
            let recorder = Recorder()
            try TrainingLoop(
                preparedRecord: record,
                samples: Made.images(),
                exchange: SoloExchange(laneCount: 4),
                laneThreads: 2,
                observer: recorder,
                resume: nil,
                start: nil,
                fit: fit
            ).run()
            #expect(recorder.weights == plain.weights)
        }
    }

    private func spec(lanes: Int = 4, batch: Int = 128) -> RunSpec {
        Made.record(
            model: TypedSpec(type: "resnet18", parameters: ["width": .integer(16), "stem": .text("cifar")]),
            batch: batch,
            lanes: lanes
        ).spec
    }

    private func fit(_ limit: Int, _ policy: MemoryPolicy, threads: Int = 4) throws -> MemoryPlan {
        try MemoryPlan.fit(
            spec(),
            shape: [3, 32, 32],
            classCount: 10,
            terms: .init(data: 1 << 20, isShared: false),
            threads: threads,
            limit: limit,
            policy: policy
        )
    }

    /// With less and less memory: first threads share a lane, then activations are computed again, then the number.
    @Test func theFastestWayThatFitsIsTaken() throws {
        let all = try fit(.max, .refuse)
        #expect(all.abreast == 4 && all.fit == MemoryFit())
        #expect(all.parts.map(\.bytes) == all.parts.map(\.bytes).sorted(by: >))
        var seen: [MemoryFit] = []
        var limit = all.total
        while let plan = try? fit(limit, .auto) {
            #expect(plan.total <= limit)
            seen.append(plan.fit)
            limit = plan.total - 1
        }
        // Computing again with all lanes at a time needs more than sharing: it is never the way.
        #expect(
            seen == [
                MemoryFit(), MemoryFit(sharesLanes: true), MemoryFit(sharesLanes: true, recomputes: true),
            ]
        )
        // With one thread there is nothing to share.
        let one = try fit(.max, .auto, threads: 1)
        #expect(try fit(one.total - 1, .auto, threads: 1).fit.recomputes)
        let refused = #expect(throws: TrainingError.self) { try fit(all.total - 1, .refuse) }
        #expect(refused?.code == .noMemory && refused?.exitCode == .failed)
        #expect(refused?.message.hasPrefix("the run needs \(ByteCount(all.total)) (") == true)
        #expect(refused?.hint?.contains("memory: auto") == true)
        let hopeless = #expect(throws: TrainingError.self) { try fit(limit, .auto) }
        #expect(hopeless?.message.hasPrefix("the run needs \(ByteCount(limit + 1)) (") == true)
    }

    @Test func morePartsNeedMore() throws {
        func total(_ change: (inout RunSpec) -> Void, shared: Bool = false) throws -> Int {
            var spec = spec()
            change(&spec)
            return try MemoryPlan(
                spec,
                shape: [3, 32, 32],
                classCount: 10,
                terms: .init(data: 0, isShared: shared),
                threads: 2,
                fit: MemoryFit()
            ).total
        }
        let plain = try total { _ in }
        #expect(try total { $0.averaging = 0.9 } > plain)
        #expect(try total({ _ in }, shared: true) > plain)
        #expect(try total { $0.batch = 256 } > plain)
        #expect(try total { $0.accumulate = 2 } < plain)
        #expect(try total { $0.optimizer = TypedSpec(type: "sgd") } < plain)
    }
}
