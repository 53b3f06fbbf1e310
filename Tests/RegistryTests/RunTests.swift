import Basics
import Foundation
import GRDB
import Testing

@testable import Registry

@Suite struct `Runs, hosts and datasets` {
    @Test func `come back as they were put`() throws {
        let scratch = try Scratch()
        let spec = RunSpec(
            name: "digits",
            model: TypedSpec(type: "mlp", parameters: ["hidden": .list([.integer(64), .integer(32)])]),
            epochs: 3,
            batch: 64,
            lanes: 2,
            optimizer: TypedSpec(type: "adamw", parameters: ["learning_rate": .number(0.002)]),
            schedule: TypedSpec(type: "constant")
        )
        let record = RunRecord(spec: spec, dataset: digest(1), kernels: .v3, worker: digest(2))
        let host = HostRow(
            name: "3090",
            address: "192.168.1.50",
            instance: "x1",
            worker: digest(3),
            kernels: .v3,
            cores: 8,
            memory: ByteCount(64_000_000_000),
            lastSeen: 12.5,
            phase: "ready"
        )
        let old = DatasetRow(
            name: "digits",
            manifest: digest(4),
            count: 9,
            classes: ["a"],
            shape: [4],
            added: 1
        )
        let new = DatasetRow(
            name: "digits",
            manifest: digest(5),
            count: 8,
            classes: ["b"],
            shape: [1, 8, 8],
            added: 2
        )
        let parent = try makeRun("a-0")
        var run = RunRow(
            id: try runID("a-1"),
            name: "digits",
            record: record,
            fileText: "cluster: 'home'\n",
            clusterFile: digest(6),
            created: 7,
            parent: RunParent(run: parent.id, checkpoint: digest(8))
        )
        run.samplesPerSecond = 1234.5
        run.weights = digest(9)
        run.message = "no \"quotes\" lost"
        let worker = RunWorkerRow(
            run: run.id,
            rank: 1,
            host: "3090",
            lanes: LaneSet(bits: .max),
            state: "training"
        )
        let generation = GenerationRow(
            run: run.id,
            number: 4,
            members: [GenerationMember(rank: 1, host: "3090", lanes: LaneSet([0, 1]))],
            reason: "worker 0 left",
            time: 8
        )
        try scratch.registry.write { transaction in
            try transaction.put(host)
            try transaction.put(old)
            try transaction.put(new)
            try transaction.create(parent)
            try transaction.create(run)
            try transaction.put(worker)
            try transaction.put(generation)
            try transaction.put(generation)
        }
        run.generations = 1
        try scratch.registry.read { snapshot in
            let hosts = try snapshot.hosts()
            let datasets = try snapshot.datasets()
            let before = try snapshot.dataset(manifest: digest(4))
            let stored = try snapshot.run(run.id)
            let workers = try snapshot.workers(of: run.id)
            let generations = try snapshot.generations(of: run.id)
            #expect(hosts == [host])
            #expect(datasets == [new])
            #expect(before == old)
            #expect(stored == run)
            #expect(workers == [worker])
            #expect(generations == [generation])
        }
    }

    @Test func `are found by id, by its beginning, by name and as latest`() throws {
        let scratch = try Scratch()
        try scratch.registry.write { transaction in
            try transaction.create(makeRun("20261121-101502-aaaaa", created: 3))
            try transaction.create(makeRun("20261121-101502-aaaab", name: "mnist", created: 2))
            try transaction.create(makeRun("20261121-1015", name: "mnist", created: 1))
        }
        for (text, expected) in [
            ("latest", "20261121-101502-aaaaa"), ("20261121-1015", "20261121-1015"),
            ("20261121-101502-aaaab", "20261121-101502-aaaab"), ("mnist", "20261121-101502-aaaab"),
        ] {
            #expect(try scratch.registry.read { try $0.run(matching: text).id.text } == expected)
        }
        let many = try refusal { _ = try scratch.registry.read { try $0.run(matching: "2026") } }
        #expect(many.code == .ambiguous)
        for text in ["2027", "20261121-101502-aaaaz", "", "Nothing here"] {
            let none = try refusal { _ = try scratch.registry.read { try $0.run(matching: text) } }
            #expect(none.code == .notFound)
            #expect(none.message.contains("'\(text)'"))
        }
    }

