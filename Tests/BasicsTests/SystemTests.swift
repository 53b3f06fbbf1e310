import Basics
import Testing

@Suite(.timeLimit(.minutes(5))) struct SystemTests {
    @Test func atomicWritesReplaceTheWholeFileAndLeaveNothingBehind() throws {
        let folder = try Files.makeTemporaryDirectory(prefix: "files")
        defer { try? Files.remove(folder) }
        try Files.writeAtomically("one", to: folder + "/a")
        try Files.writeAtomically("two", to: folder + "/a")
        #expect(try Files.readText(folder + "/a") == "two")
        #expect(try Files.list(folder) == ["a"])
    }

    @Test func aFullDeviceIsNamed() {
        let error = #expect(throws: FileError.self) { try Files.append([1, 2, 3], to: "/dev/full") }
        #expect(error?.message == "cannot write /dev/full: no space left on device")
        #expect(error?.exitCode == .cannotWrite)
    }

    @Test func aMissingFileIsNamed() {
        let error = #expect(throws: FileError.self) { try Files.read("/nowhere/x") }
        #expect(error?.isMissing == true)
        #expect(error?.exitCode == .badInput)
    }

    @Test func aLockIsHeldByOneProcessAtATime() throws {
        let folder = try Files.makeTemporaryDirectory(prefix: "lock")
        defer { try? Files.remove(folder) }
        do {
            let held = try FileLock(folder + "/lock")
            let error = #expect(throws: FileError.self) { _ = try FileLock(folder + "/lock") }
            #expect(error?.exitCode == .locked)
            _ = consume held
        }
        _ = try FileLock(folder + "/lock")
    }

    @Test func aChildGetsInputAndItsOutputAndEndComeBack() throws {
        let result = try ChildProcess.run(
            ["/bin/sh", "-c", "cat; echo oops >&2; exit 7"],
            input: Array(repeating: 65, count: 300_000)
        )
        #expect(result.exit == .exited(7))
        #expect(result.output.count == 300_000)
        #expect(String(decoding: result.errors, as: UTF8.self) == "oops\n")
    }

    @Test func aMissingProgramIsAnErrorNotAnExitCode() {
        let error = #expect(throws: SpawnError.self) { try ChildProcess.run(["/nowhere/program"]) }
        #expect(error?.message == "cannot start /nowhere/program: no such file or directory")
    }

    @Test func aKilledProcessIsSeenToEnd() throws {
        let child = try ChildProcess(["/bin/sleep", "60"])
        let identity = try #require(ProcessIdentity(pid: child.pid))
        #expect(identity.isAlive)
        child.signal(9)
        #expect(identity.waitForEnd(milliseconds: 10_000))
        #expect(child.wait() == .signalled(9))
        #expect(!identity.isAlive)
    }
}
