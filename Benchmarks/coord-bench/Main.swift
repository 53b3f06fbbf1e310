/// `coord-bench SUITE [NUMBER...]`: runs one suite; each says what its numbers mean.
@main
enum Main {
    static func main() throws {
        let arguments = CommandLine.arguments.dropFirst()
        let numbers = arguments.dropFirst().compactMap { Int($0) } + [Int](repeating: 0, count: 3)
        switch arguments.first {
        case "allreduce" where arguments.count == 4:
            try AllReduceMember.run(rank: numbers[0], members: numbers[1], way: Array(arguments)[3])
        case "codecs": CodecSuite.run()
        case "push": try PushSuite.run(Array(arguments.dropFirst()))
        case "step":
            try StepSuite.run(
                threads: numbers[0] > 0 ? numbers[0] : 2,
                lanes: numbers[1] > 0 ? numbers[1] : 2,
                steps: numbers[2] > 0 ? numbers[2] : 200
            )
        case "train":
            let words = Array(arguments.dropFirst())
            guard words.count >= 5, let rank = Int(words[0]), let steps = Int(words[2]) else {
                return usage()
            }
            try TrainSuite.run(
                TrainSuite.Job(
                    rank: rank,
                    ports: words[4...].compactMap { Int($0) },
                    model: words[1],
                    steps: steps,
                    usesMemory: words[3] == "memory"
                )
            )
        default: usage()
        }
    }

    private static func usage() {
        print(
            """
            usage: coord-bench allreduce RANK MEMBERS WAY (by Benchmarks/allreduce-vs-peers.py)
                   coord-bench codecs
                   coord-bench step [threads] [lanes] [steps]
                   coord-bench train RANK MODEL STEPS memory|tcp PORT...
                   coord-bench push …
            """
        )
    }
}
