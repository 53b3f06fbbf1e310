public import Basics
internal import Yams

/// The cluster file, read and checked: hosts, dataset, run, deployment.
///
/// A value: it says what the user asked for, and knows nothing of hosts being alive or datasets being there.
public struct ClusterFile: Hashable, Sendable {
    /// The file, as the user named it.
    public var path: String
    /// The cluster's name.
    public var cluster: String
    /// The hosts in file order.
    public var hosts: [HostSpec]
    /// How many training hosts must be ready for the run to begin; nil = all.
    public var quorum: Int?
    /// A dataset's name, or a path as the file gives it; see ``datasetPath``.
    public var dataset: String?
    /// What to train, complete: every default filled in, `lanes: auto` resolved.
    public var run: RunSpec?
    /// The kernel set that the run pins; nil for `kernels: auto`.
    public var kernels: KernelSet?
    /// `exchange: auto`: chosen by what the cluster's links carry, at the submission.
    public var choosesExchange = false
    /// What trainers do when their memory will not do.
    public var memory = MemoryPolicy.refuse
    /// Memory that each trainer may have at most; nil = what is free; unit: bytes.
    public var memoryLimit: Int?
    /// Where the best checkpoint goes by itself.
    public var deploy: DeploySpec?
    /// How `coord-serve` listens.
    public var serve: ServeSpec
    /// Where each value stands, by its dotted path (`run.schedule.warmup_steps`).
    public var places: [String: Place]

    /// The largest cluster file that is read; unit: bytes.
    static let limit = 1 << 20

    /// Reads and checks a file.
    ///
    /// - Throws: ``ClusterFileError`` with every problem of the file.
    public static func load(path: String) throws -> ClusterFile {
        let text: String
        do {
            text = try Files.readText(path, limit: limit)
        } catch let error as FileError {
            let reason = error.isMissing ? "no such file" : SystemError.text(error.errno)
            throw ClusterFileError([.init(code: .missingFile, path: path, place: nil, text: reason)])
        }
        return try parse(text: text, path: path)
    }

    /// Checks a text.
    ///
    /// - Parameter path: what messages call the file; paths in the text start from its folder.
    /// - Throws: ``ClusterFileError`` with every problem of the text.
    public static func parse(text: String, path: String) throws -> ClusterFile {
        let reading = Reading(path: path, text: text)
        let file = read(reading)
        try reading.finish()
        guard let file else { preconditionFailure("a cluster file was refused without a reason") }
        return file
    }

    /// Checks what only the dataset can tell: a warm-up longer than the run.
    ///
    /// - Parameter stepsPerEpoch: the run's training samples over its batch, rounded up.
    /// - Throws: ``ClusterFileError`` at the line of `warmup_steps`.
    public func checkAgainst(stepsPerEpoch: Int) throws {
        guard let run, let warmup = run.schedule.parameters["warmup_steps"]?.integer else { return }
        let steps = run.epochs * stepsPerEpoch
        guard warmup > steps else { return }
        let place = places["run.schedule.warmup_steps"] ?? places["run"] ?? Place(line: 1, column: 1)
        let text =
            "`run.schedule.warmup_steps` \(warmup) is longer than the run: "
            + "\(run.epochs) epochs of \(stepsPerEpoch) steps are \(steps) steps"
        throw ClusterFileError(
            [.init(code: .badValue, path: path, place: place, text: text)],
            hint: "lower `warmup_steps`, or raise `epochs`"
        )
    }

    /// The host of a name.
    public func host(_ name: String) -> HostSpec? { hosts.first { $0.name == name } }

    /// The dataset's path as seen from the working folder; nil when `dataset` is a name.
    ///
    /// What holds a `/` or ends like a data file is a path.
    public var datasetPath: String? {
        guard let dataset else { return nil }
        let endings = [".csv", ".csv.gz", ".idx", ".gz", ".tar"]
        guard dataset.contains("/") || endings.contains(where: dataset.hasSuffix) else { return nil }
        let folder = Files.parent(path)
        if dataset.hasPrefix("~/") { return Machine.home + dataset.dropFirst() }
        return dataset.hasPrefix("/") || folder == "." ? dataset : "\(folder)/\(dataset)"
    }

