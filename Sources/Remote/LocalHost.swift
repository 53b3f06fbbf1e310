internal import Basics
internal import Glibc
internal import Synchronization

/// This machine, as a ``Host``: commands are child processes of `/bin/sh`.
public final class LocalHost: Host {
    /// The host's name in the cluster file.
    public let name: String

    private struct State {
        /// Groups of the processes that run.
        var groups: Set<Int32> = []
        var isClosed = false
    }

    private let state = Mutex(State())

    /// This machine under a name.
    public init(name: String = "local") {
        self.name = name
        // A command that ends before it has read all of its input.
        PipeSignal.ignore()
    }

    deinit { close() }

    /// Runs a command to its end; see ``Host/run(_:input:timeout:limit:)``.
    public func run(
        _ command: String,
        input: [UInt8],
        timeout: Duration,
        limit: Int
    ) throws -> CommandResult {
        try run(command, input, Deadline(after: timeout), silence: nil, limit: limit)
    }

    /// Runs a command to its end; see ``Host/run(_:input:silence:)``.
    public func run(_ command: String, input: [UInt8], silence: Duration) throws -> CommandResult {
        try run(command, input, Deadline(after: silence), silence: silence, limit: CommandLimits.output)
    }

    private func run(
        _ command: String,
        _ input: [UInt8],
        _ deadline: Deadline,
        silence: Duration?,
        limit: Int
    ) throws -> CommandResult {
        var deadline = deadline
        var inPipe = try Pipe(name)
        var outPipe = try Pipe(name)
        var errPipe = try Pipe(name)
        let child = try start(command, files: [inPipe.reading, outPipe.writing, errPipe.writing])
        inPipe.closeReading()
        outPipe.closeWriting()
        errPipe.closeWriting()
        var output: [UInt8] = []
        var errors: [UInt8] = []
        var sent = 0
        _ = fcntl(inPipe.writing, F_SETFL, O_NONBLOCK)
        if input.isEmpty { inPipe.closeWriting() }
        var buffer = [UInt8](repeating: 0, count: 256 << 10)
        while outPipe.reading >= 0 || errPipe.reading >= 0 {
            var watched = [
                pollfd(fd: outPipe.reading, events: Int16(POLLIN), revents: 0),
                pollfd(fd: errPipe.reading, events: Int16(POLLIN), revents: 0),
                pollfd(fd: inPipe.writing, events: Int16(POLLOUT), revents: 0),
            ]
            if poll(&watched, 3, deadline.milliseconds) > 0, let silence {
                deadline = Deadline(after: silence)
            }
            if watched[0].revents != 0, !Self.take(outPipe.reading, &buffer, &output) {
                outPipe.closeReading()
            }
            if watched[1].revents != 0, !Self.take(errPipe.reading, &buffer, &errors) {
                errPipe.closeReading()
            }
            if watched[2].revents != 0 {
                let n = input.withUnsafeBytes {
                    systemWrite(inPipe.writing, $0.baseAddress.map { $0 + sent }, $0.count - sent)
                }
                if n > 0 { sent += n }
                if sent == input.count || (n < 0 && errno != EAGAIN && errno != EINTR) {
                    inPipe.closeWriting()
                }
            }
            let isTooMuch = max(output.count, errors.count) > limit
            guard !isTooMuch, !deadline.hasPassed else {
                kill(-child.pid, SIGKILL)
                _ = end(child)
                throw RemoteError(
                    host: name,
                    phase: .command,
                    code: isTooMuch ? .tooMuchOutput : .timedOut,
                    message: isTooMuch
                        ? "a command on \(name) printed more than \(ByteCount(limit))"
                        : "a command on \(name) took too long"
                )
            }
        }
        return CommandResult(exit: end(child), output: output, errors: errors)
    }

