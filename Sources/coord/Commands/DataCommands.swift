internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Coordinator
internal import Datasets
internal import Images
internal import Registry

struct DataCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "data",
        abstract: "Datasets: get, add, check, split, push, list, show.",
        subcommands: [
            Get.self, Add.self, Check.self, SplitCommand.self, Push.self, List.self, Show.self,
        ],
        defaultSubcommand: List.self
    )

    struct Get: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Fetch a known dataset: digits.",
            discussion: "Example: coord data get digits"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "digits: 1797 handwritten digits of 8 x 8 pixels, from the scikit-learn wheel.")
        var name: String

        func perform(_ console: Console) throws {
            guard name == DigitsSource.name else {
                throw Outcome(
                    exitCode: .badInput,
                    message: "unknown dataset \(name); known: digits",
                    hint: "coord data add \(name) PATH takes files of your own"
                )
            }
            let workspace = try common.workspace()
            let path = try DigitsSource().fetch(into: workspace.artifacts + "/downloads")
            try DataLibrary(workspace: workspace).add(
                path,
                name: name,
                options: DigitsSource.options,
                console
            )
        }
    }

    struct Add: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract:
                "Take files into the store: a CSV with a label column, a text, images, or an IDX folder (MNIST).",
            discussion: """
                Example: coord data add flowers flowers.csv --label species

                Images are JPEG and PNG files in a folder with one folder for each class:
                coord data add pets photos --size 64

                Up to 64 by 64 pixels samples are kept as pixels, above as the files they are, decoded while training.
                Files that cannot be read are an error that names the first one, unless --skip-bad leaves them out. Images
                in CMYK and animations cannot be read.
                """
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The name that the cluster file gives.")
        var name: String
        @Argument(
            help: "A .csv or .txt file, either as .gz too; a folder of class folders, or with IDX files."
        )
        var path: String
        @Option(help: "CSV: the label column, by name or number from 0; without it, the last.")
        var label: String?
        @Option(help: "CSV: shape of a sample, such as 1x8x8. Text: bytes of a sample; without it, 128.")
        var shape: String?
        @Option(help: "CSV: all classes, separated by commas; any other label is an error.")
        var classes: String?
        @Option(
            help:
                "Images: pixels of each side, 32, or height and width, 48x64; without it, all must be alike."
        )
        var size: String?
        @Option(
            help: "Images of another shape: crop (fill the size, cut to the middle) or stretch.",
            transform: { try choice($0, ImageFit.self) }
        )
        var fit = ImageFit.crop
        @Option(
            help: "Images: keep pixels, or files that are decoded while training; auto by size.",
            transform: { try choice($0, ImageFolder.Options.Storage.self) }
        )
        var store = ImageFolder.Options.Storage.auto
        @Flag(help: "Images: leave out files that cannot be read, and name them.")
        var skipBad = false

        private static func choice<Choice: RawRepresentable & CaseIterable>(
            _ text: String,
            _ type: Choice.Type
        ) throws -> Choice where Choice.RawValue == String {
            guard let choice = Choice(rawValue: text) else {
                let known = type.allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("'\(text)' is none of \(known)")
            }
            return choice
        }

        private func addImages(_ console: Console) throws {
            var options = ImageFolder.Options(fit: fit, storage: store, skipsBad: skipBad)
            if let size {
                let sides = size.split(separator: "x", omittingEmptySubsequences: false).map { Int($0) ?? 0 }
                guard (1...2).contains(sides.count), sides.allSatisfy({ (1...4096).contains($0) }) else {
                    throw Outcome(
                        exitCode: .usage,
                        message: "--size \(size) is no size of an image",
                        hint: "write 32, or height and width as 48x64"
                    )
                }
                options.height = sides[0]
                options.width = sides[sides.count - 1]
            }
            let folder = try ImageFolder(path, options: options)
            for problem in folder.problems { console.say("left out: \(problem.description)") }
            try DataLibrary(workspace: try common.workspace()).add(name: name, console) {
                try $0.add(folder, name: name)
            }
        }

        func perform(_ console: Console) throws {
            if DatasetImporter.isImageFolder(path) { return try addImages(console) }
            var options = CSVOptions()
            if let label { options.label = Int(label).map(CSVOptions.LabelColumn.index) ?? .named(label) }
            if let shape {
                let sides = shape.split(separator: "x").compactMap { Int($0) }
                guard !sides.isEmpty, sides.allSatisfy({ $0 > 0 }) else {
                    throw Outcome(
                        exitCode: .usage,
                        message: "--shape \(shape) is no shape",
                        hint: "write 1x8x8"
                    )
                }
                options.shape = sides
            }
            if let classes { options.classes = classes.split(separator: ",").map(String.init) }
            try DataLibrary(workspace: try common.workspace()).add(
                path,
                name: name,
                options: options,
                console
            )
        }
    }

    struct Check: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Look for empty classes, duplicates, constant features.",
            discussion: "Example: coord data check digits"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The dataset's name.")
        var name: String

        func perform(_ console: Console) throws {
            let (_, dataset) = try DataLibrary(workspace: try common.workspace()).open(name)
            let check = DatasetCheck.run(dataset)
            if console.isJSON {
                console.json(check)
            } else {
                console.table(
                    [["CLASS", "SAMPLES"]] + zip(check.classes, check.classCounts).map { [$0, "\($1)"] }
                )
                for finding in check.findings { console.print("\(finding)") }
                if check.findings.isEmpty { console.print("nothing to complain about") }
            }
            guard check.isUsable else {
                let first = check.findings.first { $0.severity == .error }
                throw Outcome(
                    exitCode: .badInput,
                    message: "dataset \(name): \(first?.message ?? "unusable")",
                    hint: "mend the data and add it again under the same name"
                )
            }
        }
    }

    struct SplitCommand: CoordCommand {
        static let configuration = CommandConfiguration(
            commandName: "split",
            abstract: "Show how a split cuts a dataset; nothing is copied.",
            discussion: "Example: coord data split digits --validation 0.2 --seed 1"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The dataset's name.")
        var name: String
        @Option(help: "Fraction for validation; without it, 0.2, of a text 0.1.")
        var validation: Double?
        @Option(help: "Fraction for test.")
        var test = 0.0
        @Option(help: "The split's seed.")
        var seed: UInt64 = 1

        private struct Line: Encodable {
            var part: String
            var samples: Int
            var perClass: [Int]
        }

        func perform(_ console: Console) throws {
            let (_, dataset) = try DataLibrary(workspace: try common.workspace()).open(name)
            let part = validation ?? Split.usualValidation(dataset.index.kind)
            let split = try Split.make(dataset, SplitSpec(validation: part, test: test, seed: seed))
            let lines = [
                ("training", split.training), ("validation", split.validation), ("test", split.test),
            ].map {
                part,
                samples in
                var counts = [Int](repeating: 0, count: dataset.classes.count)
                for sample in samples { counts[dataset.label(sample)] += 1 }
                return Line(part: part, samples: samples.count, perClass: counts)
            }
            if console.isJSON { return lines.forEach { console.json($0) } }
            console.table(
                [["PART", "SAMPLES"] + dataset.classes]
                    + lines.map { [$0.part, "\($0.samples)"] + $0.perClass.map { "\($0)" } }
            )
        }
    }

    struct Push: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Send a dataset to hosts ahead of a run.",
            discussion: """
                Example: coord data push digits --host 3090

                Hosts that are not up are brought up. What is there already is not sent; after a cut it goes on where it
                was.
                """
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The dataset's name.")
        var name: String
        @Option(name: .customLong("host"), help: "Only this host; may be given several times. Default: all.")
        var hosts: [String] = []

        func perform(_ console: Console) throws {
            let workspace = try common.workspace()
            for host in hosts { try common.checkHost(host) }
            let file = try common.cluster()
            let (row, _) = try DataLibrary(workspace: workspace).open(name)
            let names = hosts.isEmpty ? file.hosts.map(\.name) : hosts
            let request = UpRequest(
                fileText: try Files.readText(common.file),
                path: common.file,
                submits: false,
                hosts: names,
                joins: false,
                who: CommonOptions.who
            )
            let follower = RunFollower(console: console)
            try Outcome.check(
                try follower.follow(try CoordinatorProgram.connect(workspace), .up(request))
            )
            try Outcome.check(
                try follower.follow(
                    try CoordinatorProgram.connect(workspace),
                    .push(manifest: row.manifest, what: name, hosts: names)
                )
            )
        }
    }

    struct List: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "All datasets.",
            discussion: "Example: coord data list --json"
        )
        @OptionGroup var common: CommonOptions

        func perform(_ console: Console) throws {
            let rows = try common.registry().read { try $0.datasets() }
            if console.isJSON { return rows.forEach { console.json($0) } }
            console.table(
                [["NAME", "SAMPLES", "SHAPE", "CLASSES", "ID"]]
                    + rows.map {
                        [
                            $0.name, "\($0.count)", $0.shape.map { "\($0)" }.joined(separator: "x"),
                            "\($0.classes.count)",
                            $0.manifest.short,
                        ]
                    }
            )
        }
    }

    struct Show: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "One dataset.",
            discussion: """
                Example: coord data show digits

                --sample takes a sample's id, as warnings of a run name it, or its beginning, and tells its label and file.
                """
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The dataset's name.")
        var name: String
        @Option(help: "One sample: its id or the beginning of it.")
        var sample: String?

        private struct SampleLine: Encodable {
            var sample: String
            var index: Int
            var label: String
            var file: String?
        }

        private func show(_ beginning: String, of dataset: Dataset, _ console: Console) throws {
            let names = try dataset.readNames()
            let lines = dataset.sampleIDs.indices.filter {
                dataset.sampleIDs[$0].description.hasPrefix(beginning)
            }
            .map {
                SampleLine(
                    sample: dataset.sampleIDs[$0].description,
                    index: $0,
                    label: dataset.classes[dataset.label($0)],
                    file: names?[$0]
                )
            }
            guard !lines.isEmpty else {
                throw Outcome(exitCode: .badInput, message: "\(name) has no sample \(beginning)")
            }
            if console.isJSON { return lines.forEach { console.json($0) } }
            console.table(
                [["SAMPLE", "INDEX", "LABEL", "FILE"]]
                    + lines.map { [$0.sample, "\($0.index)", $0.label, $0.file ?? "-"] }
            )
        }

        func perform(_ console: Console) throws {
            let (row, dataset) = try DataLibrary(workspace: try common.workspace()).open(name)
            if let sample { return try show(sample, of: dataset, console) }
            if console.isJSON { return console.json(dataset.index) }
            console.table([
                ["FIELD", "VALUE"], ["name", row.name], ["id", row.manifest.hex],
                ["samples", "\(row.count)"],
                ["shape", row.shape.map { "\($0)" }.joined(separator: " x ")],
                ["type", dataset.index.isEncoded ? "image files" : dataset.index.type.rawValue],
                ["classes", row.classes.joined(separator: ", ")],
                ["shards", "\(dataset.index.shards.count)"],
            ])
        }
    }
}

