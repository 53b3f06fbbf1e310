import Basics
import Testing

@testable import Registry

@Suite struct `Checkpoints` {
    let scratch: Scratch
    let run: RunID

    init() throws {
        scratch = try Scratch()
        run = try runID("a-1")
        try scratch.registry.write { try $0.create(makeRun("a-1")) }
    }

    @Test func `move forward only, and old news changes nothing`() throws {
        let held = makeCheckpoint(1, run: run, accuracy: 0.5, state: .held)
        let manifest = held.manifest
        let states = try scratch.registry.write { transaction in
            var states = [try transaction.put(held)]
            try transaction.markHome(manifest)
            states.append(try transaction.put(held))
            var second = held
            second.hosts = ["pod"]
            second.metrics = CheckpointMetrics(valAccuracy: 0.9, valLoss: 0.25)
            states.append(try transaction.put(second))
            return states
        }
        #expect(states.map(\.state) == [.held, .saved, .saved])
        #expect(states.map(\.isHome) == [false, true, true])
        #expect(states[2].hosts == ["local", "pod"])
        #expect(states[2].metrics == CheckpointMetrics(valAccuracy: 0.5, valLoss: 0.25))
        var moved = held
        moved.step += 1
        let error = try refusal { _ = try scratch.registry.write { try $0.put(moved) } }
        #expect(error.code == .conflict)
    }

    @Test func `on two hosts are saved while home is away`() throws {
        var row = makeCheckpoint(1, run: run, state: .held)
        let first = try scratch.registry.write { try $0.put(row) }
        row.hosts = ["local", "pod"]
        let second = try scratch.registry.write { try $0.put(row) }
        #expect([first.state, second.state] == [.held, .saved])
        #expect(!second.isHome)
        try scratch.registry.write { try $0.removeCopy(of: row.manifest, at: "pod") }
        let problems = try scratch.registry.read { try $0.problems() }
        #expect(problems.map(\.kind) == [.tooFewCopies])
    }

    @Test(
        arguments: [
            // (accuracy, loss) of steps 10, 20, 30, …; which is best by accuracy, which by loss
            ([(0.5, 0.9), (0.7, 0.8), (0.6, 0.7)], 2, 3),
            ([(0.7, 0.9), (0.7, 0.8), (0.7, 0.8)], 2, 2),
            ([(0.7, nil), (0.7, 0.8)], 2, 2),
            ([(nil, 0.1), (0.2, 0.8)], 2, 1),
            ([(Double.nan, 0.5), (0.2, .nan)], 2, 1),
            ([(nil, nil)], nil, nil),
        ] as [([(Double?, Double?)], Int?, Int?)]
    )
    func `are ranked by the monitor, then lower loss, then earlier step`(
        metrics: [(Double?, Double?)],
        byAccuracy: Int?,
        byLoss: Int?
    ) throws {
        try scratch.registry.write { transaction in
            for (index, (accuracy, loss)) in metrics.enumerated() {
                try transaction.put(makeCheckpoint(index + 1, run: run, accuracy: accuracy, loss: loss))
            }
        }
        let found = try scratch.registry.read {
            (try $0.best(of: run, by: .valAccuracy)?.step, try $0.best(of: run, by: .valLoss)?.step)
        }
        #expect(found.0 == byAccuracy.map { $0 * 10 })
        #expect(found.1 == byLoss.map { $0 * 10 })
        let unknown = try refusal { _ = try Monitor(named: "train_loss") }
        #expect(unknown.hint?.contains("val_accuracy or val_loss") == true)
    }

    @Test func `go to the trash and come back, and go for good only after the deadline`() throws {
        let rows = (1...3).map { makeCheckpoint($0, run: run, accuracy: Double($0) / 10) }
        let registry = scratch.registry
        try registry.write { transaction in for row in rows { try transaction.put(row) } }
        let manifest = rows[0].manifest
        try registry.write { try $0.trash(manifest, until: 100) }
        #expect(try registry.read { try $0.keepPlan(now: 99).inTrash.map(\.manifest) } == [manifest])
        let early = try refusal { try registry.write { try $0.markDeleted(manifest, now: 99) } }
        #expect(early.code == .protected)
        try registry.write { try $0.undelete(manifest) }
        #expect(try registry.read { try $0.checkpoint(manifest, of: run)?.isUsable } == true)
        try registry.write { try $0.trash(manifest, until: 100) }
        #expect(try registry.read { try $0.keepPlan(now: 100).deletable } == [manifest])
        try registry.write { try $0.markDeleted(manifest, now: 100) }
        let late = try refusal { try registry.write { try $0.undelete(manifest) } }
        #expect(late.code == .conflict)
        // Replayed news of an agent does not bring the bytes back.
        let replayed = try registry.write { try $0.put(rows[0]) }
        #expect(replayed.state == .deleted)
        #expect(!replayed.isHome && replayed.hosts.isEmpty)
        let removal = try refusal { try registry.write { try $0.execute("DELETE FROM checkpoints") } }
        #expect(removal.code == .conflict)
        #expect(try registry.read { try $0.problems() }.isEmpty)
    }

