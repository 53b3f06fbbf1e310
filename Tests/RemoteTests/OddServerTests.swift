import Basics
import CoordTesting
import Glibc
import Synchronization
import Testing

@testable import Remote

/// A server that talks before its version, and then perhaps is one.
private final class TalkativeServer: Sendable {
    let port: UInt16
    private let listener: Int32
    private let connections = Mutex(0)

    /// - Parameters:
    ///   - target: a real server's port that takes over after the words; nil = the connection is closed.
    ///   - words: what connection number n hears first; nil = words without end.
    init(target: UInt16?, words: @escaping @Sendable (_ number: Int) -> String?) throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutableBytes(of: &address) { bytes -> Int32 in
            let pointer = bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self)
            return bind(listener, pointer, length) | getsockname(listener, pointer, &length)
        }
        try #require(bound == 0 && listen(listener, 16) == 0)
        port = UInt16(bigEndian: address.sin_port)
        self.listener = listener
        OwnThread.start("talkative") { [self] in
            while true {
                let client = accept(listener, nil, nil)
                guard client >= 0 else { return }
                let number = connections.withLock { count in
                    defer { count += 1 }
                    return count
                }
                let text = words(number)
                OwnThread.start("talk") { Self.serve(client, text, target) }
            }
        }
    }

    var count: Int { connections.withLock { $0 } }

    func stop() {
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
    }

    private static func serve(_ client: Int32, _ text: String?, _ target: UInt16?) {
        defer { close(client) }
        let line = Array((text ?? "words without end, and no version\r\n").utf8)
        repeat {
            guard send(client, line, line.count, Int32(MSG_NOSIGNAL)) == line.count || text != nil else {
                return
            }
        } while text == nil
        guard let target, text?.hasSuffix("!\r\n") != true else { return }
        let server = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(server) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = target.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let connected = withUnsafeBytes(of: &address) {
            connect(
                server,
                $0.baseAddress?.assumingMemoryBound(to: sockaddr.self),
                socklen_t(MemoryLayout<sockaddr_in>.size)
            )
        }
        guard connected == 0 else { return }
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            var watched = [
                pollfd(fd: client, events: Int16(POLLIN), revents: 0),
                pollfd(fd: server, events: Int16(POLLIN), revents: 0),
            ]
            _ = poll(&watched, 2, -1)
            for (from, to, seen) in [(client, server, watched[0]), (server, client, watched[1])]
            where seen.revents != 0 {
                let n = read(from, &buffer, buffer.count)
                guard n > 0, send(to, buffer, n, Int32(MSG_NOSIGNAL)) == n else { return }
            }
        }
    }
}

@Suite(
    .enabled(if: LoopbackSSHServer.isAvailable, Comment(rawValue: LoopbackSSHServer.reason)),
    // Blocking tests queue for the pool's few threads, and the queue would count against their time limit.
    .serialized,
    .timeLimit(.minutes(5))
)
struct OddServerTests {
    private func host(
        _ server: LoopbackSSHServer,
        port: UInt16? = nil,
        _ timeouts: SSHTimeouts = SSHTimeouts()
    )
        -> SSHHost
    {
        var endpoint = server.endpoint()
        if let port { endpoint.port = port }
        return SSHHost(endpoint, policy: .acceptNew, timeouts: timeouts)
    }

    private func forced(_ command: String) throws -> LoopbackSSHServer {
        var options = LoopbackSSHServer.Options()
        options.configuration = ["ForceCommand \(command)"]
        return try LoopbackSSHServer(options)
    }

    @Test func wordsBeforeTheVersionAreSkipped() throws {
        let server = try LoopbackSSHServer()
        let talkative = try TalkativeServer(target: server.port) { _ in "authorized use only\r\n\r\nreally\n"
        }
        defer { talkative.stop() }
        #expect(try host(server, port: talkative.port).run("echo in").text == "in")
    }