/// The datasets of a workspace, as commands use them.
struct DataLibrary {
    let workspace: Workspace

    /// Imports files, checks them and gives the result a name.
    func add(_ path: String, name: String, options: CSVOptions, _ console: Console) throws {
        try add(name: name, console) { try $0.add(path: path, name: name, options: options) }
    }

    /// Gives what a closure imports a name, and checks it.
    func add(name: String, _ console: Console, _ body: (DatasetImporter) throws -> Digest) throws {
        let store = try workspace.openStore()
        let id = try body(DatasetImporter(store: store))
        let dataset = try Dataset(store: store, manifest: id)
        let row = DatasetRow(
            name: name,
            manifest: id,
            count: dataset.count,
            classes: dataset.classes,
            shape: dataset.shape,
            source: dataset.index.sources.first?.sha256,
            added: Machine.unixTime
        )
        try Registry(path: workspace.registryPath, access: .readWrite).write { try $0.put(row) }
        if console.isJSON { return console.json(row) }
        console.say(
            "\(name): \(row.count) samples of shape \(row.shape.map { "\($0)" }.joined(separator: "x")) in "
                + "\(row.classes.count) classes, id \(id.short)"
        )
        for finding in DatasetCheck.run(dataset).findings { console.say("\(finding)") }
    }

    /// Reads a dataset by its name.
    func open(_ name: String) throws -> (DatasetRow, Dataset) {
        let registry = try Registry(path: workspace.registryPath, access: .readWrite)
        guard let row = try registry.read({ try $0.dataset(named: name) }) else {
            let known = try registry.read { try $0.datasets().map(\.name) }
            throw Outcome(
                exitCode: .badInput,
                message:
                    "no dataset \(name); there is \(known.isEmpty ? "none yet" : known.joined(separator: ", "))",
                hint: "coord data add \(name) PATH"
            )
        }
        return (row, try Dataset(store: try workspace.openStore(), manifest: row.manifest))
    }
}
