internal import Basics
internal import Serving

@main
enum Main {
    static func main() async {
        ThisProcess.end(await ServeProgram.run(Array(CommandLine.arguments.dropFirst())))
    }
}