    @Test func wordsWithoutEndAreNoServer() throws {
        let server = try LoopbackSSHServer()
        let talkative = try TalkativeServer(target: nil) { _ in nil }
        defer { talkative.stop() }
        let host = host(server, port: talkative.port)
        let started = ContinuousClock.now
        let error = #expect(throws: RemoteError.self) { try host.run("true") }
        #expect(error?.phase == .handshake && error?.code == .handshakeFailed)
        #expect(error?.message.contains("words without end") == true)
        #expect(ContinuousClock.now - started < .seconds(15), "it did not wait for the deadline")
    }

    @Test func longBannerIsTolerated() throws {
        var options = LoopbackSSHServer.Options()
        options.banner = String(repeating: "a long banner line, as lawyers like them\n", count: 4000)
        let server = try LoopbackSSHServer(options)
        #expect(try host(server).run("echo in").text == "in")
    }

    @Test func hostThatDropsConnectionsAtFirstIsTriedAgain() throws {
        let server = try LoopbackSSHServer()
        // What sshd says beyond MaxStartups.
        let busy = try TalkativeServer(target: server.port) { number in
            number < 2 ? "Exceeded MaxStartups!\r\n" : ""
        }
        defer { busy.stop() }
        #expect(try host(server, port: busy.port).run("echo in").text == "in")
        #expect(busy.count == 3)
    }

