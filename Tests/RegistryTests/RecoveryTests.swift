import Basics
import GRDB
import Testing

@testable import Registry

#if canImport(Glibc)
import Glibc
#endif

@Suite struct `A registry file` {
    @Test func `is made from nothing and opened again`() throws {
        try withDirectory { directory in
            let path = "\(directory)/registry.sqlite"
            let first = try Registry(path: path, access: .readWrite)
            try first.write { try $0.create(makeRun("a-1")) }
            try first.close()
            let again = try Registry(path: path, access: .readWrite)
            #expect(try again.read { try $0.latestRun()?.id.text } == "a-1")
            try again.close()
            try again.close()
            #expect(throws: (any Error).self) { try again.read { try $0.runs() } }
        }
    }

    @Test func `commits with a full sync into a WAL, with foreign keys`() throws {
        let scratch = try Scratch()
        try scratch.registry.write { transaction in
            let database = transaction.database
            let synchronous = try Int.fetchOne(database, sql: "PRAGMA synchronous")
            let journal = try String.fetchOne(database, sql: "PRAGMA journal_mode")
            let foreignKeys = try Bool.fetchOne(database, sql: "PRAGMA foreign_keys")
            #expect((synchronous, journal, foreignKeys) == (2, "wal", true))
        }
        let error = try refusal {
            try scratch.registry.write { try $0.put([makeStep(1, run: runID("nobody"))]) }
        }
        #expect(error.code == .conflict)
    }

    @Test func `of a newer coord is refused with exit code 76 and not touched`() throws {
        try withDirectory { directory in
            let path = "\(directory)/registry.sqlite"
            try Registry(path: path, access: .readWrite).close()
            let queue = try DatabaseQueue(path: path)
            try queue.write {
                try $0.execute(sql: "INSERT INTO grdb_migrations VALUES ('9999 from the future')")
            }
            try queue.close()
            for access in [Registry.Access.readWrite, .readOnly] {
                let error = try refusal { _ = try Registry(path: path, access: access) }
                #expect(error.code == .newerSchema)
                #expect(error.exitCode == .protocolVersion)
                #expect(error.message.contains(path))
            }
        }
    }

    @Test func `of the first version is read as it was written, whatever came later`() throws {
        try withDirectory { directory in
            let path = "\(directory)/registry.sqlite"
            let pool = try DatabasePool(path: path)
            try RegistrySchema.migrator.migrate(pool, upTo: "0001 the first tables")
            let schema = try pool.read {
                try String.fetchAll(
                    $0,
                    sql: """
                        SELECT sql FROM sqlite_master WHERE sql IS NOT NULL
                        AND name NOT LIKE 'grdb%' AND name NOT LIKE 'sqlite%' ORDER BY name
                        """
                )
            }
            // A released migration is never edited: add another one behind it.
            #expect(Digest(of: schema.joined(separator: ";")).short == "8403aa56b768")
            try pool.write { database in
                try database.execute(
                    sql: """
                        INSERT INTO runs (id, name, state, file_text, created, attempt, generations, steps, epoch, lanes)
                        VALUES ('a-1', 'digits', 'interrupted', 'cluster: home', 5.5, 2, 3, 40, 4, 2);
                        INSERT INTO checkpoints (run, manifest, epoch, step, state, at_home, size, created, pinned)
                        VALUES ('a-1', '\(digest(1).hex)', 4, 40, 'held', 0, 7, 6.5, 1);
                        INSERT INTO checkpoint_copies VALUES ('a-1', '\(digest(1).hex)', 'pod');
                        """
                )
            }
            try pool.close()
            let registry = try Registry(path: path, access: .readWrite)
            let run = try #require(try registry.read { try $0.latestRun() })
            let checkpoint = try registry.read { try $0.latestCheckpoint(of: run.id) }
            #expect((run.state, run.attempt, run.generations, run.steps) == (.interrupted, 2, 3, 40))
            #expect(checkpoint?.hosts == ["pod"])
            #expect(checkpoint?.isPinned == true)
            try registry.close()
        }
    }

