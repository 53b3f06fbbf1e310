import Basics
import CoordTesting
import Glibc
import Synchronization
import Testing

@testable import Remote

@Suite(.timeLimit(.minutes(5)))
struct LocalHostTests {
    private let host = LocalHost()

    @Test func runGivesOutputErrorsAndExit() throws {
        let result = try host.run("cat; echo err >&2; exit 3", input: Array("in".utf8))
        #expect(
            result == CommandResult(exit: .exited(3), output: Array("in".utf8), errors: Array("err\n".utf8))
        )
        #expect(try host.run("kill -KILL $$").exit == .signalled(SIGKILL))
    }

    @Test func hostAloneKeepsACommandThatHangsUpFromEndingUs() {
        #expect(host.name == "local")
        var present = sigaction()
        #expect(sigaction(SIGPIPE, nil, &present) == 0)
        #expect(present.__sigaction_handler.sa_handler != nil, "a write without a reader is an error number")
    }

    @Test func bigInputAndOutputDoNotBlockEachOther() throws {
        let input = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        #expect(try host.run("cat", input: input).output == input)
        #expect(try host.run("exit 4", input: input).exit == .exited(4))
    }

    @Test func slowCommandMeetsItsDeadlineAndIsEnded() throws {
        let error = #expect(throws: RemoteError.self) {
            try host.run("sleep 30 & wait", input: [], timeout: .milliseconds(300))
        }
        #expect(error?.code == .timedOut)
    }

    @Test func streamIsTheCommandsInputAndOutput() throws {
        let end = Mutex<StreamEnd?>(nil)
        let threads = Workers()
        threads.expect()
        let stream = try host.openStream("cat; echo why >&2; exit 6") { value in
            end.withLock { $0 = value }
            threads.done()
        }
        defer { close(stream) }
        let bytes = [UInt8](repeating: 9, count: 1 << 20)
        threads.start {
            _ = bytes.withUnsafeBytes { try? Files.writeAll($0, to: stream, path: "stream") }
            shutdown(stream, Int32(SHUT_WR))
        }
        #expect(readAll(stream).digest == Digest(of: bytes))
        threads.wait()
        #expect(end.withLock { $0?.exit } == .exited(6))
        #expect(end.withLock { $0?.errorText } == "why\n")
    }

    @Test func closeEndsWhatRuns() throws {
        let stream = try host.openStream("exec sleep 60")
        defer { close(stream) }
        host.close()
        #expect(readAll(stream).count == 0)
        #expect(throws: RemoteError.self) { try host.run("true") }
    }
}