    @Test func `change as a whole or not at all, and a finished run stays finished`() throws {
        struct Stop: Error {}
        let scratch = try Scratch()
        let id = try runID("a-1")
        try scratch.registry.write { try $0.create(makeRun("a-1")) }
        #expect(throws: Stop.self) {
            try scratch.registry.write { transaction in
                try transaction.updateRun(id) { $0.state = .running }
                throw Stop()
            }
        }
        #expect(try scratch.registry.read { try $0.run(id)?.state } == .queued)
        #expect(try scratch.registry.read { try $0.activeRuns().map(\.id) } == [id])
        try scratch.registry.write { _ = try $0.updateRun(id) { $0.state = .finished } }
        let back = try refusal {
            try scratch.registry.write { _ = try $0.updateRun(id) { $0.state = .running } }
        }
        #expect(back.code == .conflict)
        let twice = try refusal { try scratch.registry.write { try $0.create(makeRun("a-1")) } }
        #expect(twice.code == .conflict)
    }

    @Test func `show the keys that scripts rely on`() throws {
        let scratch = try Scratch()
        let run = try makeRun("a-1")
        try scratch.registry.write { transaction in
            try transaction.create(run)
            try transaction.updateRun(run.id) {
                $0.steps = 20
                $0.weights = digest(3)
            }
            try transaction.put(
                RunWorkerRow(run: run.id, rank: 0, host: "local", lanes: LaneSet([0, 1]), state: "left")
            )
            try transaction.put(
                EpochMetrics(
                    run: run.id,
                    epoch: 2,
                    step: 20,
                    trainLoss: 0.5,
                    valLoss: .nan,
                    valAccuracy: 0.75,
                    time: 1
                )
            )
            try transaction.put(makeCheckpoint(1, run: run.id, accuracy: 0.5))
            try transaction.put(makeCheckpoint(2, run: run.id, accuracy: 0.75))
        }
        let summary = try scratch.registry.read { try $0.summary(of: run.id) }
        let text = try JSONText.encode(summary)
        #expect(
            text == """
                {"best":{"checkpoint":"\(digest(2))","step":20,"val_accuracy":0.75},"engine":null,"epoch":0,"exchange":null,\
                "generations":0,"kernels":null,"lanes":0,"memory":[],"message":null,\
                "metrics":{"train_loss":0.5,"val_accuracy":0.75,"val_loss":null},"notices":[],"run":"a-1",\
                "samples_per_second":null,"state":"queued","step":20,"step_seconds":null,"weights_sha256":"\(digest(3))",\
                "worker_sha256":null,"workers":[{"host":"local","lanes":[0,1],"steps":0}]}
                """
        )
    }
}

@Suite struct `Metrics and agents' events` {
    @Test func `that come twice count once`() throws {
        let scratch = try Scratch()
        let registry = scratch.registry
        let run = try runID("a-1")
        try registry.write { try $0.create(makeRun("a-1")) }
        var applied = 0
        func deliver(_ numbers: ClosedRange<Int64>, spool: String = "s") throws -> Bool {
            try registry.apply(host: "pod", run: run, spool: spool, through: numbers.upperBound) {
                transaction,
                after in
                for number in numbers where number > after {
                    try transaction.put([makeStep(Int(number), run: run)])
                    applied += 1
                }
            }
        }
        let answers = [try deliver(1...5), try deliver(1...5), try deliver(3...8), try deliver(2...8)]
        #expect(answers == [true, false, true, false])
        #expect(applied == 8)
        #expect(try registry.read { try $0.cursor(host: "pod", run: run, spool: "s") } == 8)
        #expect(try registry.read { try $0.cursor(host: "other", run: run, spool: "s") } == 0)
        // A host whose folder was wiped counts from 1 again: nothing of it may be taken for old.
        let fresh = try deliver(1...3, spool: "another")
        #expect(fresh)
        #expect(applied == 11)
        #expect(try registry.read { try $0.steps(of: run).map(\.step) } == Array(1...8))
        #expect(try registry.read { try $0.stepTimes(of: run) } == nil)
        let times = [1.0, 3.0].map {
            StepTimes(data: $0, forward: 2 * $0, backward: 0, exchange: 0.5, update: $0)
        }
        try registry.write { transaction in
            try transaction.put(
                times.enumerated().map { number, times in
                    var step = makeStep(number + 1, run: run)
                    step.times = times
                    return step
                }
            )
        }
        let told = try registry.read { try $0.steps(of: run).map(\.times) }
        #expect(told == times + [StepTimes?](repeating: nil, count: 6))
        let mean = StepTimes(data: 2, forward: 4, backward: 0, exchange: 0.5, update: 2)
        #expect(try registry.read { try $0.stepTimes(of: run) } == mean)
        #expect(try registry.read { try $0.stepTimes(of: run, last: 1) } == times[1])
    }

