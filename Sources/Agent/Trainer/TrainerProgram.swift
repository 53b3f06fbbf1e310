internal import Basics
internal import Collectives
internal import ContentStore
internal import Datasets
internal import Training
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// `coord-worker train`: one member of one run.
///
/// Commands come in, and reports go out, through descriptor 3.
enum TrainerProgram {
    static func run(directory: AgentDirectory) throws {
        signal(SIGPIPE, SIG_IGN)
        let channel = FrameChannel(socket: 3)
        guard let first = try channel.receive(),
            case .start(let start) = try MessageCoding.decode(TrainerCommand.self, from: first.payload)
        else { throw AgentError("the agent said nothing") }
        let report: @Sendable (TrainerReport) -> Void = { report in
            // An agent that is gone can't be told; this process ends with it.
            try? channel.send(report)
        }
        do {
            try train(start, directory: directory, channel: channel, report: report)
        } catch let error as any ExplainedError {
            report(.failed(message: error.message, hint: error.hint))
            throw error
        } catch {
            report(.failed(message: "\(error)", hint: nil))
            throw error
        }
    }

    private static func train(
        _ start: TrainerStart,
        directory: AgentDirectory,
        channel: FrameChannel,
        report: @escaping @Sendable (TrainerReport) -> Void
    ) throws {
        let spec = start.record.spec
        let store = try ChunkStore(directory: directory.store)
        let dataset = try Dataset(store: store, manifest: start.record.dataset, shards: [])
        let plan = try TrainerMemory.plan(start, dataset)
        report(.memory(bytes: plan.total, way: plan.way, summary: plan.summary))
        try dataset.load(shards: Array(dataset.index.shards.indices))
        let samples = try DatasetSamples(dataset, spec, threads: start.threads)
        let resume = try start.resume.map { try CheckpointState.read(files: try readAll($0, from: store)) }
        let commands = CommandBox()
        let bind = start.bind.contains(":") ? "[\(start.bind)]" : start.bind
        let endpoint = try Endpoint(transport: DirectTransport(), address: "\(bind):0")
        let desk = MembershipDesk(start: start, endpoint: endpoint, commands: commands, report: report)
        OSThread.start(name: "commands") {
            while let frame = try? channel.receive() {
                switch try? MessageCoding.decode(TrainerCommand.self, from: frame.payload) {
                case .generation(let plan): desk.announced(plan)
                case .coordinator(let isPresent): desk.handle(.coordinator(isPresent: isPresent))
                case .ended(let member, let views):
                    desk.handle(.ended(member: member, views))
                case .standing(let generation, let standing):
                    commands.put(standing: standing, generation: generation)
                case .state(let generation, let manifest):
                    commands.put(state: manifest, generation: generation)
                case .injure(let injury): commands.put(injury)
                case .stop: ThisProcess.end(.ok)
                case .start, nil: break
                }
            }
            ThisProcess.end(1)  // the agent is gone, and nobody can tell us whom to work with
        }
        let exchange = NetworkExchange(
            start: start,
            endpoint: endpoint,
            commands: commands,
            desk: desk,
            committed: resume?.nextOperation ?? 0,
            report: report,
            keep: { state in
                let files = try state.files().map { try store.add($0.bytes, name: $0.name) }
                return try store.putManifest(kind: "state", files: files)
            },
            read: { manifest in try CheckpointState.read(files: try readAll(manifest, from: store)) },
            buckets: try Model(
                spec.model,
                inputShape: samples.shape,
                classCount: samples.classes.count
            ).gradientBuckets.ranges
        )
        let ready = TrainerReport.listening(
            address: endpoint.address,
            trainingSamples: samples.trainingIndices.count,
            stepsPerEpoch: samples.stepsPerEpoch
        )
        let writer = CheckpointWriter(store: store, report: report)
        let reporter = TrainerReporter(
            exchange: exchange,
            writer: writer,
            lastEpoch: spec.epochs,
            threads: start.threads,
            report: report
        )
        func makeLoop(joins: (standing: Standing, room: Int)? = nil) throws -> TrainingLoop {
            try TrainingLoop(
                record: start.record,
                samples: samples,
                exchange: exchange,
                laneThreads: start.threads,
                observer: reporter,
                resume: resume,
                joins: joins,
                fit: plan.fit
            )
        }
        if start.joins {
            report(ready)
            while true {
                let standing = try Standing(reading: try exchange.joinLate())
                guard standing.nextOperation == exchange.nextOperation else {
                    throw AgentError("the state that came is not that of the next step", exitCode: .bug)
                }
                do {
                    try makeLoop(joins: (standing, TrainerMemory.backlog)).run()
                    break
                } catch is Overtaken { continue }
            }
        } else {
            let loop = try makeLoop()
            report(ready)
            try exchange.join()
            try loop.run()
        }
        reporter.flush()
        writer.finish()
        guard let weights = reporter.weights ?? resume?.weightsDigest else {
            throw AgentError("the run ended without a checkpoint")
        }
        if let peak = TrainerMemory.peak { report(.peakMemory(bytes: peak)) }
        // Before the links end: whoever misses us then learns that we have left with the work done.
        report(.finished(weights: weights, bytesSent: exchange.bytesSent))
        exchange.close()
    }

    private static func readAll(
        _ manifest: Digest,
        from store: ChunkStore
    ) throws -> [(name: String, bytes: [UInt8])] {
        let contents = try store.manifest(manifest)
        return try contents.files.map { ($0.name, try store.readFile(contents, $0.name)) }
    }
}