    @Test func `of an older coord is brought up to date by a writer and refused by a reader`() throws {
        try withDirectory { directory in
            let path = "\(directory)/registry.sqlite"
            try DatabasePool(path: path).close()
            let error = try refusal { _ = try Registry(path: path, access: .readOnly) }
            #expect(error.code == .olderSchema)
            try Registry(path: path, access: .readWrite).close()
            try Registry(path: path, access: .readOnly).close()
        }
    }

    @Test func `that is missing or in no folder is named`() throws {
        try withDirectory { directory in
            let missing = try refusal { _ = try Registry(path: "\(directory)/r.sqlite", access: .readOnly) }
            #expect(missing.code == .missing)
            let lost = try refusal { _ = try Registry(path: "\(directory)/no/r.sqlite", access: .readWrite) }
            #expect(lost.exitCode == .cannotWrite)
            #expect(lost.message.contains("\(directory)/no/r.sqlite"))
        }
    }

    @Test func `that is something else is named, with a hint`() throws {
        try withDirectory { directory in
            let path = "\(directory)/registry.sqlite"
            try Files.writeAtomically(String(repeating: "not a database. ", count: 1000), to: path)
            for access in [Registry.Access.readWrite, .readOnly] {
                let error = try refusal { _ = try Registry(path: path, access: access) }
                #expect(error.code == .corrupt)
                #expect(error.exitCode == .badInput)
                #expect(error.message.contains(path))
                #expect(error.hint?.contains("backup") == true)
            }
        }
    }

    @Test func `with overwritten pages is called damaged`() throws {
        try withDirectory { directory in
            let path = "\(directory)/registry.sqlite"
            let registry = try Registry(path: path, access: .readWrite)
            let run = try runID("a-1")
            try registry.write { transaction in
                try transaction.create(makeRun("a-1"))
                try transaction.put((1...2000).map { makeStep($0, run: run) })
            }
            try registry.close()
            // Everything into the main file, so that the damage below is not hidden by a copy in the WAL.
            let queue = try DatabaseQueue(path: path)
            try queue.writeWithoutTransaction { _ = try $0.checkpoint(.truncate) }
            try queue.close()
            var bytes = try Files.read(path)
            for index in (bytes.count / 2)..<bytes.count { bytes[index] = 0xA5 }
            try Files.writeAtomically(bytes, to: path)
            let damaged = try Registry(path: path, access: .readOnly)
            let problems = try? damaged.read { try $0.problems() }
            // SQLite either lists the damage or refuses to read on.
            #expect(problems.map { $0.contains { $0.kind == .damagedFile } } ?? true)
            let error = try refusal { _ = try damaged.read { try $0.steps(of: run) } }
            #expect(error.code == .corrupt)
            try damaged.close()
        }
    }

    @Test func `that cannot grow says that there is no space, and loses nothing`() throws {
        let scratch = try Scratch()
        let run = try runID("a-1")
        try scratch.registry.write { transaction in
            try transaction.create(makeRun("a-1"))
            let pages = try #require(try Int.fetchOne(transaction.database, sql: "PRAGMA page_count"))
            try transaction.database.execute(sql: "PRAGMA max_page_count = \(pages + 4)")
        }
        let error = try refusal {
            try scratch.registry.write { try $0.put((1...5000).map { makeStep($0, run: run) }) }
        }
        #expect(error.code == .cannotWrite)
        #expect(error.exitCode == .cannotWrite)
        #expect(error.message == "no space left for \(scratch.path)")
        #expect(try scratch.registry.read { try $0.steps(of: run) }.isEmpty)
        try scratch.registry.write { try $0.put([makeStep(1, run: run)]) }
        #expect(try scratch.registry.read { try $0.problems() }.isEmpty)
    }
}

