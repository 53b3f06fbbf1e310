internal import ArgumentParser
internal import Basics

@main
struct Coord: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "coord",
        abstract: "One training cluster of all that answers ssh.",
        discussion: """
            coord up            bring the cluster of ./cluster.yaml up, train, deploy the best
            coord status        hosts, run, what is served, what could be lost
            coord predict FILE  ask the deployed model
            """,
        version: "coord 0.1.0",
        subcommands: [
            Initialize.self, Keys.self, Up.self, Down.self, Status.self, Plan.self, Doctor.self,
            Preflight.self, Run.self, Drill.self,
            DataCommand.self,
            CheckpointCommand.self, ModelCommand.self, Deploy.self, Rollback.self, Predict.self, Events.self,
            Docs.self, CoordinatorCommand.self,
        ]
    )

    static func main() {
        do {
            var command = try parseAsRoot()
            try command.run()
            ThisProcess.end(.ok)
        } catch {
            let code = exitCode(for: error)
            let text = fullMessage(for: error)
            if !text.isEmpty {
                if code.isSuccess { print(text) } else { Console(isJSON: false).write(text + "\n") }
            }
            ThisProcess.end(code.rawValue)
        }
    }
}
