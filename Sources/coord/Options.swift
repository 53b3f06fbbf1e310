internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import Coordinator
internal import Foundation
internal import Registry

/// What every command takes.
struct CommonOptions: ParsableArguments {
    @Option(name: [.short, .customLong("file")], help: "The cluster file.")
    var file = "cluster.yaml"

    @Flag(help: "Print data as JSON, one object a line.")
    var json = false

    var console: Console { Console(isJSON: json) }

    /// The folder of the cluster file, with its store and registry.
    func workspace() throws -> Workspace {
        let folder = Files.parent(file)
        guard Files.kind(folder) == .directory else {
            throw CoordinatorError(
                "\(folder): no such folder",
                hint: "coord init writes a cluster file",
                exitCode: .badInput
            )
        }
        return try Workspace(directory: folder)
    }

    /// The cluster file, read and checked.
    func cluster() throws -> ClusterFile { try ClusterFile.load(path: file) }

    /// Who asks, for the audit.
    static var who: String { "\(NSUserName())@\(Machine.hostName)" }

    /// A run that a person means; nil stays nil.
    func runID(_ text: String?) throws -> RunID? {
        try text.map { text in try registry().read { try $0.run(matching: text).id } }
    }

    /// Refuses a host that the cluster file does not name.
    func checkHost(_ name: String) throws {
        let file = try cluster()
        guard file.host(name) == nil else { return }
        throw Outcome(
            exitCode: .badInput,
            message: "\(self.file): unknown host \(name)",
            hint: "the file names \(file.hosts.map(\.name).joined(separator: ", "))"
        )
    }

    /// The coordinator with the hosts of the file ready.
    func connected(_ console: Console) throws -> CoordinatorClient {
        let workspace = try workspace()
        let request = UpRequest(
            fileText: try Files.readText(file),
            path: file,
            submits: false,
            who: CommonOptions.who
        )
        try Outcome.check(try CoordinatorProgram.connect(workspace).ask(.up(request)) { _ in })
        return try CoordinatorProgram.connect(workspace)
    }

    /// The registry, for reading.
    func registry() throws -> Registry {
        try Registry(path: workspace().registryPath, access: .readOnly)
    }
}

/// A command that works with what `coord` keeps: errors become messages with hints, and exit codes.
protocol CoordCommand: ParsableCommand {
    var common: CommonOptions { get }
    /// Does the work.
    func perform(_ console: Console) throws
}

extension CoordCommand {
    func run() throws {
        let console = common.console
        do {
            try perform(console)
            console.exit(.ok)
        } catch let error as any ExplainedError {
            console.fail(error.exitCode, error.message, error.hint)
            throw ArgumentParser.ExitCode(error.exitCode.rawValue)
        }
    }
}

/// How a command that asked the coordinator ended.
struct Outcome: ExplainedError {
    var exitCode: Basics.ExitCode
    var message: String
    var hint: String?

    /// Throws unless all went well.
    static func check(_ result: (exitCode: Basics.ExitCode, message: String?, hint: String?)) throws {
        guard result.exitCode != .ok else { return }
        throw Outcome(exitCode: result.exitCode, message: result.message ?? "it failed", hint: result.hint)
    }
}