@Suite struct `Reading beside a writer` {
    @Test(.timeLimit(.minutes(5))) func `never waits and never sees half a transaction`() async throws {
        let scratch = try Scratch()
        let path = scratch.path
        let registry = scratch.registry
        let run = try runID("a-1")
        try registry.write { try $0.create(makeRun("a-1")) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                for batch in 0..<60 {
                    try registry.write { transaction in
                        try transaction.put((0..<50).map { makeStep(batch * 50 + $0, run: run) })
                        try transaction.updateRun(run) { $0.steps = (batch + 1) * 50 }
                    }
                }
            }
            group.addTask {
                let reader = try Registry(path: path, access: .readOnly)
                var seen = -1
                while seen < 3000 {
                    let (count, steps) = try reader.read {
                        (try $0.steps(of: run).count, try $0.run(run)?.steps ?? -1)
                    }
                    #expect(count == steps)
                    #expect(steps >= seen)
                    seen = steps
                }
                try reader.close()
            }
            try await group.waitForAll()
        }
    }

    @Test func `works after a clean close, and refuses to write`() throws {
        try withDirectory { directory in
            let path = "\(directory)/registry.sqlite"
            let writer = try Registry(path: path, access: .readWrite)
            try writer.write { try $0.create(makeRun("a-1")) }
            try writer.close()
            let reader = try Registry(path: path, access: .readOnly)
            #expect(try reader.read { try $0.runs().count } == 1)
            let error = try refusal { try reader.write { try $0.create(makeRun("a-2")) } }
            #expect(error.code == .misuse)
            // The writer comes back while the reader is still there.
            let again = try Registry(path: path, access: .readWrite)
            try again.write { try $0.create(makeRun("a-2")) }
            #expect(try reader.read { try $0.runs().count } == 2)
            try reader.close()
            try again.close()
        }
    }

    @Test func `gives up on a writer that holds the lock, with exit code 75`() throws {
        let scratch = try Scratch()
        var configuration = Configuration()
        configuration.busyMode = .immediateError
        let other = try DatabaseQueue(path: scratch.path, configuration: configuration)
        try scratch.registry.write { _ in
            let error = try #require(throws: DatabaseError.self) {
                try other.write { try $0.execute(sql: "DELETE FROM hosts") }
            }
            #expect(RegistryError(error, path: scratch.path).exitCode == .locked)
        }
        try other.close()
    }
}

@Suite struct `A writer that is killed` {
    @Test(.timeLimit(.minutes(5))) func `loses nothing that was committed and leaves nothing half done`()
        async throws
    {
        let directory = try Files.makeTemporaryDirectory(prefix: "registry")
        defer { try? Files.remove(directory) }
        await #expect(processExitsWith: .signal(SIGKILL)) { [directory = directory as String] in
            let registry = try Registry(path: "\(directory)/registry.sqlite", access: .readWrite)
            let run = try runID("a-1")
            try registry.write { try $0.create(makeRun("a-1")) }
            for batch in 0..<20 {
                try registry.apply(host: "pod", run: run, through: Int64(batch + 1)) { transaction, _ in
                    try transaction.put((0..<50).map { makeStep(batch * 50 + $0, run: run) })
                }
            }
            try registry.apply(host: "pod", run: run, through: 21) { transaction, _ in
                // More than SQLite's page cache, so that half of it is in the WAL already.
                try transaction.put((1000..<60000).map { makeStep($0, run: run) })
                kill(getpid(), SIGKILL)
            }
        }
        let path = "\(directory)/registry.sqlite"
        #expect(try Files.size("\(path)-wal") > 1_000_000)
        let reader = try Registry(path: path, access: .readOnly)
        let run = try runID("a-1")
        #expect(try reader.read { try $0.steps(of: run).count } == 1000)
        let writer = try Registry(path: path, access: .readWrite)
        #expect(try writer.read { try $0.cursor(host: "pod", run: run) } == 20)
        #expect(try writer.read { try $0.problems() }.isEmpty)
        try writer.apply(host: "pod", run: run, through: 21) { transaction, after in
            #expect(after == 20)
            try transaction.put((1000..<1050).map { makeStep($0, run: run) })
        }
        #expect(try reader.read { try $0.steps(of: run).count } == 1050)
        try reader.close()
        try writer.close()
    }
}
