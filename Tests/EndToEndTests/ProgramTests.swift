import Basics
import CoordTesting
import Foundation
import Testing

/// The built programs from outside: help, references, exit codes.
///
/// `scripts/e2e` does the rest with real clusters.
@Suite(.timeLimit(.minutes(5))) struct ProgramTests {
    private func coord(_ arguments: String...) throws -> (exit: ProcessExit, output: String, errors: String) {
        let program = Bundle.main.bundleURL.appending(path: "coord").path
        let result = try ChildProcess.run([program] + arguments)
        return (
            result.exit, String(decoding: result.output, as: UTF8.self),
            String(decoding: result.errors, as: UTF8.self)
        )
    }

    @Test(arguments: [
        "init", "up", "down", "status", "plan", "deploy", "rollback", "predict", "events", "docs",
        "keys bootstrap",
        "keys list", "keys trust", "run list", "run show", "run attach", "run stop", "run resume",
        "run submit",
        "run logs", "data get", "data add", "data check", "data split", "data list", "data show",
        "checkpoint list",
        "checkpoint show", "checkpoint pin", "checkpoint unpin", "checkpoint restore", "checkpoint verify",
        "checkpoint rm", "checkpoint undelete", "model list", "model show",
    ])
    func everyCommandHelpsWithAnExample(command: String) throws {
        let program = Bundle.main.bundleURL.appending(path: "coord").path
        let result = try ChildProcess.run(
            [program] + command.split(separator: " ").map(String.init) + ["--help"]
        )
        let help = String(decoding: result.output, as: UTF8.self)
        #expect(result.exit == .exited(0))
        #expect(help.contains("Example: coord \(command)"), "\(help)")
    }

    @Test func theReferenceOfTheClusterFileIsPrinted() throws {
        let result = try coord("docs", "cluster")
        #expect(result.exit == .exited(0))
        #expect(result.output.contains("hosts:") && result.output.contains("warmup_steps"))
    }

    @Test func anUnknownFlagIsAUsageError() throws {
        #expect(try coord("up", "--nonsense").exit == .exited(64))
    }

    @Test func aMissingClusterFileIsNamedAndNothingIsMade() throws {
        try withTemporaryDirectory { folder throws in
            let result = try coord("plan", "-f", folder + "/absent.yaml")
            #expect(result.exit == .exited(65))
            #expect(result.errors.hasPrefix("coord: error: \(folder)/absent.yaml: no such file"))
            #expect(try Files.list(folder).isEmpty)
        }
    }

    @Test func withJSONTheLastLineOnStandardErrorIsTheExit() throws {
        try withTemporaryDirectory { folder throws in
            let result = try coord("plan", "--json", "-f", folder + "/absent.yaml")
            let line = try #require(result.errors.split(separator: "\n").last)
            let exit = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
            #expect(exit["type"] as? String == "exit")
            #expect(exit["code"] as? Int == 65)
            #expect((exit["message"] as? String)?.contains("no such file") == true)
        }
    }

    @Test func theWorkerSaysWhatItIsAndRefusesNonsense() throws {
        let worker = Bundle.main.bundleURL.appending(path: "coord-worker").path
        #expect(try ChildProcess.run([worker, "version"]).exit == .exited(0))
        let result = try ChildProcess.run([worker, "dance"])
        #expect(result.exit == .exited(64))
        #expect(String(decoding: result.errors, as: UTF8.self).contains("usage: coord-worker"))
    }
}
