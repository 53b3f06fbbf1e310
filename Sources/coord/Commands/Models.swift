internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import Coordinator
internal import Datasets
internal import Images
internal import Registry
internal import Wire

struct ModelCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "model",
        abstract: "Model versions: list, show.",
        subcommands: [List.self, Show.self],
        defaultSubcommand: List.self
    )

    fileprivate struct Line: Encodable {
        var model: String
        var version: Int
        var checkpoint: Digest
        var run: RunID
        var valAccuracy: Double?
        var valLoss: Double?
        var aliases: [String]
        var created: Double

        init(_ row: ModelVersionRow, aliases: [ModelAliasRow]) {
            model = row.name
            version = row.version
            checkpoint = row.checkpoint
            run = row.run
            valAccuracy = row.metrics.valAccuracy
            valLoss = row.metrics.valLoss
            self.aliases = aliases.filter { $0.name == row.name && $0.version == row.version }.map(\.alias)
            created = row.created
        }
    }

    struct List: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "All versions of all models.",
            discussion: "Example: coord model list --json"
        )
        @OptionGroup var common: CommonOptions

        func perform(_ console: Console) throws {
            let lines = try common.registry().read { snapshot in
                let aliases = try snapshot.aliases()
                return try snapshot.modelVersions().map { Line($0, aliases: aliases) }
            }
            if console.isJSON { return lines.forEach { console.json($0) } }
            console.table(
                [["MODEL", "CHECKPOINT", "RUN", "VAL ACC", "ALIASES"]]
                    + lines.map {
                        [
                            "\($0.model)@\($0.version)", $0.checkpoint.short, "\($0.run)",
                            $0.valAccuracy?.digits(4) ?? "-",
                            $0.aliases.joined(separator: ", "),
                        ]
                    }
            )
        }
    }

    struct Show: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "One version: what it takes, what it gives, where it came from.",
            discussion: "Example: coord model show digits-cnn@1"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "NAME, NAME@N or NAME@ALIAS.")
        var model: String

        func perform(_ console: Console) throws {
            let row = try common.registry().read { try $0.modelVersion(matching: model) }
            if console.isJSON { return console.json(row) }
            var lines = [
                ["FIELD", "VALUE"], ["model", row.label], ["checkpoint", row.checkpoint.hex],
                ["run", "\(row.run)"],
                ["val accuracy", row.metrics.valAccuracy?.digits(4) ?? "-"],
            ]
            if let signature = row.signature {
                lines.append(["type", signature.model.type])
                lines.append(["input", signature.inputShape.map { "\($0)" }.joined(separator: " x ")])
                lines.append(["classes", signature.classes.joined(separator: ", ")])
            }
            console.table(lines)
        }
    }
}

struct Deploy: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "Put a model version on a host: sent, verified, checked against its golden examples, switched.",
        discussion: "Example: coord deploy --host 3090 --version digits-cnn@2"
    )
    @OptionGroup var common: CommonOptions
    @Option(help: "The host, by its name in the cluster file.")
    var host: String
    @Option(help: "NAME@N; without it, the best of the last run that finished.")
    var version: String?

    func perform(_ console: Console) throws {
        try common.checkHost(host)
        let client = try common.connected(console)
        let request = ControlRequest.deploy(host: host, version: version)
        try Outcome.check(try RunFollower(console: console).follow(client, request))
    }
}

struct Rollback: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "Put the version before back.",
        discussion: "Example: coord rollback --host 3090"
    )
    @OptionGroup var common: CommonOptions
    @Option(help: "The host, by its name in the cluster file.")
    var host: String

    func perform(_ console: Console) throws {
        try common.checkHost(host)
        let client = try common.connected(console)
        try Outcome.check(try RunFollower(console: console).follow(client, .rollback(host: host)))
    }
}

