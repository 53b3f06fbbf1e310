internal import Basics
internal import Collectives
internal import Tensors
internal import Training

/// `coord-bench train RANK MODEL STEPS memory|tcp|whole PORT|ADDRESS:PORT...`: one member of a data-parallel training, as a process of its own.
///
/// Every member is started alike but for its rank; member i listens at the i-th address, or port of loopback. The first one prints a
/// JSON line with the time of its steps.
enum TrainSuite {
    /// What all members are started with: two lanes, batch 64, AdamW.
    struct Job {
        var rank: Int
        var addresses: [String]
        var model: String
        var steps: Int
        /// Values go through memory, as between workers of one machine, or over TCP, as between machines; there while the
        /// rest is computed, or, with `whole`, all at the end.
        var way: String
    }

    /// A group as the loop's exchange.
    private final class GroupExchange: GradientExchange {
        let group: Group
        let lanes: LaneSet
        let memory: SharedArena?
        init(_ group: Group, lanes: LaneSet, memory: SharedArena?) {
            self.group = group
            self.lanes = lanes
            self.memory = memory
        }
        func begin(
            operation: UInt64,
            contributions: [Contribution],
            buckets: [Range<Int>],
            width: Int,
            sum: UnsafeMutableBufferPointer<Float>
        ) -> Bool {
            group.begin(
                operation: operation,
                contributions: contributions.map { ($0.subtree, $0.values) },
                width: width,
                sum: sum
            )
        }
        func give(buckets: Int) { group.give(buckets: buckets) }
        func abandon() { group.close() }
        func takeMemory(count: Int) -> UnsafeMutableBufferPointer<Float>? { memory?.allocate(count) }
        func giveBack(_ block: UnsafeMutableBufferPointer<Float>) { memory?.free(block) }
        func exchange(
            operation: UInt64,
            contributions: [Contribution],
            laneValues: inout [Double],
            sum: UnsafeMutableBufferPointer<Float>,
            settles: Bool
        ) throws -> ExchangeOutcome {
            try group.reduce(
                operation: operation,
                contributions: contributions.map { ($0.subtree, $0.values) },
                laneValues: &laneValues,
                sum: sum
            )
            return .committed
        }
    }

    /// Trains and, as the first member, prints.
    static func run(_ job: Job) throws {
        let kernels = try Workload.kernels()
        let workload = try Workload.named(job.model)
        let lanes = 2
        let record = workload.record(lanes: lanes, kernels: kernels)
        let sets = LanePlanner.assign(laneCount: lanes, weights: job.addresses.map { _ in 1 })
        let run = RunID("bench")
        guard let run else { preconditionFailure("a run id") }
        let endpoint = try Endpoint(
            transport: job.way == "memory" ? DirectTransport() : TCPTransport(),
            address: job.addresses[job.rank]
        )
        var options = Group.Options()
        if job.way != "whole" {
            options.buckets = try Model(
                workload.model,
                inputShape: workload.shape,
                classCount: workload.classes
            ).gradientBuckets.ranges
        }
        let group = try Group.open(
            endpoint: endpoint,
            run: run,
            generation: 1,
            rank: job.rank,
            members: job.addresses.enumerated().map {
                Member(rank: $0.offset, address: $0.element, lanes: sets[$0.offset])
            },
            laneCount: lanes,
            secret: Redacted(Array("bench".utf8)),
            deadline: .now + .seconds(20),
            options: options
        )
        defer { group.close() }
        let watch = StepSuite.Stopwatch()
        let loop = try TrainingLoop(
            record: record,
            samples: StepSuite.Noise(workload, lanes: lanes, steps: job.steps),
            exchange: GroupExchange(group, lanes: sets[job.rank], memory: endpoint.memory),
            laneThreads: 1,
            observer: watch
        )
        try loop.run()
        guard job.rank == 0 else { return }
        let sorted = watch.seconds.dropFirst(job.steps / 5).sorted()
        let median = sorted[sorted.count / 2]
        print(
            "{\"suite\":\"train\",\"model\":\"\(job.model)\",\"members\":\(job.addresses.count),\"lanes\":\(lanes),"
                + "\"batch\":\(record.spec.batch),\"kernels\":\"\(kernels.rawValue)\",\"steps\":\(sorted.count),"
                + "\"min_ms\":\(sorted[0] * 1000),\"p50_ms\":\(median * 1000)}"
        )
    }
}
