internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import Coordinator
internal import Datasets
internal import Registry

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Runs: list, show, follow, stop, resume.",
        subcommands: [List.self, Show.self, Attach.self, Stop.self, Resume.self, Submit.self, Logs.self],
        defaultSubcommand: List.self
    )

    struct List: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "All runs.",
            discussion: "Example: coord run list --json"
        )
        @OptionGroup var common: CommonOptions

        func perform(_ console: Console) throws {
            let (runs, summaries) = try common.registry().read { snapshot in
                let runs = try snapshot.runs()
                return (runs, try runs.map { try snapshot.summary(of: $0.id) })
            }
            if console.isJSON { return summaries.forEach { console.json($0) } }
            console.table(
                [["RUN", "NAME", "STATE", "EPOCH", "STEPS", "GENERATIONS", "WEIGHTS"]]
                    + runs.map {
                        [
                            "\($0.id)", $0.name, $0.state.rawValue, "\($0.epoch)", "\($0.steps)",
                            "\($0.generations)",
                            $0.weights?.short ?? "-",
                        ]
                    }
            )
        }
    }

    struct Show: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "All about one run.",
            discussion: "Example: coord run show latest --json"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "An id, its beginning, or latest.")
        var run = "latest"

        func perform(_ console: Console) throws {
            let (row, summary) = try common.registry().read { snapshot in
                let row = try snapshot.run(matching: run)
                return (row, try snapshot.summary(of: row.id))
            }
            if console.isJSON { return console.json(summary) }
            var lines = [
                ["FIELD", "VALUE"],
                ["run", "\(summary.run)"],
                ["name", row.name],
                ["state", summary.state.rawValue + (row.message.map { ": \($0)" } ?? "")],
                ["engine", summary.engine?.rawValue ?? "-"],
                ["epoch, step", "\(summary.epoch), \(summary.step)"],
                ["lanes", "\(summary.lanes)"],
                ["kernels", summary.kernels?.rawValue ?? "-"],
                ["exchange", summary.exchange ?? "-"],
                ["generations", "\(summary.generations)"],
                ["attempt", "\(row.attempt)"],
                ["samples/s", summary.samplesPerSecond?.digits(0) ?? "-"],
                ["train loss", summary.metrics.trainLoss?.digits(4) ?? "-"],
                ["val loss", summary.metrics.valLoss?.digits(4) ?? "-"],
                ["val accuracy", summary.metrics.valAccuracy?.digits(4) ?? "-"],
                ["weights", summary.weightsSHA256?.hex ?? "-"],
                ["worker", summary.workerSHA256?.hex ?? "-"],
            ]
            if let times = summary.stepSeconds { lines.append(["time of a step", times.words]) }
            for text in summary.memory { lines.append(["memory", text]) }
            for text in summary.notices { lines.append(["noticed", text]) }
            for worker in summary.workers {
                lines.append([
                    "worker on \(worker.host)", "lanes \(LaneSet(worker.lanes)), \(worker.steps) steps",
                ])
            }
            if let best = summary.best {
                let accuracy = best.valAccuracy?.digits(4) ?? "-"
                lines.append([
                    "best", "step \(best.step), val accuracy \(accuracy), \(best.checkpoint.short)",
                ])
            }
            console.table(lines)
        }
    }

    struct Attach: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Follow the run that is on.",
            discussion: "Example: coord run attach"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "An id, its beginning, or latest; without it, the run that is on.")
        var run: String?

        func perform(_ console: Console) throws {
            let client = try CoordinatorProgram.connect(try common.workspace())
            let id = try common.runID(run)
            try Outcome.check(try RunFollower(console: console).follow(client, .attach(run: id)))
        }
    }

    struct Stop: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "End the run that is on; its checkpoints stay.",
            discussion: "Example: coord run stop"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "An id, its beginning, or latest; without it, the run that is on.")
        var run: String?

        func perform(_ console: Console) throws {
            let client = try CoordinatorProgram.connect(try common.workspace())
            try Outcome.check(try client.ask(.stopRun(run: try common.runID(run))) { _ in })
        }
    }

    struct Resume: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Go on from a checkpoint.",
            discussion: """
                Example: coord run resume latest

                A run that was stopped or interrupted goes on from its last checkpoint. With --checkpoint a run is
                trained again from there, as a new run.
                """
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "An id, its beginning, or latest.")
        var run = "latest"
        @Option(help: "A checkpoint: the beginning of its digest.")
        var checkpoint: String?

        func perform(_ console: Console) throws {
            let (row, chosen) = try common.registry().read { snapshot in
                let row = try snapshot.run(matching: run)
                return (row, try choose(row, snapshot))
            }
            let request = UpRequest(
                fileText: row.fileText,
                path: common.file,
                who: CommonOptions.who,
                resume: ResumeRequest(checkpoint: chosen.manifest, run: row.id, isNewRun: checkpoint != nil)
            )
            console.say("goes on from epoch \(chosen.epoch), checkpoint \(chosen.manifest.short)")
            let client = try CoordinatorProgram.connect(try common.workspace())
            try Outcome.check(try RunFollower(console: console).follow(client, .up(request)))
        }

        private func choose(_ row: RunRow, _ snapshot: RegistrySnapshot) throws -> CheckpointRow {
            if let checkpoint { return try snapshot.checkpoint(matching: checkpoint) }
            guard row.state != .finished else {
                throw Outcome(
                    exitCode: .usage,
                    message: "run \(row.id) has finished",
                    hint: "give a --checkpoint to train again from there"
                )
            }
            guard let last = try snapshot.latestCheckpoint(of: row.id) else {
                throw Outcome(
                    exitCode: .failed,
                    message: "run \(row.id) has no checkpoint",
                    hint: "coord up starts anew"
                )
            }
            return last
        }
    }

    struct Submit: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Submit the file's run, as coord up does, without asking.",
            discussion: """
                With --baseline two simple ways come first: the class that most samples have, and a linear model. Both
                stand beside the run's model at the end.
                Example: coord run submit --baseline
                """
        )
        @OptionGroup var common: CommonOptions
        @Flag(help: "Train a linear model first, and say whether the run's model is better.")
        var baseline = false

        func perform(_ console: Console) throws {
            let file = try common.cluster()
            if baseline { try checkBaseline(file) }
            let linear = baseline ? try train(isBaseline: true, console) : nil
            let model = try train(isBaseline: false, console)
            guard let linear, let model else { return }
            let verdict = try verdict(linear, model)
            console.json(ifAsked: BaselineLine(verdict: verdict))
            console.say(verdict.words(file.run?.model.type ?? "the model"))
        }

        private func checkBaseline(_ file: ClusterFile) throws {
            guard let name = file.dataset,
                let row = try common.registry().read({ try $0.dataset(named: name) })
            else { return }  // the coordinator says what is missing
            let store = try common.workspace().openStore()
            guard try Dataset(store: store, manifest: row.manifest).index.kind == .text else { return }
            throw Outcome(
                exitCode: .badInput,
                message: "\(common.file): a linear model can't read a text, as \(name) is one",
                hint: "coord run submit, without --baseline"
            )
        }

        /// Trains and follows; the run's id.
        private func train(isBaseline: Bool, _ console: Console) throws -> RunID? {
            let request = UpRequest(
                fileText: try Files.readText(common.file),
                path: common.file,
                who: CommonOptions.who,
                isBaseline: isBaseline
            )
            let client = try CoordinatorProgram.connect(try common.workspace())
            var id: RunID?
            let result = try RunFollower(console: console).follow(
                client,
                .up(request),
                onEvent: { event in if case .run(let run) = event { id = run.run } }
            )
            try Outcome.check(result)
            return id
        }

        private func verdict(_ linear: RunID, _ model: RunID) throws -> BaselineVerdict {
            let (record, first, second) = try common.registry().read { snapshot in
                (
                    try snapshot.run(linear)?.record,
                    try snapshot.epochs(of: linear).compactMap(\.valAccuracy).max(),
                    try snapshot.epochs(of: model).compactMap(\.valAccuracy).max()
                )
            }
            guard let record, let first, let second else {
                throw Outcome(exitCode: .badInput, message: "no validation accuracy was reported")
            }
            let dataset = try Dataset(store: common.workspace().openStore(), manifest: record.dataset)
            let split = try Split.make(dataset, record.spec.split)
            let (label, share) = split.majority(dataset)
            return BaselineVerdict(
                majorityClass: dataset.classes[label],
                majority: share,
                linear: first,
                model: second,
                samples: split.validation.count
            )
        }

        private struct BaselineLine: Encodable {
            var type = "baseline"
            var majorityClass: String
            var majority, linear, model: Double
            var samples: Int
            var earnsItsPlace: Bool

            init(verdict: BaselineVerdict) {
                majorityClass = verdict.majorityClass
                (majority, linear, model) = (verdict.majority, verdict.linear, verdict.model)
                (samples, earnsItsPlace) = (verdict.samples, verdict.earnsItsPlace)
            }
        }
    }

    struct Logs: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "A run's metrics, epoch by epoch.",
            discussion: "Example: coord run logs latest --steps --json"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "An id, its beginning, or latest.")
        var run = "latest"
        @Flag(help: "Every step instead of every epoch.")
        var steps = false

        func perform(_ console: Console) throws {
            let (steps, epochs) = try common.registry().read { snapshot in
                let id = try snapshot.run(matching: run).id
                return (
                    self.steps ? try snapshot.steps(of: id) : [],
                    self.steps ? [] : try snapshot.epochs(of: id)
                )
            }
            if console.isJSON {
                steps.forEach { console.json($0) }
                return epochs.forEach { console.json($0) }
            }
            for step in steps {
                console.print("step \(step.step)  epoch \(step.epoch)  loss \(step.loss?.digits(4) ?? "-")")
            }
            for epoch in epochs {
                console.print(
                    "epoch \(epoch.epoch)  step \(epoch.step)  train loss \(epoch.trainLoss?.digits(4) ?? "-")  "
                        + "val loss \(epoch.valLoss?.digits(4) ?? "-")  "
                        + "val accuracy \(epoch.valAccuracy?.digits(4) ?? "-")"
                )
            }
        }
    }
}

extension StepTimes {
    /// `12.3 ms: data 2 %, forward 30 %, …`.
    var words: String {
        let all = parts.reduce(0) { $0 + $1.seconds }
        let shares = parts.map { "\($0.name) \((all > 0 ? 100 * $0.seconds / all : 0).digits(0)) %" }
        return "\((all * 1000).digits(1)) ms: \(shares.joined(separator: ", "))"
    }
}
