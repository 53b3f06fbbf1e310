internal import Agent
internal import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

@main
enum Main {
    static func main() {
        exit(WorkerProgram.run(Array(CommandLine.arguments.dropFirst())).rawValue)
    }
}
