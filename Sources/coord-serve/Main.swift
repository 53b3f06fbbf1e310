internal import Basics
internal import Serving

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

@main
enum Main {
    static func main() async {
        exit(await ServeProgram.run(Array(CommandLine.arguments.dropFirst())).rawValue)
    }
}