    @Test func `that are pinned or models are not trashed, and say why`() throws {
        let registry = scratch.registry
        let rows = (1...3).map { makeCheckpoint($0, run: run) }
        try registry.write { transaction in
            for row in rows { try transaction.put(row) }
            try transaction.pin(rows[0].manifest, true)
            _ = try transaction.registerVersion(of: "digits", checkpoint: rows[1].manifest, run: run, time: 1)
        }
        for (row, word) in zip(rows, ["pinned", "model digits@1"]) {
            let error = try refusal { try registry.write { try $0.trash(row.manifest, until: 9) } }
            #expect(error.code == .protected)
            #expect(error.message.contains(word))
        }
        try registry.write { transaction in
            try transaction.pin(rows[0].manifest, false)
            try transaction.trash(rows[0].manifest, until: 9)
            try transaction.trash(rows[2].manifest, until: 9)
            try transaction.pin(rows[2].manifest, true)
        }
        let states = try registry.read { try $0.checkpoints(of: run).map(\.isUsable) }
        #expect(states == [false, true, true])
    }

    @Test func `are found by the beginning of their digits`() throws {
        let row = makeCheckpoint(1, run: run)
        try scratch.registry.write { _ = try $0.put(row) }
        let found = try scratch.registry.read {
            try $0.checkpoint(matching: String(row.manifest.hex.prefix(6)))
        }
        #expect(found == row)
        for text in ["abc", "zzzz", "0000000"] {
            let error = try refusal { _ = try scratch.registry.read { try $0.checkpoint(matching: text) } }
            #expect(error.code == .notFound)
        }
    }
}

@Suite struct `The keep plan` {
    let run: RunID
    let other: RunID

    init() throws {
        run = try runID("a-1")
        other = try runID("b-1")
    }

    private func plan(
        _ rows: [CheckpointRow],
        best: Int = 1,
        latest: Int = 1,
        runs: [KeepPlan.Run] = [],
        claims: [Digest: [KeepReason]] = [:],
        now: Double = 0
    ) -> KeepPlan {
        let own = KeepPlan.Run(id: run, keep: KeepSpec(best: best, latest: latest))
        return KeepPlan(checkpoints: rows, runs: [own] + runs, claims: claims, now: now)
    }

    private func steps(_ rows: [CheckpointRow]) -> [Int] { rows.map { $0.step / 10 } }

    @Test(arguments: [
        // (best, latest) asked for; what of 1…6 may go, with accuracies .5 .9 .8 .9 .1 .2
        (1, 1, [1, 3, 4, 5]), (2, 1, [1, 3, 5]), (3, 2, [1]), (0, 0, [1, 3, 4, 5]), (9, 0, []),
    ])
    func `keeps the best and the last, one of each at the least`(best: Int, latest: Int, goes: [Int]) {
        let accuracies = [0.5, 0.9, 0.8, 0.9, 0.1, 0.2]
        let rows = (1...6).map { makeCheckpoint($0, run: run, accuracy: accuracies[$0 - 1]) }
        let result = plan(rows.shuffled(), best: best, latest: latest)
        #expect(steps(result.trashable) == goes)
        #expect(result.kept.count + goes.count == 6)
        #expect(result.kept.first { $0.checkpoint.step == 20 }?.reasons == [.best(1)])
        #expect(result.kept.last?.reasons.contains(.latest(1)) == true)
    }

    @Test func `never lets the only safe ones go for newer ones on one host`() {
        let rows =
            (1...2).map { makeCheckpoint($0, run: run, accuracy: 0.1 * Double($0)) }
            + (3...5).map { makeCheckpoint($0, run: run, accuracy: 0.1 * Double($0), state: .held) }
        let result = plan(rows)
        #expect(steps(result.trashable) == [1, 3, 4])
        #expect(result.kept.map(\.reasons) == [[.best(1), .latest(1)], [.best(1), .latest(1)]])
    }

    @Test func `keeps what is pinned, claimed, and what such came from, over runs`() throws {
        let third = try runID("c-1")
        var rows = (1...5).map { makeCheckpoint($0, run: run, accuracy: 0.1 * Double($0)) }
        rows[0].isPinned = true
        rows += [
            makeCheckpoint(11, run: other), makeCheckpoint(12, run: other), makeCheckpoint(21, run: third),
        ]
        let runs = [
            KeepPlan.Run(id: other, keep: KeepSpec(best: 1, latest: 1), parent: digest(3)),
            KeepPlan.Run(id: third, parent: digest(11)),
        ]
        let idle = plan(rows, runs: runs)
        #expect(steps(idle.trashable) == [2, 3, 4, 11])
        let deployed = plan(rows, runs: runs, claims: [digest(21): [.deployed(host: "3090")]])
        #expect(steps(deployed.trashable) == [2, 4])
        #expect(deployed.firmReasons(digest(11)) == [.parent(of: third)])
        #expect(deployed.firmReasons(digest(3)) == [.parent(of: other)])
        var busy = runs[0]
        busy.isActive = true
        let active = plan(rows, runs: [busy, runs[1]])
        #expect(steps(active.trashable) == [2, 4, 11])
    }

    @Test func `deletes bytes only when no run needs them any more`() {
        func trashed(_ number: Int, _ run: RunID, until deadline: Double?) -> CheckpointRow {
            var row = makeCheckpoint(number, run: run)
            row.trashedUntil = deadline
            return row
        }
        let rows = [
            trashed(1, run, until: 5), trashed(1, other, until: nil),
            trashed(2, run, until: 5), trashed(2, other, until: 6),
            trashed(3, run, until: 5), trashed(4, run, until: 5), trashed(5, run, until: nil),
        ]
        let claims = [digest(4): [KeepReason.alias("digits@best")]]
        #expect(plan(rows, claims: claims, now: 5).deletable == [digest(3)])
        #expect(plan(rows, claims: claims, now: 6).deletable == [digest(2), digest(3)].sorted())
        #expect(plan(rows, claims: claims, now: 4).deletable.isEmpty)
    }
}
