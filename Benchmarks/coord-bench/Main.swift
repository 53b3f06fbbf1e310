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
        case "gemm": try StepSuite.gemm()
        case "shakespeare" where arguments.count >= 2:
            try TextSuite.run(Array(arguments)[1], threads: max(1, numbers[0]))
        case "step" where arguments.count == 5:
            try StepSuite.run(
                Array(arguments)[1],
                threads: max(1, numbers[0]),
                lanes: numbers[1],
                steps: max(1, numbers[2])
            )
        case "train":
            let words = Array(arguments.dropFirst())
            guard words.count >= 5, let rank = Int(words[0]), let steps = Int(words[2]) else {
                return usage()
            }
            try TrainSuite.run(
                TrainSuite.Job(
                    rank: rank,
                    addresses: words[4...].map { $0.contains(":") ? $0 : "127.0.0.1:\($0)" },
                    model: words[1],
                    steps: steps,
                    way: words[3]
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
                   coord-bench gemm
                   coord-bench step WORKLOAD THREADS LANES|0 STEPS (by Benchmarks/engine-vs-torch.py)
                   coord-bench shakespeare FILE [THREADS]
                   coord-bench train RANK MODEL STEPS memory|tcp|whole PORT|ADDRESS:PORT...
                   coord-bench push …
            """
        )
    }
}