    @Test func hostThatAlwaysDropsConnectionsIsGivenUpWithItsWords() throws {
        let server = try LoopbackSSHServer()
        let busy = try TalkativeServer(target: nil) { _ in "Exceeded MaxStartups!\r\n" }
        defer { busy.stop() }
        let host = host(server, port: busy.port)
        let error = #expect(throws: RemoteError.self) {
            try host.run("true", input: [], timeout: .seconds(3))
        }
        #expect(error?.code == .connectionLost && error?.phase == .handshake)
        #expect(error?.message.contains("Exceeded MaxStartups") == true)
        #expect(busy.count >= 3)
    }

    @Test func manyLoginsAtOnceGetThroughMaxStartups() throws {
        var options = LoopbackSSHServer.Options()
        options.configuration = ["MaxStartups 2:100:2"]
        let server = try LoopbackSSHServer(options)
        let host = host(server)
        #expect(try host.run("true").exit.isSuccess)
        let streams = try host.openStreams("exec cat", count: 6, connections: 6)
        for stream in streams {
            #expect(write(stream, "ping", 4) == 4)
            var answer = [UInt8](repeating: 0, count: 4)
            #expect(recv(stream, &answer, 4, Int32(MSG_WAITALL)) == 4)
            close(stream)
        }
    }

    @Test func slowHandshakeIsFine() throws {
        let server = try LoopbackSSHServer()
        let processes = Mutex<[Int32]>([])
        // The server's children stand still for a while, each as soon as it is there.
        let threads = Workers()
        threads.start {
            let deadline = Deadline(after: .seconds(20))
            while server.connections.isEmpty, !deadline.hasPassed { poll(nil, 0, 1) }
            let children = server.connections
            for process in children { kill(process, SIGSTOP) }
            processes.withLock { $0 = children }
            poll(nil, 0, 5000)
            for process in children { kill(process, SIGCONT) }
        }
        #expect(try host(server).run("echo in").text == "in")
        threads.wait()
        #expect(processes.withLock { !$0.isEmpty })
    }

    @Test(
        arguments: ["/bin/dash", "/bin/bash", "/usr/bin/fish", "/usr/bin/zsh"].filter {
            Files.kind($0) != nil
        }
    )
    func loginShellsOfManyKindsWork(shell: String) throws {
        let server = try forced("\(shell) -c \"$SSH_ORIGINAL_COMMAND\"")
        let host = host(server)
        let input = Array("it's $HOME `x` \\ \"q\"\n".utf8)
        let result = try host.run("cat; printf '%s\\n' \(ShellQuoting.quote("a\\'b $x"))", input: input)
        #expect(result.text == String(decoding: input, as: UTF8.self) + "a\\'b $x")
        try checkLargeInput(host)
    }

    @Test func chattyLoginShellDoesNotDisturbAStreamsOwnBytes() throws {
        let server = try forced(
            "echo motd; echo chatter >&2; exec /bin/bash -c \"$SSH_ORIGINAL_COMMAND\""
        )
        let stream = try host(server).openStream("echo SENTINEL; exec cat")
        defer { close(stream) }
        #expect(write(stream, "ping", 4) == 4)
        shutdown(stream, Int32(SHUT_WR))
        var bytes = [UInt8]()
        var buffer = [UInt8](repeating: 0, count: 256)
        while true {
            let n = read(stream, &buffer, buffer.count)
            guard n > 0 else { break }
            bytes += buffer[..<n]
        }
        #expect(String(decoding: bytes, as: UTF8.self) == "motd\nSENTINEL\nping")
    }

    @Test func streamsOfOneConnectionDoNotWaitForEachOther() throws {
        let server = try LoopbackSSHServer()
        let host = host(server)
        let ends = Mutex<[Int: StreamEnd]>([:])
        let threads = Workers()
        for _ in 0..<3 { threads.expect() }
        let streams = try host.openStreams("exec cat", count: 3, connections: 1) { index, end in
            ends.withLock { $0[index] = end }
            threads.done()
        }
        try #require(streams.count == 3)
        #expect(server.connections.count == 1)
        // The first one is stuffed until nothing goes any more: nobody reads what comes back.
        let block = [UInt8](repeating: 7, count: 1 << 20)
        var stuffed = 0
        let quiet = Deadline(after: .seconds(20))
        while !quiet.hasPassed {
            var watched = pollfd(fd: streams[0], events: Int16(POLLOUT), revents: 0)
            guard poll(&watched, 1, 500) > 0 else { break }
            stuffed += max(0, send(streams[0], block, block.count, Int32(MSG_DONTWAIT)))
        }
        #expect(stuffed > 1 << 20, "\(stuffed)")
        for stream in streams[1...] {
            #expect(write(stream, "ping", 4) == 4)
            var answer = [UInt8](repeating: 0, count: 4)
            #expect(recv(stream, &answer, 4, Int32(MSG_WAITALL)) == 4)
        }
        // Each ends by itself.
        shutdown(streams[1], Int32(SHUT_WR))
        #expect(readAll(streams[1]).count == 0)
        shutdown(streams[0], Int32(SHUT_WR))
        #expect(readAll(streams[0]).count == stuffed)
        // The exit comes after the end of the output.
        try waitUntil { ends.withLock { $0.count } == 2 }
        for process in server.connections { kill(process, SIGKILL) }
        #expect(readAll(streams[2]).count == 0)
        threads.wait()
        #expect(ends.withLock { $0[0]?.exit } == .exited(0))
        #expect(ends.withLock { $0[1]?.exit } == .exited(0))
        #expect(ends.withLock { $0[2]?.error?.code } == .connectionLost)
        for stream in streams { close(stream) }
    }

    @Test func oneSessionPerConnectionIsEnoughForSeveralStreams() throws {
        var options = LoopbackSSHServer.Options()
        options.configuration = ["MaxSessions 1"]
        let server = try LoopbackSSHServer(options)
        let streams = try host(server).openStreams("exec cat", count: 3, connections: 1)
        #expect(streams.count == 3)
        for stream in streams {
            #expect(write(stream, "ping", 4) == 4)
            var answer = [UInt8](repeating: 0, count: 4)
            #expect(recv(stream, &answer, 4, Int32(MSG_WAITALL)) == 4)
            close(stream)
        }
    }

    @Test func failedGroupOfStreamsLeavesNothingOpen() throws {
        let server = try LoopbackSSHServer()
        let host = host(server)
        #expect(try host.run("true").exit.isSuccess)
        try Files.writeAtomically("", to: "\(server.directory)/authorized_keys", mode: 0o600)
        #expect(throws: RemoteError.self) { try host.openStreams("cat", count: 4, connections: 2) }
        #expect(try server.socketsHere() == 2, "the kept connection alone")
    }
}