    @Test func `and their cursor move together or not at all`() throws {
        struct Stop: Error {}
        let scratch = try Scratch()
        let run = try runID("a-1")
        try scratch.registry.write { try $0.create(makeRun("a-1")) }
        #expect(throws: Stop.self) {
            try scratch.registry.apply(host: "pod", run: run, through: 3) { transaction, _ in
                try transaction.put([makeStep(1, run: run)])
                throw Stop()
            }
        }
        #expect(try scratch.registry.read { try $0.cursor(host: "pod", run: run) } == 0)
        #expect(try scratch.registry.read { try $0.steps(of: run).isEmpty })
    }

    @Test func `keep what is not a number as nothing, and page by step`() throws {
        let scratch = try Scratch()
        let run = try runID("a-1")
        try scratch.registry.write { transaction in
            try transaction.create(makeRun("a-1"))
            try transaction.put([makeStep(1, run: run, loss: .nan), makeStep(2, run: run, loss: .infinity)])
            try transaction.put((3...9).map { makeStep($0, run: run) })
        }
        try scratch.registry.read { snapshot in
            let all = try snapshot.steps(of: run)
            let page = try snapshot.steps(of: run, after: 4, limit: 2)
            let last = try snapshot.latestStep(of: run)
            #expect(all.map(\.loss) == [nil, nil] + Array(repeating: 0.5, count: 7))
            #expect(page == [makeStep(5, run: run), makeStep(6, run: run)])
            #expect(last == makeStep(9, run: run))
        }
    }

    @Test func `go in by hundreds within milliseconds`() throws {
        let scratch = try Scratch()
        let run = try runID("a-1")
        try scratch.registry.write { try $0.create(makeRun("a-1")) }
        let clock = ContinuousClock()
        let times = try (0..<20).map { batch in
            try clock.measure {
                try scratch.registry.write { transaction in
                    try transaction.put((0..<100).map { makeStep(batch * 100 + $0, run: run) })
                }
            }
        }
        print("100 steps in one transaction: least \(times.min() ?? .zero), most \(times.max() ?? .zero)")
        // The best of twenty: the disk and its fsync are shared with others.
        #expect(times.contains { $0 < .milliseconds(25) })
    }

    @Test func `are an audit that nobody can change, and that can be followed`() throws {
        let scratch = try Scratch()
        let run = try runID("a-1")
        let ids = try scratch.registry.write { transaction in
            try [
                transaction.log("run.started", "off it goes", who: "me", run: run, time: 1),
                transaction.log(
                    "worker.lost",
                    "gone",
                    who: "coordinator",
                    run: run,
                    host: "pod",
                    data: "{}",
                    time: 2
                ),
                transaction.log("worker.joined", "back", who: "coordinator", host: "pod", time: 3),
                transaction.log("workers", "not a worker.", who: "me", time: 4),
            ]
        }
        func list(_ filter: EventFilter) throws -> [Int64] {
            try scratch.registry.read { try $0.events(filter).map(\.id) }
        }
        let everything = try list(EventFilter())
        let worker = try list(EventFilter(kinds: ["worker."]))
        let some = try list(EventFilter(kinds: ["worker.", "run.started"], run: run))
        let host = try list(EventFilter(host: "pod"))
        let later = try list(EventFilter(since: ids[1]))
        let nextOnly = try list(EventFilter(since: ids[0], limit: 1))
        let tail = try list(EventFilter(limit: 2))
        #expect(everything == ids)
        #expect(worker == [ids[1], ids[2]])
        #expect(some == [ids[0], ids[1]])
        #expect(host == [ids[1], ids[2]])
        #expect(later == [ids[2], ids[3]])
        #expect(nextOnly == [ids[1]])
        #expect(tail == [ids[2], ids[3]])
        for sql in ["UPDATE events SET message = ''", "DELETE FROM events"] {
            let error = try refusal { try scratch.registry.write { try $0.execute(sql) } }
            #expect(error.code == .conflict)
        }
    }
}
