import Basics
import CoordTesting
import Foundation
import Logging
import Testing
import Wire

@testable import Agent

@Suite("Checkpoints that only this host holds") struct CheckpointLedgerTests {
    private let digests = (0..<4).map { Digest(of: [UInt8($0)]) }

    @Test func whatIsMadeIsUnsavedUntilTheCoordinatorHasIt() throws {
        try withTemporaryDirectory { folder throws in
            let ledger = try CheckpointLedger(directory: folder)
            for digest in digests { try ledger.made(digest) }
            try ledger.made(digests[1])
            #expect(ledger.unsaved == digests)
            try ledger.saved([digests[0], digests[2]])
            #expect(ledger.unsaved == [digests[1], digests[3]])
            try ledger.made(digests[0])
            #expect(ledger.unsaved == [digests[1], digests[3]], "one that is home stays home")
        }
    }

    @Test func theNextAgentKnowsItAlsoAfterALineThatWasCutOff() throws {
        try withTemporaryDirectory { folder throws in
            let ledger = try CheckpointLedger(directory: folder)
            for digest in digests { try ledger.made(digest) }
            try ledger.saved([digests[3]])
            try Files.append(Array("-\(digests[0].hex.prefix(20))".utf8), to: folder + "/checkpoints.log")
            let next = try CheckpointLedger(directory: folder)
            #expect(next.unsaved == Array(digests[..<3]))
            try next.saved([digests[0]])
            try next.made(digests[3])
            #expect(try CheckpointLedger(directory: folder).unsaved == Array(digests[1..<3]))
        }
    }
}

@Suite("The stop command", .timeLimit(.minutes(5))) struct StopCommandTests {
    @Test func itRunsByTheShellAndItsOutputIsKept() throws {
        try withTemporaryDirectory { folder throws in
            let log = folder + "/stop.log"
            let good = StopCommand.run("touch '\(folder)/gone'; echo bye", log: log)
            #expect(good == StopResult(isSuccess: true, text: "exit status 0: bye"))
            #expect(Files.kind(folder + "/gone") == .file)
            let bad = StopCommand.run("echo 'no such pod' >&2; exit 3", log: log)
            #expect(bad == StopResult(isSuccess: false, text: "exit status 3: no such pod"))
            #expect(try Files.readText(log) == "bye\nno such pod\n")
        }
    }

    @Test(arguments: [
        ("runpodctl pod stop $RUNPOD_POD_ID", ["RUNPOD_POD_ID"]),
        ("a ${B} '$C' \"$D\" \\$E $1 $$ ${F:-x} $B", ["B", "D"]),
        ("halt", []),
    ])
    func whatItTakesFromTheEnvironmentIsFound(command: String, names: [String]) {
        #expect(StopCommand.variables(in: command) == names)
    }

    @Test func aVariableThatNobodySetIsDoubtedBeforeItMatters() {
        #expect(
            StopCommand.doubt(about: "halt $COORD_NOBODY_SETS_THIS")
                == "the stop command uses $COORD_NOBODY_SETS_THIS, not set on the host"
        )
        #expect(StopCommand.doubt(about: "echo $PATH") == nil)
        #expect(StopCommand.doubt(about: nil) == nil)
    }
}

