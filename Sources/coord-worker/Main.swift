internal import Agent
internal import Basics

@main
enum Main {
    static func main() {
        ThisProcess.end(WorkerProgram.run(Array(CommandLine.arguments.dropFirst())))
    }
}