    /// Starts a command and gives a socket that is its standard input and output; see ``Host/openStream(_:onEnd:)``.
    ///
    /// The socket's other end is the command itself: no thread of ours touches the bytes.
    public func openStream(_ command: String, onEnd: (@Sendable (StreamEnd) -> Void)?) throws -> Int32 {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw Pipe.failure(name) }
        let theirs = ends[0]
        let ours = ends[1]
        defer { systemClose(theirs) }
        do {
            var errPipe = try Pipe(name)
            let child = try start(command, files: [theirs, theirs, errPipe.writing])
            errPipe.closeWriting()
            let reading = errPipe.takeReading()
            OwnThread.start("coord-stream") {
                var errors: [UInt8] = []
                var buffer = [UInt8](repeating: 0, count: 64 << 10)
                while Self.take(reading, &buffer, &errors) {
                    if errors.count > StreamEnd.limit { errors.removeFirst(errors.count - StreamEnd.limit) }
                }
                systemClose(reading)
                let exit = self.end(child)
                onEnd?(StreamEnd(exit: exit, errors: errors, error: nil))
            }
        } catch {
            systemClose(ours)
            throw error
        }
        return ours
    }

    /// Starts a command several times; see ``Host/openStreams(_:count:connections:onEnd:)``.
    public func openStreams(
        _ command: String,
        count: Int,
        connections: Int,
        onEnd: (@Sendable (_ index: Int, _ end: StreamEnd) -> Void)?
    ) throws -> [Int32] {
        precondition(count >= 1 && connections >= 1, "\(count) streams over \(connections) connections")
        var streams: [Int32] = []
        do {
            for index in 0..<count {
                streams.append(try openStream(command) { end in onEnd?(index, end) })
            }
        } catch {
            for stream in streams { systemClose(stream) }
            throw error
        }
        return streams
    }

    /// Ends all commands; see ``Host/close()``.
    public func close() {
        state.withLock { state in
            state.isClosed = true
            // Safe: a group leaves the set before its process is waited for.
            for group in state.groups { kill(-group, SIGKILL) }
        }
    }

    private func start(_ command: String, files: [Int32]) throws -> ChildProcess {
        try state.withLock { state in
            guard !state.isClosed else {
                throw RemoteError(
                    host: name,
                    phase: .open,
                    code: .connectionLost,
                    message: "\(name) was closed here"
                )
            }
            let child = try ChildProcess(["/bin/sh", "-c", command], files: files, startsSession: true)
            state.groups.insert(child.pid)
            return child
        }
    }

    private func end(_ child: ChildProcess) -> ProcessExit {
        // Wait without reaping: until the group is forgotten, its number must stay its own.
        var info = siginfo_t()
        while waitid(P_PID, id_t(child.pid), &info, WEXITED | WNOWAIT) < 0, errno == EINTR {}
        state.withLock { _ = $0.groups.remove(child.pid) }
        return child.wait()
    }

    /// Appends what a descriptor has; false at its end.
    private static func take(_ descriptor: Int32, _ buffer: inout [UInt8], _ bytes: inout [UInt8]) -> Bool {
        let n = systemRead(descriptor, &buffer, buffer.count)
        if n > 0 { bytes += buffer[..<n] }
        return n > 0 || (n < 0 && errno == EINTR)
    }
}

/// The two ends of a pipe, closed when it goes.
private struct Pipe: ~Copyable {
    private(set) var reading: Int32
    private(set) var writing: Int32

    init(_ host: String) throws {
        var ends: [Int32] = [-1, -1]
        guard makePipe(&ends) == 0 else { throw Self.failure(host) }
        reading = ends[0]
        writing = ends[1]
    }

    static func failure(_ host: String) -> RemoteError {
        RemoteError(
            host: host,
            phase: .open,
            code: .channelRefused,
            message: "cannot start a command on \(host): \(SystemError.text(errno))"
        )
    }

    mutating func closeReading() {
        if reading >= 0 { systemClose(reading) }
        reading = -1
    }

    mutating func closeWriting() {
        if writing >= 0 { systemClose(writing) }
        writing = -1
    }

    mutating func takeReading() -> Int32 {
        defer { reading = -1 }
        return reading
    }

    deinit {
        if reading >= 0 { systemClose(reading) }
        if writing >= 0 { systemClose(writing) }
    }
}

// Inside the class the names `close`, `read` and `write` are ours or the buffers'.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    write(descriptor, bytes, count)
}
private func systemRead(_ descriptor: Int32, _ bytes: UnsafeMutableRawPointer?, _ count: Int) -> Int {
    read(descriptor, bytes, count)
}