struct Predict: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "Ask the deployed model about one sample.",
        discussion: """
            Example: coord predict digit.csv

            FILE holds the raw values of one sample, numbers separated by commas, spaces or line ends, or it is a JPEG
            or PNG image, which is brought to the shape of the file's dataset. `--sample N` takes the N-th validation sample of a dataset instead and prints its true label beside.
            """
    )
    @OptionGroup var common: CommonOptions
    @Argument(help: "A file with the sample's values.")
    var path: String?
    @Option(help: "The host; without it, the one of deploy:.")
    var host: String?
    @Option(help: "A validation sample of the file's dataset, from 0.")
    var sample: Int?

    private struct Line: Encodable {
        var model: String
        var version: Int
        var label: String
        var probability: Double
        var probabilities: [String: Double]
        var trueLabel: String?
    }

    func perform(_ console: Console) throws {
        if let host { try common.checkHost(host) }
        let (values, truth) = try input()
        let client = try common.connected(console)
        var line: Line?
        let result = try client.ask(.predict(host: host, values: values)) { event in
            guard case .prediction(let version, let classes, let probabilities) = event,
                let best = probabilities.indices.max(by: { probabilities[$0] < probabilities[$1] })
            else { return }
            line = Line(
                model: version.model,
                version: version.version,
                label: classes[best],
                probability: probabilities[best],
                probabilities: Dictionary(zip(classes, probabilities), uniquingKeysWith: { $1 }),
                trueLabel: truth
            )
        }
        try Outcome.check(result)
        guard let line else { throw Outcome(exitCode: .bug, message: "no prediction came") }
        if console.isJSON { return console.json(line) }
        console.print(
            "\(line.label)  (\((line.probability * 100).digits(1)) %, \(line.model)@\(line.version))"
                + (truth.map { "  true label: \($0)" } ?? "")
        )
    }

    private func input() throws -> ([Float], String?) {
        if let sample {
            let (file, dataset) = try fileAndDataset()
            let split = try Split.make(dataset, file.split(of: dataset))
            guard split.validation.indices.contains(sample) else {
                throw Outcome(
                    exitCode: .badInput,
                    message:
                        "\(dataset.name) has validation samples 0 to \(split.validation.count - 1), not \(sample)"
                )
            }
            let values: [Float] = dataset.read(split.validation[sample])
            return (values, dataset.classes[dataset.label(split.validation[sample])])
        }
        guard let path else {
            throw Outcome(exitCode: .usage, message: "nothing to predict", hint: "give a FILE or --sample N")
        }
        let bytes = try Files.read(path, limit: 64 << 20)
        if let head = try? bytes.withUnsafeBytes({ try ImageDecoder.head($0) }) {
            return (try pixels(bytes, head), nil)
        }
        let text = String(decoding: bytes, as: UTF8.self)
        let words = text.split { $0 == "," || $0.isWhitespace }
        let values = try words.enumerated().map { index, word in
            guard let value = Float(word), value.isFinite else {
                throw Outcome(
                    exitCode: .badInput,
                    message: "\(path): value \(index + 1) is no number: \(word.prefix(40))"
                )
            }
            return value
        }
        return (values, nil)
    }

    private func fileAndDataset() throws -> (ClusterFile, Dataset) {
        let file = try common.cluster()
        guard let name = file.dataset else {
            throw Outcome(exitCode: .badInput, message: "\(common.file) names no dataset")
        }
        return (file, try DataLibrary(workspace: try common.workspace()).open(name).1)
    }

    /// An image as the samples of the file's dataset were made.
    private func pixels(_ bytes: [UInt8], _ head: ImageHead) throws -> [Float] {
        let (_, dataset) = try fileAndDataset()
        let shape = dataset.shape
        guard shape.count == 3, shape[0] == 1 || shape[0] == 3 else {
            throw Outcome(
                exitCode: .badInput,
                message: "dataset \(dataset.name) has samples of shape \(shape), no images"
            )
        }
        let images = dataset.index.images ?? ImageStorage(fit: .crop, isEncoded: false)
        do {
            return try bytes.withUnsafeBytes { try images.pixels(of: $0, shape: shape) }.map { Float($0) }
        } catch let error as ImageError {
            throw Outcome(
                exitCode: .badInput,
                message: "\(path ?? "") \(error.message)",
                hint: error.hint
            )
        }
    }
}
