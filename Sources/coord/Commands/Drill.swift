internal import ArgumentParser
internal import Basics
internal import Coordinator
internal import Registry
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

struct Drill: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "Break something in the run that is on, and report what came of it.",
        discussion: """
            Example: coord drill kill --host 3090 -y

            kill        SIGKILL for a worker's process
            stop        SIGSTOP, and SIGCONT after --seconds: longer than the silence limit (1 s, 3 s over long ways)
                        and the worker is left out, shorter and nobody is
            partition   the worker's links to the others carry nothing for --seconds
            slow        the worker gets half of its processor's time for --seconds: lanes move to the others
            corrupt     a bit of the worker's next frame to each other worker is flipped on its way

            The worker's own agent does it, to that worker alone. The report says how long until it was noticed and
            until all others worked again, the longest step less the usual one, and which steps were computed again.
            Every step is committed only when all members hold a result with one digest; --twin also follows the run
            to its end and compares its weights with those of the same run undisturbed, which is done behind it
            where none is known. A worker that was killed is started again after a rest.
            """
    )
    @OptionGroup var common: CommonOptions
    @Argument(
        help: "kill, stop, partition, slow or corrupt.",
        transform: { word in
            guard let kind = Injury.Kind(rawValue: word) else {
                let known = Injury.Kind.allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("\(word) is no drill; there are \(known)")
            }
            return kind
        }
    )
    var kind: Injury.Kind
    @Option(help: "Not before this step is done; it hits a few steps later. Default: now.")
    var at: Int?
    @Option(help: "A worker of this host. Default: any.")
    var host: String?
    @Option(help: "The worker with this number. Default: the last one.")
    var worker: Int?
    @Option(help: "How long it lasts. Default: 4, slow 15.")
    var seconds: Double?
    @Flag(help: "Compare the weights with those of the same run undisturbed.")
    var twin = false
    @Flag(name: .short, help: "Do not ask.")
    var yes = false

    func validate() throws {
        if let seconds, !(seconds > 0 && seconds <= 3600) {
            throw ValidationError("--seconds must be above 0 and at most 3600, not \(seconds)")
        }
        if let at, at < 1 { throw ValidationError("--at must be a step from 1 on, not \(at)") }
    }

    func perform(_ console: Console) throws {
        if let host { try common.checkHost(host) }
        let whose = worker.map { "worker \($0)" } ?? host.map { "a worker of \($0)" } ?? "a worker"
        if !yes {
            guard isatty(0) != 0, !console.isJSON else {
                throw Outcome(
                    exitCode: .usage,
                    message: "a drill harms a run, and nobody can be asked here",
                    hint: "coord drill \(kind.rawValue) -y"
                )
            }
            guard console.confirm("\(kind.rawValue) \(whose) of the run that is on?") else {
                throw Outcome(exitCode: .failed, message: "nothing was done")
            }
        }
        let injury = Injury(kind, seconds: seconds ?? (kind == .slow ? 15 : 4))
        let request = DrillRequest(injury, host: host, worker: worker, step: at, who: CommonOptions.who)
        let workspace = try common.workspace()
        guard let client = CoordinatorProgram.running(workspace) else {
            throw Outcome(
                exitCode: .failed,
                message: "no coordinator is at work here, so no run is",
                hint: "coord up starts one"
            )
        }
        var report: DrillReport?
        let follower = RunFollower(console: console)
        let result = try follower.follow(
            client,
            .drill(request),
            onEvent: { event in
                if case .drill(let found) = event { report = found }
            }
        )
        try Outcome.check(result)
        guard let report else {
            throw Outcome(exitCode: .bug, message: "the drill ended without a report")
        }
        if twin { try compare(report, console, follower) }
        guard report.end != .tooLong, report.membersAgree, report.stepsMissing == 0 else {
            throw Outcome(
                exitCode: .failed,
                message:
                    "the run did not stand it: \(report.end.rawValue), \(report.stepsMissing) steps missing",
                hint: "coord events --run \(report.run) tells what happened"
            )
        }
    }

    /// What `--twin` found.
    private struct Comparison: Encodable {
        let type = "twin"
        var run: RunID
        var twin: RunID
        var weights: Digest
        var twinWeights: Digest
        var sameBits: Bool
    }

    /// Follows the run to its end and compares it with the same run undisturbed.
    private func compare(_ report: DrillReport, _ console: Console, _ follower: RunFollower) throws {
        let workspace = try common.workspace()
        try Outcome.check(
            try follower.follow(try CoordinatorProgram.connect(workspace), .attach(run: report.run))
        )
        let mine = try finished(report.run)
        if try undisturbed(like: mine) == nil {
            console.say("the same run once more, undisturbed, to compare with")
            let again = UpRequest(fileText: mine.fileText, path: common.file, who: CommonOptions.who)
            try Outcome.check(try follower.follow(try CoordinatorProgram.connect(workspace), .up(again)))
        }
        guard let other = try undisturbed(like: mine), let weights = mine.weights,
            let twinWeights = other.weights
        else {
            throw Outcome(
                exitCode: .failed,
                message: "there is no undisturbed run to compare with: the second one met a fault of its own",
                hint: "coord up -y runs it once more; compare weights_sha256 in coord run show"
            )
        }
        let found = Comparison(
            run: mine.id,
            twin: other.id,
            weights: weights,
            twinWeights: twinWeights,
            sameBits: weights == twinWeights
        )
        console.json(ifAsked: found)
        if !console.isJSON {
            let verdict = found.sameBits ? "yes" : "NO"
            console.print(
                "same bits       \(verdict): weights \(weights.short), undisturbed \(twinWeights.short) (\(other.id))"
            )
        }
        guard found.sameBits else {
            throw Outcome(
                exitCode: .failed,
                message: "run \(mine.id) ended with other weights than the undisturbed \(other.id)",
                hint: "an exchange other than sync depends on who held which lanes; else this is a bug"
            )
        }
    }

    private func finished(_ id: RunID) throws -> RunRow {
        guard let row = try common.registry().read({ try $0.run(id) }), row.state == .finished else {
            throw Outcome(
                exitCode: .failed,
                message: "run \(id) did not finish",
                hint: "coord run show \(id)"
            )
        }
        return row
    }

    /// A finished run with the same record in which nobody was lost or came.
    private func undisturbed(like row: RunRow) throws -> RunRow? {
        try common.registry().read { snapshot in
            try snapshot.runs().first { other in
                guard other.id != row.id, other.state == .finished, other.record == row.record,
                    other.parent == nil, other.attempt == 1
                else { return false }
                return try snapshot.generations(of: other.id).dropFirst().allSatisfy {
                    LaneMoves.areAll(of: $0.reason)
                }
            }
        }
    }
}

extension DrillReport {
    /// The report for people.
    var lines: [String] {
        func seconds(_ value: Double?) -> String {
            guard let value else { return "-" }
            return value < 1 ? "\((value * 1000).digits(0)) ms" : "\(value.digits(2)) s"
        }
        let noticed =
            detectedSeconds == nil ? "not at all" : "\(seconds(detectedSeconds)): \(detectedBy ?? "")"
        let back =
            recoveredSeconds == nil
            ? "no other generation was needed" : "\(seconds(recoveredSeconds)), \(generations) generations"
        let stall = "\(seconds(stallSeconds)) (usual step \(seconds(usualStepSeconds)))"
        return [
            "drill           \(kind.rawValue) of worker \(worker) on \(host), after step \(step)",
            "detected in     \(noticed)",
            "recovered in    \(back)",
            "longest step    \(stall) beyond the usual one",
            "steps           \(stepsRepeated) computed again, \(stepsMissing) missing",
            "worker          \(isLeftOut ? "left out" : "stayed")\(lanesFollowed ? ", lanes followed its speed" : "")",
            "members agree   \(membersAgree ? "yes" : "NO"): on the digest of every step since",
        ]
    }
}
