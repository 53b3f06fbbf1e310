import Basics
import CoordTesting
import Glibc
import Testing
import Wire

@testable import Agent

@Suite struct EventSpoolTests {
    private func append(_ spool: EventSpool, _ member: Int) throws -> AgentEvent {
        try spool.append(
            run: try #require(RunID("r1")),
            attempt: 1,
            member: member,
            report: .joined(generation: member, repeats: false),
            time: 1
        )
    }

    @Test func eventsAreNumberedWithoutGapsAndReadFromAnywhere() throws {
        try withTemporaryDirectory { folder throws in
            let spool = try EventSpool(directory: folder)
            let written = try (0..<7).map { try append(spool, $0) }
            let first = written[0].sequence
            #expect(written.map(\.sequence) == Array(first...first + 6))
            #expect(try spool.read(after: 0, limit: 100) == written)
            #expect(try spool.read(after: first + 2, limit: 2) == Array(written[3..<5]))
            #expect(try spool.read(after: first + 6, limit: 2).isEmpty)
        }
    }

    @Test func anotherAgentFindsTheEventsAndGoesOnCounting() throws {
        try withTemporaryDirectory { folder throws in
            let first = try append(try EventSpool(directory: folder), 0)
            let again = try EventSpool(directory: folder)
            #expect(try append(again, 1).sequence == again.read(after: 0, limit: 1)[0].sequence + 1)
            #expect(try again.read(after: 0, limit: 9).first == first)
        }
    }

    @Test func aHostThatWasWipedCountsOnAboveWhatItSaidBefore() throws {
        try withTemporaryDirectory { folder throws in
            let before = try append(try EventSpool(directory: folder), 0)
            try Files.remove(folder + "/events.jsonl")
            // The clock that numbers begin at has milliseconds.
            while Int(Machine.unixTime * 1000) <= before.sequence {}
            let wiped = try EventSpool(directory: folder)
            let after = try append(wiped, 1)
            #expect(after.sequence > before.sequence)
            #expect(try wiped.read(after: before.sequence, limit: 9) == [after])
        }
    }

    @Test func whatTheCoordinatorHasIsDroppedAndNumbersGoOn() throws {
        try withTemporaryDirectory { folder throws in
            let path = folder + "/events.jsonl"
            let spool = try EventSpool(directory: folder)
            let written = try (0..<100).map { try append(spool, $0) }
            let whole = try Files.read(path).count
            // Not worth it yet.
            try spool.forget(through: written[50].sequence)
            #expect(try Files.read(path).count == whole)
            try spool.forget(through: written[50].sequence, slack: 0)
            #expect(try Files.read(path).count < whole / 2)
            #expect(try spool.read(after: 0, limit: 1000) == Array(written[51...]))
            #expect(try spool.read(after: written[98].sequence, limit: 9) == [written[99]])
            // The last one stays whatever the coordinator says, also that it has more than there is.
            try spool.forget(through: written[99].sequence + 1000, slack: 0)
            #expect(try spool.read(after: 0, limit: 1000) == [written[99]])
            let next = try append(spool, 100)
            #expect(next.sequence == written[99].sequence + 1)
            #expect(try EventSpool(directory: folder).read(after: 0, limit: 9) == [written[99], next])
            try spool.forget(through: 0, slack: 0)
            #expect(try spool.read(after: 0, limit: 9).count == 2)
        }
    }

    @Test func eventsAreReadWholeWhileOthersAreDropped() throws {
        try withTemporaryDirectory { folder throws in
            let spool = try EventSpool(directory: folder)
            let first = try append(spool, 0).sequence
            let done = Mailbox<Int>()
            OSThread.start(name: "reader") {
                var next = first
                while next < first + 400 {
                    for event in (try? spool.read(after: next, limit: 50)) ?? [] {
                        guard event.sequence == next + 1 else { return done.put(event.sequence) }
                        next = event.sequence
                    }
                    try? spool.forget(through: next, slack: 4000)
                }
                done.put(0)
            }
            for member in 1...400 { _ = try append(spool, member) }
            #expect(done.take(milliseconds: 30_000) == 0)
        }
    }

