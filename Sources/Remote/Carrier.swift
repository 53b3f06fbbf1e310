internal import Basics
internal import Dispatch
internal import Glibc
internal import Synchronization

/// What a connection runs through when it is not TCP of its own: a jump, or a command.
protocol Carrier: Sendable {
    /// Why it ended; nil when it works, or does not know.
    ///
    /// Asked when the connection broke; waits a moment for what carried it to end.
    var failure: String? { get }
    /// Ends it; the connection that it carried is closed already.
    func end()
}

/// A jump: another connection, whose thread carries the bytes.
final class JumpCarrier: Carrier {
    private let reason = Mutex<RemoteError?>(nil)

    /// Told by the jump's thread before it closes its side.
    func ended(_ end: StreamEnd) { reason.withLock { $0 = end.error } }

    var failure: String? { reason.withLock { $0?.message } }
    /// The jump's thread sees that our side is closed.
    func end() {}
}

/// A ProxyCommand: a child whose standard input and output are the connection.
final class ProxyCarrier: Carrier {
    private let child: ChildProcess
    private let errors = Mutex<[UInt8]>([])
    private let exit = Mutex<ProcessExit?>(nil)
    private let over = DispatchGroup()

    /// The end of the socket pair that the connection runs over; the caller owns it.
    let socket: Int32

    /// Starts the command under `/bin/sh`.
    ///
    /// - Throws: ``RemoteError`` of the phase `connect`.
    init(_ command: String, for endpoint: ResolvedEndpoint) throws {
        var ends: [Int32] = [-1, -1]
        var errorPipe: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0, makePipe(&errorPipe) == 0 else {
            for descriptor in ends where descriptor >= 0 { close(descriptor) }
            throw Self.failure(endpoint, SystemError.text(errno))
        }
        let reading = errorPipe[0]
        do {
            defer {
                close(ends[1])
                close(errorPipe[1])
            }
            // A session of its own: what the command starts ends with it, and nobody asks on our terminal.
            child = try ChildProcess(
                ["/bin/sh", "-c", "exec " + command],
                files: [ends[1], ends[1], errorPipe[1]],
                startsSession: true
            )
        } catch {
            close(ends[0])
            close(reading)
            throw Self.failure(endpoint, "it could not be started")
        }
        socket = ends[0]
        over.enter()
        OwnThread.start("coord-proxy") { [self] in
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                let n = read(reading, &buffer, buffer.count)
                if n < 0, errno == EINTR { continue }
                guard n > 0 else { break }
                errors.withLock { $0 = ($0 + buffer[..<n]).suffix(StreamEnd.limit) }
            }
            close(reading)
            // Wait without reaping: until nobody can send it a signal any more, its number must stay its own.
            var info = siginfo_t()
            while waitid(P_PID, id_t(child.pid), &info, WEXITED | WNOWAIT) < 0, errno == EINTR {}
            exit.withLock { $0 = child.wait() }
            over.leave()
        }
    }

    /// How it ended and what it said; nil while it runs.
    var failure: String? {
        guard over.wait(timeout: .now() + .milliseconds(500)) == .success,
            let exit = exit.withLock({ $0 })
        else { return nil }
        let text = SSHSession.printable(errors.withLock { String(decoding: $0, as: UTF8.self) })
        return "the ProxyCommand ended with \(exit)" + (text.isEmpty ? "" : ": \(text)")
    }

    func end() {
        exit.withLock { exit in
            if exit == nil { kill(-child.pid, SIGKILL) }
        }
    }

    private static func failure(_ endpoint: ResolvedEndpoint, _ why: String) -> RemoteError {
        RemoteError(
            host: endpoint.host,
            phase: .connect,
            code: .unreachable,
            message: "cannot start the ProxyCommand to \(endpoint.name): \(why)",
            hint: "try `\(endpoint.proxyCommand ?? "")` in a shell"
        )
    }
}
