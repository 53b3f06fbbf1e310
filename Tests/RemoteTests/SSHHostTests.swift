import Basics
import CoordTesting
import Glibc
import Synchronization
import Testing

@testable import Remote

@Suite(
    .enabled(if: LoopbackSSHServer.isAvailable, Comment(rawValue: LoopbackSSHServer.reason)),
    // Blocking tests queue for the pool's few threads, and the queue would count against their time limit.
    .serialized,
    .timeLimit(.minutes(5))
)
struct SSHHostTests {
    private let server: LoopbackSSHServer
    private let host: SSHHost

    init() throws {
        server = try LoopbackSSHServer()
        host = SSHHost(server.endpoint(), policy: .acceptNew)
    }

    @Test func runGivesOutputErrorsAndExit() throws {
        let result = try host.run("echo out; echo err >&2; exit 3")
        #expect(result.exit == .exited(3))
        #expect(result.text == "out")
        #expect(result.errorText == "err")
        #expect(try host.run("true").exit.isSuccess)
        #expect(try host.run("kill -TERM $$").exit == .signalled(SIGTERM))
        #expect(server.connections.count == 1, "three commands over one connection")
    }

    @Test func inputArrivesWhole() throws {
        let input = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        let result = try host.run("sha256sum; cat", input: input)
        #expect(result.text.prefix(64) == Digest(of: input).hex)
        #expect(try host.run("cat", input: input).output == input)
    }

    @Test func commandThatIgnoresItsInputIsNoError() throws {
        let result = try host.run("exit 4", input: [UInt8](repeating: 7, count: 5_000_000))
        #expect(result.exit == .exited(4))
    }

    @Test func exitThatComesLongAfterTheOutputIsTaken() throws {
        let started = ContinuousClock.now
        let result = try host.run("echo out; exec >&- 2>&-; sleep 0.2; exit 6")
        #expect(result.exit == .exited(6))
        #expect(result.text == "out")
        #expect(try host.run("exec >&- 2>&-; sleep 0.2; kill -KILL $$").exit == .signalled(SIGKILL))
        // Sooner than the heartbeat, which would bring it by chance.
        #expect(ContinuousClock.now - started < .seconds(10))
    }

    @Test func commandsRunSideBySide() throws {
        let results = Mutex<[String]>([])
        let threads = Workers()
        for index in 0..<4 {
            threads.start { [host] in
                let text = (try? host.run("cat; echo \(index)", input: Array("x".utf8)).text) ?? "failed"
                results.withLock { $0.append(text) }
            }
        }
        threads.wait()
        #expect(results.withLock { $0.sorted() } == ["x0", "x1", "x2", "x3"])
    }