@Suite("Carrying out the lease", .timeLimit(.minutes(5))) struct LeaseKeeperTests {
    private func keeper(_ folder: String, unsaved: Int = 0) -> LeaseKeeper {
        LeaseKeeper(
            directory: AgentDirectory(root: folder),
            sources: .init(trainers: { [] }, isServing: { false }, unsaved: { unsaved }),
            logger: Logger(label: "test")
        )
    }

    @Test func theTermsAreKeptForTheNextAgentAndForNobodyElse() throws {
        try withTemporaryDirectory { folder throws in
            let terms = AgentTerms(lease: 7, stop: "halt --token x", idleStop: 500)
            try keeper(folder).agree(terms)
            let path = folder + "/terms.json"
            let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
            #expect(mode == 0o600)
            #expect(keeper(folder).status().isArmed)
        }
    }

    @Test func anIdleRentedHostRunsItsCommand() throws {
        try withTemporaryDirectory { folder throws in
            let keeper = keeper(folder)
            try keeper.agree(
                AgentTerms(
                    lease: 1000,
                    stop: "mkfifo \(folder)/told 2>/dev/null; echo x > \(folder)/told",
                    idleStop: 1
                )
            )
            // A reader of the fifo waits for the command instead of looking again and again.
            #expect(try ChildProcess.run(["/usr/bin/mkfifo", folder + "/told"]).exit.isSuccess)
            keeper.start { _ in }
            let told = try ChildProcess.run(["/bin/cat", folder + "/told"])
            #expect(told.output == Array("x\n".utf8))
        }
    }

    @Test func anOwnAgentEndsByItself() throws {
        try withTemporaryDirectory { folder throws in
            let keeper = keeper(folder)
            try keeper.agree(AgentTerms(lease: 1))
            let ended = Mailbox<String>()
            keeper.start { ended.put($0) }
            #expect(ended.take(milliseconds: 30_000) == "no work and no word from the coordinator for 1 s")
        }
    }

    @Test func whatBeginsWhileTheHostIsBeingStoppedIsRefused() throws {
        try withTemporaryDirectory { folder throws in
            let keeper = keeper(folder)
            #expect(
                try ChildProcess.run(["/usr/bin/mkfifo", folder + "/begun", folder + "/go"]).exit.isSuccess
            )
            let command = "echo x > \(folder)/begun; cat \(folder)/go"
            try keeper.agree(AgentTerms(lease: 1000, stop: command, idleStop: 1000))
            let done = Mailbox<StopResult?>()
            OSThread.start(name: "stopper") { done.put(keeper.stopOnDemand()) }
            _ = try ChildProcess.run(["/bin/cat", folder + "/begun"])
            #expect(throws: AgentError.self) { try keeper.used() }
            #expect(keeper.status().reason == "is being stopped")
            _ = try ChildProcess.run(["/bin/sh", "-c", "echo > \(folder)/go"])
            #expect(done.take()?.isSuccess == true)
            #expect(throws: Never.self) { try keeper.used() }
        }
    }
}

@Suite("Connections of a machine that came back") struct ConnectionTableTests {
    @Test func aNewSessionEndsTheConnectionsOfTheOldOne() throws {
        let table = ConnectionTable()
        func connection() throws -> (ours: FrameChannel, theirs: FrameChannel) {
            let (a, b) = try UnixSocket.pair()
            return (FrameChannel(socket: a), FrameChannel(socket: b))
        }
        let old = [try connection(), try connection()]
        for channel in old { _ = table.entered("one", channel.ours) }
        let fresh = try connection()
        let number = table.entered("two", fresh.ours)
        for channel in old { #expect(try channel.theirs.receive(timeoutMilliseconds: 20_000) == nil) }
        try fresh.ours.send(AgentReply.done)
        #expect(try fresh.theirs.receive(timeoutMilliseconds: 20_000) != nil)
        table.left(number)
        _ = table.entered("three", try connection().ours)
        try fresh.ours.send(AgentReply.done)
    }
}

@Suite("Why the kernel killed a trainer") struct MemoryWatchTests {
    private final class Counter: Sendable {
        let value = Mailbox<MemoryWatch.Counts>()
    }

    @Test func aKillThatTheKernelCountsIsNamedOnce() {
        let count = Shared(MemoryWatch.Counts(machine: 7))
        let watch = MemoryWatch { count.value }
        #expect(watch.cause() == nil)
        count.value = .init(machine: 8)
        #expect(watch.cause()?.hasPrefix("the host ran out of memory (") == true)
        #expect(watch.cause() == nil, "one kill explains one end")
        count.value = .init(machine: 10, group: 1, limit: 512 << 20)
        #expect(watch.cause() == "out of memory at the limit of 512 MiB here")
    }

    @Test func theKernelsOwnCountsAreRead() {
        #expect(MemoryWatch.counts().machine >= 0)
    }
}

/// A value that a test changes under a closure.
private final class Shared<Value>: @unchecked Sendable {
    // Safety: used by one test on one thread.
    var value: Value
    init(_ value: Value) { self.value = value }
}
