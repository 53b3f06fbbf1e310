internal import ArgumentParser
internal import Basics
internal import ContentStore
internal import Coordinator
internal import Registry

struct CheckpointCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "checkpoint",
        abstract: "Checkpoints: list, show, pin, restore, verify, rm, undelete.",
        subcommands: [
            List.self, Show.self, Pin.self, Unpin.self, Restore.self, Verify.self, Remove.self, Undelete.self,
        ],
        defaultSubcommand: List.self
    )

    struct List: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Checkpoints by run and epoch, with why each is kept.",
            discussion: "Example: coord checkpoint list --run latest --json"
        )
        @OptionGroup var common: CommonOptions
        @Option(help: "Only this run: an id, its beginning, or latest.")
        var run: String?
        @Flag(help: "Also what is in the trash or deleted.")
        var all = false

        private struct Line: Encodable {
            var checkpoint: Digest
            var run: RunID
            var epoch: Int
            var step: Int
            var state: CheckpointState
            var valAccuracy: Double?
            var valLoss: Double?
            var trainLoss: Double?
            var weightsSha256: Digest?
            var bytes: Int64
            var pinned: Bool
            var trashedUntil: Double?
            var hosts: [String]
            var kept: [String]
        }

        func perform(_ console: Console) throws {
            let lines = try common.registry().read { snapshot -> [Line] in
                let id = try run.map { try snapshot.run(matching: $0).id }
                let plan = try snapshot.keepPlan(now: Machine.unixTime)
                return try snapshot.checkpoints(of: id).filter { all || $0.isUsable }.map { row in
                    let entry = plan.kept.first {
                        $0.checkpoint.manifest == row.manifest && $0.checkpoint.run == row.run
                    }
                    return Line(
                        checkpoint: row.manifest,
                        run: row.run,
                        epoch: row.epoch,
                        step: row.step,
                        state: row.state,
                        valAccuracy: row.metrics.valAccuracy,
                        valLoss: row.metrics.valLoss,
                        trainLoss: row.metrics.trainLoss,
                        weightsSha256: row.weights,
                        bytes: row.size.bytes,
                        pinned: row.isPinned,
                        trashedUntil: row.trashedUntil,
                        hosts: row.hosts,
                        kept: entry?.reasons.map(\.words) ?? []
                    )
                }
            }
            if console.isJSON { return lines.forEach { console.json($0) } }
            console.table(
                [["CHECKPOINT", "RUN", "EPOCH", "STEP", "STATE", "VAL ACC", "VAL LOSS", "SIZE", "KEPT AS"]]
                    + lines.map { line in
                        [
                            line.checkpoint.short, "\(line.run)", "\(line.epoch)", "\(line.step)",
                            line.trashedUntil == nil ? line.state.rawValue : "in trash",
                            line.valAccuracy?.digits(4) ?? "-", line.valLoss?.digits(4) ?? "-",
                            "\(ByteCount(line.bytes))", line.kept.joined(separator: "; "),
                        ]
                    }
            )
        }
    }

    struct Show: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "A checkpoint's files.",
            discussion: "Example: coord checkpoint show 3f9a1c"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The beginning of its digest.")
        var checkpoint: String

        func perform(_ console: Console) throws {
            let row = try common.registry().read { try $0.checkpoint(matching: checkpoint) }
            if console.isJSON { return console.json(row) }
            console.print(
                "checkpoint \(row.manifest.hex) of run \(row.run), epoch \(row.epoch), \(row.state.rawValue)"
            )
            guard row.isHome else {
                return console.say("held on \(row.hosts.joined(separator: ", ")), not here yet")
            }
            let manifest = try common.workspace().openStore().manifest(row.manifest)
            console.table(
                [["FILE", "SIZE", "SHA-256"]]
                    + manifest.files.map { [$0.name, "\(ByteCount($0.size))", $0.sha256.hex] }
            )
        }
    }

    struct Restore: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write a checkpoint's files into a folder, verified.",
            discussion: "Example: coord checkpoint restore 3f9a1c --to ./model"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The beginning of its digest.")
        var checkpoint: String
        @Option(help: "The folder; made when it is not there.")
        var to: String

        func perform(_ console: Console) throws {
            let row = try common.registry().read { try $0.checkpoint(matching: checkpoint) }
            let store = try common.workspace().openStore()
            let manifest = try store.manifest(row.manifest)
            try Files.createDirectory(to)
            try store.materialize(manifest, into: to)
            for file in manifest.files { console.print("\(to)/\(file.name)") }
        }
    }

    struct Verify: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Read checkpoints again and compare every SHA-256.",
            discussion: "Example: coord checkpoint verify"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The beginning of a digest; without it, all that are here.")
        var checkpoint: String?

        func perform(_ console: Console) throws {
            let rows = try common.registry().read { snapshot in
                try checkpoint.map { [try snapshot.checkpoint(matching: $0)] }
                    ?? snapshot.checkpoints().filter { $0.isHome && $0.state != .deleted }
            }
            let store = try common.workspace().openStore()
            let problems = rows.flatMap { store.verify($0.manifest) }
            for problem in problems {
                console.isJSON ? console.json(problem) : console.print(problem.message)
            }
            guard problems.isEmpty else {
                throw Outcome(
                    exitCode: .failed,
                    message: "\(problems.count) problems in \(rows.count) checkpoints",
                    hint:
                        "put the named files back from a backup, or from the store of a host that holds the "
                        + "checkpoint: coord checkpoint list --json names them"
                )
            }
            if !console.isJSON { console.print("\(rows.count) checkpoints verified") }
        }
    }

    struct Pin: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Keep a checkpoint, whatever the policy says.",
            discussion: "Example: coord checkpoint pin 3f9a1c"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The beginning of its digest.")
        var checkpoint: String

        func perform(_ console: Console) throws {
            try common.change(checkpoint, "pinned", console) { try $0.pin($1, true) }
        }
    }

    struct Unpin: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Leave a checkpoint to the policy again.",
            discussion: "Example: coord checkpoint unpin 3f9a1c"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The beginning of its digest.")
        var checkpoint: String

        func perform(_ console: Console) throws {
            try common.change(checkpoint, "unpinned", console) { try $0.pin($1, false) }
        }
    }

    struct Remove: CoordCommand {
        static let configuration = CommandConfiguration(
            commandName: "rm",
            abstract: "Put a checkpoint into the trash for 14 days.",
            discussion: """
                Example: coord checkpoint rm 3f9a1c

                Pinned ones, model versions and what such came from are refused. Nothing empties the trash
                yet: the bytes stay.
                """
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The beginning of its digest.")
        var checkpoint: String

        func perform(_ console: Console) throws {
            try common.change(
                checkpoint,
                "in the trash for 14 days; coord checkpoint undelete brings it back",
                console
            ) {
                try $0.trash($1, until: Machine.unixTime + 14 * 86_400)
            }
        }
    }

    struct Undelete: CoordCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take a checkpoint out of the trash.",
            discussion: "Example: coord checkpoint undelete 3f9a1c"
        )
        @OptionGroup var common: CommonOptions
        @Argument(help: "The beginning of its digest.")
        var checkpoint: String

        func perform(_ console: Console) throws {
            try common.change(checkpoint, "back", console) { try $0.undelete($1) }
        }
    }
}

extension CommonOptions {
    /// Changes what the registry says of one checkpoint.
    fileprivate func change(
        _ text: String,
        _ done: String,
        _ console: Console,
        _ body: (RegistryTransaction, Digest) throws -> Void
    ) throws {
        let registry = try Registry(path: workspace().registryPath, access: .readWrite)
        let row = try registry.write { transaction in
            let row = try transaction.checkpoint(matching: text)
            try body(transaction, row.manifest)
            try transaction.log(
                "checkpoint",
                "\(row.manifest.short) \(done)",
                who: CommonOptions.who,
                run: row.run,
                time: Machine.unixTime
            )
            return row
        }
        console.say("checkpoint \(row.manifest.short) of epoch \(row.epoch): \(done)")
    }
}