    /// Reads what can be read, noting problems; nil when nothing can.
    static func read(_ reading: Reading) -> ClusterFile? {
        guard let root = reading.text.root else {
            if reading.problems.isEmpty {
                reading.report(.missingKey, Place(line: 1, column: 1), "the file is empty")
            }
            return nil
        }
        guard case .mapping(let mapping) = root else {
            let place = root.mark.map(Place.init) ?? Place(line: 1, column: 1)
            reading.report(.wrongType, place, "the file must be a mapping of keys to values")
            return nil
        }
        let file = Section(mapping, path: "", place: Place(line: 1, column: 1), reading: reading)
        let cluster = clusterName(file)
        let hosts = HostReader(folder: Files.parent(reading.path)).read(file)
        let quorum = quorum(file, hosts: hosts)
        let dataset = file.text("dataset")
        let run = file.section("run").map(RunReader.read)
        let deploy = file.section("deploy").flatMap { self.deploy($0, hosts: hosts, run: run?.run) }
        let serve = file.section("serve").map(self.serve) ?? ServeSpec()
        file.reportUnknownKeys()
        if run != nil, dataset == nil, !file.has("dataset") { _ = file.required("dataset") }
        if run != nil, !hosts.isEmpty, !hosts.contains(where: \.trains), let value = file.value("hosts") {
            file.bad(value, "has no host that trains: one needs the role `train` and a worker")
        }
        return ClusterFile(
            path: reading.path,
            cluster: cluster,
            hosts: hosts,
            quorum: quorum,
            dataset: dataset,
            run: run?.run,
            kernels: run?.kernels,
            choosesExchange: run?.choosesExchange ?? false,
            memory: run?.memory.policy ?? .refuse,
            memoryLimit: run?.memory.limit,
            deploy: deploy,
            serve: serve,
            places: reading.places
        )
    }

    private static func clusterName(_ file: Section) -> String {
        guard let value = file.required("cluster"), let name = file.text(value) else { return "" }
        let isAllowed =
            name.utf8.count <= 64
            && name.utf8.allSatisfy {
                (0x61...0x7A).contains($0) || (0x41...0x5A).contains($0) || (0x30...0x39).contains($0)
                    || $0 == 0x2D || $0 == 0x5F
            }
        if !isAllowed { file.bad(value, "must be at most 64 letters, digits, `-` or `_`, not `\(name)`") }
        return name
    }

    private static func quorum(_ file: Section, hosts: [HostSpec]) -> Int? {
        guard let value = file.value("quorum"), let quorum = file.integer("quorum", in: 1...1024) else {
            return nil
        }
        let training = hosts.count(where: \.trains)
        if quorum > training, training > 0 {
            file.bad(value, "is \(quorum), but only \(training) hosts train")
        }
        return quorum
    }

    private static func deploy(_ section: Section, hosts: [HostSpec], run: RunSpec?) -> DeploySpec? {
        defer { section.reportUnknownKeys() }
        let when = section.choice("when", DeploySpec.Moment.self) ?? .best
        let rule: NumberRule = run?.monitor == "val_loss" ? .positive : .notNegative
        let minimum = section.number("minimum", rule)
        if let minimum, minimum > 1, run?.monitor == "val_accuracy", let value = section.value("minimum") {
            section.bad(value, "can never be reached: an accuracy is at most 1")
        }
        let improvement = section.number("improvement", .notNegative) ?? 0
        guard let value = section.required("host"), let name = section.text(value) else { return nil }
        guard let host = hosts.first(where: { $0.name == name }) else {
            section.reading.report(
                .unknownName,
                value.place,
                "unknown host `\(name)` in `deploy.host`"
                    + Suggestion.phrase(for: name, among: hosts.map(\.name))
            )
            return nil
        }
        if !host.serves { section.bad(value, "names `\(name)`, which lacks the role `serve`") }
        return DeploySpec(host: name, when: when, minimum: minimum, improvement: improvement)
    }

    private static func serve(_ section: Section) -> ServeSpec {
        var spec = ServeSpec(tokenEnvironment: section.text("token_env"))
        if let value = section.value("token_env"), let name = spec.tokenEnvironment,
            !name.utf8.allSatisfy({
                $0 == 0x5F || Character(Unicode.Scalar($0)).isLetter
                    || Character(Unicode.Scalar($0)).isNumber
            })
        {
            section.bad(value, "must be the name of an environment variable, never the token itself")
        }
        if let value = section.value("listen"), let listen = section.text(value) {
            spec.listen = listen
            if let endpoint = Endpoint(listen) {
                if !endpoint.isLoopback, spec.tokenEnvironment == nil {
                    section.bad(value, "\(listen) can be dialled by others; it needs `token_env`")
                }
            } else {
                section.bad(value, "must be `address:port` with a port from 1 to 65535, not `\(listen)`")
            }
        }
        section.reportUnknownKeys()
        return spec
    }
}
