import Basics
import GRDB
import Testing

@testable import Registry

@Suite struct `Model versions and releases` {
    let scratch: Scratch
    let run: RunID
    var registry: Registry { scratch.registry }

    init() throws {
        scratch = try Scratch()
        run = try runID("a-1")
        try scratch.registry.write { [run] transaction in
            try transaction.create(makeRun("a-1"))
            for number in 1...4 {
                try transaction.put(makeCheckpoint(number, run: run, accuracy: 0.1 * Double(number)))
            }
        }
    }

    private func register(_ number: Int) throws -> ModelVersionRow {
        try registry.write {
            try $0.registerVersion(of: "digits", checkpoint: digest(number), run: run, time: Double(number))
        }
    }

    private func release(_ version: Int, time: Double) throws -> ReleaseRow {
        try registry.write { transaction in
            let row = try transaction.planRelease(
                host: "3090",
                model: "digits",
                version: version,
                reason: "asked",
                time: time
            )
            for state in [ReleaseState.sending, .verifying, .live] {
                try transaction.advanceRelease(row.id, to: state, goldenDifference: 1e-6, time: time)
            }
            return try #require(try transaction.release(row.id))
        }
    }

    @Test func `count from 1, once a checkpoint, and never change`() throws {
        let numbers = [try register(1), try register(2), try register(1), try register(3)].map(\.version)
        #expect(numbers == [1, 2, 1, 3])
        for sql in [
            "UPDATE model_versions SET manifest = ''", "DELETE FROM model_versions WHERE version = 3",
        ] {
            let error = try refusal { try registry.write { try $0.execute(sql) } }
            #expect(error.code == .conflict)
        }
        let missing = try refusal { _ = try register(99) }
        #expect(missing.code == .notFound)
    }

    @Test func `are named by number, alias or alone`() throws {
        for number in 1...3 { _ = try register(number) }
        try registry.write { transaction in
            try transaction.setAlias("best", of: "digits", to: 1, time: 1)
            try transaction.setAlias("best", of: "digits", to: 2, time: 2)
        }
        for (text, version) in [("digits", 3), ("digits@1", 1), ("digits@best", 2)] {
            #expect(try registry.read { try $0.modelVersion(matching: text).version } == version)
        }
        for text in ["digits@9", "digits@worst", "other", "", "@", "digits@"] {
            let error = try refusal { _ = try registry.read { try $0.modelVersion(matching: text) } }
            #expect(error.code == .notFound)
        }
        for alias in ["7", "", "a b"] {
            let error = try refusal {
                try registry.write { try $0.setAlias(alias, of: "digits", to: 1, time: 1) }
            }
            #expect(error.code == .misuse)
        }
    }

    @Test func `take each other's place on a host, and go back at once`() throws {
        for number in 1...3 { _ = try register(number) }
        let releases = try (1...3).map { try release($0, time: Double($0)) }
        #expect(releases.map(\.goldenDifference) == [1e-6, 1e-6, 1e-6])
        let before = try registry.read {
            (try $0.currentRelease(host: "3090")?.version, try $0.previousRelease(host: "3090")?.version)
        }
        #expect(before == (3, 2))
        let target = try #require(try registry.read { try $0.previousRelease(host: "3090") })
        let back = try registry.write {
            try $0.rollBack(host: "3090", to: target, reason: "too slow", time: 9)
        }
        #expect((back.version, back.state, back.finished) == (2, .live, 9))
        try registry.read { snapshot in
            let history = try snapshot.releases(host: "3090").map(\.state)
            let previous = try snapshot.previousRelease(host: "3090")?.version
            let aliases = try snapshot.aliases(of: "digits")
            let problems = try snapshot.problems()
            #expect(history == [.live, .rolledBack, .superseded, .superseded])
            // Not 3, which was gone back from.
            #expect(previous == 1)
            #expect(aliases.map { "\($0.alias)=\($0.version)" } == ["deployed:3090=2"])
            #expect(problems.isEmpty)
        }
        let plan = try registry.read { try $0.keepPlan(KeepSpec(best: 1, latest: 1), now: 0) }
        #expect(
            plan.firmReasons(digest(2)) == [
                .version("digits@2"), .alias("digits@deployed:3090"), .deployed(host: "3090"),
            ]
        )
        #expect(plan.firmReasons(digest(1)) == [.version("digits@1"), .fallback(host: "3090")])
    }

    @Test func `go one at a time a host, and forward only`() throws {
        for number in 1...3 { _ = try register(number) }
        let waiting = try registry.write { transaction in
            try (1...3).map {
                try transaction.planRelease(
                    host: "pod",
                    model: "digits",
                    version: $0,
                    reason: "better",
                    time: 1
                )
            }
        }
        #expect(
            try registry.read { try $0.releases(host: "pod").map(\.state) } == [
                .planned, .superseded, .superseded,
            ]
        )
        try registry.write { _ = try $0.advanceRelease(waiting[2].id, to: .sending, time: 2) }
        let next = try registry.write {
            try $0.planRelease(host: "pod", model: "digits", version: 1, reason: "again", time: 3)
        }
        let busy = try refusal {
            try registry.write { _ = try $0.advanceRelease(next.id, to: .sending, time: 3) }
        }
        #expect(busy.code == .conflict)
        let leap = try refusal {
            try registry.write { _ = try $0.advanceRelease(next.id, to: .live, time: 3) }
        }
        #expect(leap.code == .conflict)
        try registry.write { transaction in
            try transaction.advanceRelease(waiting[2].id, to: .failed, reason: "golden check", time: 4)
            try transaction.advanceRelease(waiting[2].id, to: .failed, time: 5)
            try transaction.advanceRelease(next.id, to: .sending, time: 5)
        }
        let failed = try registry.read { try $0.release(waiting[2].id) }
        #expect(failed?.reason == "golden check" && failed?.finished == 4)
        #expect(try registry.read { try $0.previousRelease(host: "pod") } == nil)
    }

    @Test func `are checked by fsck against checkpoints and the store`() throws {
        _ = try register(1)
        _ = try release(1, time: 1)
        #expect(try registry.read { try $0.problems { _ in true } }.isEmpty)
        let absent = try registry.read { try $0.problems { $0 != digest(4) } }
        #expect(absent.map(\.kind) == [.notInStore])
        #expect(absent[0].message.contains(digest(4).short))
        try registry.write { transaction in
            try transaction.execute(
                "UPDATE checkpoints SET trashed_until = 5 WHERE manifest = ?",
                [digest(1).hex]
            )
            try transaction.execute("UPDATE releases SET manifest = ?", [digest(2).hex])
            try transaction.updateRun(run) { $0.state = .finished }
        }
        try registry.close()
        var configuration = Configuration()
        configuration.foreignKeysEnabled = false
        let raw = try DatabaseQueue(path: scratch.path, configuration: configuration)
        try raw.write { try $0.execute(sql: "INSERT INTO model_aliases VALUES ('digits', 'lost', 77, 0)") }
        try raw.close()
        let reader = try Registry(path: scratch.path, access: .readOnly)
        let kinds = try reader.read { try $0.problems() }.map(\.kind)
        #expect(kinds == [.danglingReference, .promiseBroken, .checkpointMismatch, .finishedWithoutWeights])
        try reader.close()
    }
}