    @Test func slowCommandMeetsItsDeadline() throws {
        let started = ContinuousClock.now
        let error = #expect(throws: RemoteError.self) {
            try host.run("sleep 30", input: [], timeout: .milliseconds(600))
        }
        #expect(error?.code == .timedOut)
        #expect(error?.phase == .command)
        #expect(ContinuousClock.now - started < .seconds(5))
        #expect(try host.run("echo again").text == "again")
    }

    @Test func endlessOutputIsCutOff() throws {
        let error = #expect(throws: RemoteError.self) { try host.run("cat /dev/zero") }
        #expect(error?.code == .tooMuchOutput)
    }

    @Test func streamCarries32MiBBothWays() throws {
        let stream = try host.openStream("cat")
        defer { close(stream) }
        let size = 32 << 20
        let block = (0..<(1 << 20)).map { UInt8(truncatingIfNeeded: ($0 &* 2_654_435_761) >> 7) }
        let sent = Mutex(DigestBuilder())
        let threads = Workers()
        threads.start {
            for _ in 0..<(size / block.count) {
                sent.withLock { $0.update(block) }
                _ = block.withUnsafeBytes { try? Files.writeAll($0, to: stream, path: "stream") }
            }
            shutdown(stream, Int32(SHUT_WR))
        }
        let received = readAll(stream)
        threads.wait()
        #expect(received.count == size)
        #expect(received.digest == sent.withLock { $0.finish() })
    }

    @Test func streamTellsHowItEnded() throws {
        let end = Mutex<StreamEnd?>(nil)
        let threads = Workers()
        threads.expect()
        let stream = try host.openStream("cat >&2; exit 9") { value in
            end.withLock { $0 = value }
            threads.done()
        }
        defer { close(stream) }
        _ = Array("why".utf8).withUnsafeBytes { try? Files.writeAll($0, to: stream, path: "stream") }
        shutdown(stream, Int32(SHUT_WR))
        #expect(readAll(stream).count == 0)
        threads.wait()
        let value = try #require(end.withLock { $0 })
        #expect(value.exit == .exited(9))
        #expect(value.errorText == "why")
        #expect(value.error == nil)
    }

    @Test func streamWhoseTwoSidesAreOverStillWaitsForTheExit() throws {
        let end = Mutex<StreamEnd?>(nil)
        let threads = Workers()
        threads.expect()
        // Longer than a stream that nobody listens to is given.
        let stream = try host.openStream("exec >&- 2>&-; sleep 2.5; exit 9") { value in
            end.withLock { $0 = value }
            threads.done()
        }
        defer { close(stream) }
        shutdown(stream, Int32(SHUT_WR))
        let started = ContinuousClock.now
        #expect(readAll(stream).count == 0)
        threads.wait()
        #expect(end.withLock { $0?.exit } == .exited(9))
        #expect(end.withLock { $0?.error } == nil)
        #expect(ContinuousClock.now - started < .seconds(10), "sooner than the heartbeat would bring it")
    }

    @Test func closedStreamEndsItsCommandAndConnection() throws {
        let threads = Workers()
        threads.expect()
        let stream = try host.openStream("exec cat") { _ in threads.done() }
        close(stream)
        threads.wait()
    }

    @Test func killedServerEndsTheStreamWithAReason() throws {
        let end = Mutex<StreamEnd?>(nil)
        let threads = Workers()
        threads.expect()
        let stream = try host.openStream("echo hello; exec sleep 60") { value in
            end.withLock { $0 = value }
            threads.done()
        }
        defer { close(stream) }
        var first = [UInt8](repeating: 0, count: 6)
        #expect(read(stream, &first, 6) == 6)
        for process in server.connections { kill(process, SIGKILL) }
        #expect(readAll(stream).count == 0)
        threads.wait()
        #expect(end.withLock { $0?.error?.code } == .connectionLost)
        #expect(end.withLock { $0?.error?.host } == "box")
        #expect(try host.run("echo back").text == "back")
    }

    @Test func killedServerEndsARunWithAReason() throws {
        #expect(try host.run("true").exit.isSuccess)
        let failure = Mutex<RemoteError?>(nil)
        let marker = "\(server.directory)/started"
        let threads = Workers()
        threads.start { [host] in
            do { _ = try host.run("touch \(marker); sleep 60") } catch {
                failure.withLock { $0 = error as? RemoteError }
            }
        }
        try waitUntil { Files.kind(marker) == .file }
        for process in server.connections { kill(process, SIGKILL) }
        threads.wait()
        #expect(failure.withLock { $0?.code } == .connectionLost)
    }

    @Test func closeEndsWhatIsOpen() throws {
        let stream = try host.openStream("cat")
        defer { close(stream) }
        host.close()
        #expect(readAll(stream).count == 0)
        #expect(throws: RemoteError.self) { try host.run("true") }
    }

    @Test func noisyLoginShellAndBannerAreTolerated() throws {
        var options = LoopbackSSHServer.Options()
        options.banner = String(repeating: "*** WELCOME to the machine ***\n", count: 50)
        // What a chatty .bashrc does, without touching anybody's.
        options.configuration = [
            #"ForceCommand echo "motd of the day"; echo chatter >&2; exec /bin/bash -c "$SSH_ORIGINAL_COMMAND""#
        ]
        let server = try LoopbackSSHServer(options)
        let host = SSHHost(server.endpoint(), policy: .acceptNew)
        let result = try host.run("echo out; echo err >&2; exit 5")
        #expect(
            result
                == CommandResult(exit: .exited(5), output: Array("out\n".utf8), errors: Array("err\n".utf8))
        )
        try checkLargeInput(host)
    }

    @Test func oneSessionPerConnectionAndNoForwardingAreEnough() throws {
        var options = LoopbackSSHServer.Options()
        options.configuration = ["MaxSessions 1", "AllowTcpForwarding no", "DisableForwarding yes"]
        let server = try LoopbackSSHServer(options)
        let host = SSHHost(server.endpoint(), policy: .acceptNew)
        let one = try host.openStream("cat")
        let two = try host.openStream("cat")
        defer {
            close(one)
            close(two)
        }
        for stream in [one, two] {
            #expect(write(stream, "ping", 4) == 4)
            var answer = [UInt8](repeating: 0, count: 4)
            #expect(recv(stream, &answer, 4, Int32(MSG_WAITALL)) == 4)
            #expect(answer == Array("ping".utf8))
        }
        #expect(try host.run("echo three").text == "three")
    }

    @Test func descriptorsAreGivenBack() throws {
        for _ in 0..<3 {
            let host = SSHHost(server.endpoint(), policy: .acceptNew)
            _ = try host.run("true")
            host.close()
            let stranger = SSHHost(server.endpoint(identity: server.strangerKey), policy: .acceptNew)
            #expect(throws: RemoteError.self) { try stranger.run("true") }
        }
        _ = try host.run("true")
        #expect(try server.socketsHere() == 2, "one kept connection: ours and the copy that libssh has")
        for process in server.connections { kill(process, SIGKILL) }
        host.close()
        #expect(try server.socketsHere() == 0)
    }

    /// Prints how fast one stream is, beside the system's client on the same server.
    @Test(.enabled(if: getenv("COORD_MEASURE") != nil, "set COORD_MEASURE=1"))
    func streamThroughput() throws {
        let size = 256 << 20
        func rate(_ body: () throws -> Void) rethrows -> Int {
            let started = ContinuousClock.now
            try body()
            let parts = (ContinuousClock.now - started).components
            return Int(Double(size) / 1e6 / (Double(parts.seconds) + Double(parts.attoseconds) / 1e18))
        }
        let client = [
            "/usr/bin/ssh", "-F", "/dev/null", "-p", String(server.port), "-i", server.clientKey,
            "-c", "aes256-gcm@openssh.com", "-o", "UserKnownHostsFile=\(server.endpoint().knownHosts)",
            "-o", "StrictHostKeyChecking=accept-new", "\(server.user)@127.0.0.1",
        ]
        _ = try host.run("true")
        for _ in 0..<3 {
            let down = try rate {
                let stream = try host.openStream("exec head -c \(size) /dev/zero")
                defer { close(stream) }
                #expect(readAll(stream, hashing: false).count == size)
            }
            let up = try rate {
                let stream = try host.openStream("exec wc -c")
                defer { close(stream) }
                let block = [UInt8](repeating: 0, count: 1 << 20)
                for _ in 0..<(size / block.count) {
                    try block.withUnsafeBytes { try Files.writeAll($0, to: stream, path: "stream") }
                }
                shutdown(stream, Int32(SHUT_WR))
                var answer = [UInt8](repeating: 0, count: 64)
                let n = read(stream, &answer, 64)
                #expect(String(decoding: answer.prefix(max(n, 0)), as: UTF8.self) == "\(size)\n")
            }
            let null = open("/dev/null", O_WRONLY)
            let zero = open("/dev/zero", O_RDONLY)
            defer {
                close(null)
                close(zero)
            }
            let theirDown = try rate {
                let command = client + ["exec head -c \(size) /dev/zero"]
                let exit = try ChildProcess(command, files: [-1, null, 2]).wait()
                #expect(exit.isSuccess)
            }
            let theirUp = try rate {
                let command = client + ["exec head -c \(size) >/dev/null"]
                let exit = try ChildProcess(command, files: [zero, null, 2]).wait()
                #expect(exit.isSuccess)
            }
            print("stream MB/s: down \(down) up \(up); ssh client: down \(theirDown) up \(theirUp)")
        }
    }
}