    @Test func whatAFullDiskCannotTakeIsToldAndComesIntoTheFileLater() throws {
        try withTemporaryDirectory { folder throws in
            let path = folder + "/events.jsonl"
            let spool = try EventSpool(directory: folder)
            try #require(symlink("/dev/full", path) == 0)
            let written = try (0..<5).map { try append(spool, $0) }
            #expect(spool.isFull && spool.last == written[4].sequence)
            #expect(try spool.read(after: 0, limit: 9) == written)
            #expect(try spool.read(after: written[1].sequence, limit: 2) == Array(written[2..<4]))
            // What is known elsewhere needs no memory either.
            try spool.forget(through: written[1].sequence)
            #expect(try spool.read(after: 0, limit: 9) == Array(written[2...]))
            try Files.remove(path)
            let next = try append(spool, 5)
            #expect(!spool.isFull && next.sequence == written[4].sequence + 1)
            #expect(try spool.read(after: 0, limit: 9) == Array(written[2...]) + [next])
            #expect(
                try EventSpool(directory: folder).read(after: 0, limit: 9) == Array(written[2...]) + [next]
            )
        }
    }

    @Test func onAFullDiskWhatIsKnownIsDroppedFromTheFile() throws {
        try withTemporaryDirectory { folder throws in
            let path = folder + "/events.jsonl"
            let spool = try EventSpool(directory: folder)
            let first = try append(spool, 0)
            try Files.move(path, to: folder + "/full")
            try #require(symlink("/dev/full", path) == 0)
            let second = try append(spool, 1)
            try Files.remove(path)
            try Files.move(folder + "/full", to: path)
            #expect(try spool.read(after: 0, limit: 1) == [first])
            #expect(try spool.read(after: first.sequence, limit: 9) == [second])
            try spool.forget(through: first.sequence)
            #expect(try Files.read(path).isEmpty)
            #expect(try spool.read(after: first.sequence, limit: 9) == [second])
            let third = try append(spool, 2)
            #expect(try EventSpool(directory: folder).read(after: 0, limit: 9) == [second, third])
        }
    }

    @Test func aLineThatWasCutOffByADeathIsDropped() throws {
        try withTemporaryDirectory { folder throws in
            _ = try append(try EventSpool(directory: folder), 0)
            try Files.append(Array(#"{"attempt":1,"mem"#.utf8), to: folder + "/events.jsonl")
            let again = try EventSpool(directory: folder)
            #expect(try append(again, 1).sequence == again.read(after: 0, limit: 1)[0].sequence + 1)
            #expect(try again.read(after: 0, limit: 9).count == 2)
        }
    }
}

@Suite(.timeLimit(.minutes(5))) struct CommandBoxTests {
    private func plan(_ number: Int) throws -> GenerationPlan {
        GenerationPlan(
            run: try #require(RunID("r1")),
            attempt: 1,
            number: number,
            members: [],
            writers: [],
            secret: WireSecret([1])
        )
    }

    @Test func theNewestGenerationCountsAndOlderOnesAreHistory() throws {
        let box = CommandBox()
        try [1, 3, 2].forEach { box.put(try plan($0)) }
        #expect(box.newest == 3)
        #expect(box.wait(newerThan: 1, milliseconds: 10)?.number == 3)
        #expect(box.wait(newerThan: 3, milliseconds: 10) == nil)
    }

    @Test func aNewerGenerationInterruptsWhoeverExchanges() throws {
        let box = CommandBox()
        let interrupted = Mailbox<Int>()
        box.onInterrupt { interrupted.put(1) }
        box.put(try plan(1))
        #expect(interrupted.take(milliseconds: 5000) == 1)
        box.put(try plan(1))
        #expect(interrupted.take(milliseconds: 10) == nil)
    }

    @Test func aWaiterIsWokenByTheNextGeneration() throws {
        let box = CommandBox()
        let next = try plan(4)
        OSThread.start(name: "announcer") { box.put(next) }
        #expect(box.wait(newerThan: 0, milliseconds: 20_000)?.number == 4)
    }
}
