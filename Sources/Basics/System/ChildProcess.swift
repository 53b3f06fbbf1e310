internal import CShims

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// How a process ended.
public enum ProcessExit: Hashable, Sendable, CustomStringConvertible {
    /// By itself, with a status.
    case exited(Int32)
    /// By a signal.
    case signalled(Int32)

    /// True for exit status 0.
    public var isSuccess: Bool { self == .exited(0) }
    /// `exit status 65`, `killed by signal 9`.
    public var description: String {
        switch self {
        case .exited(let status): "exit status \(status)"
        case .signalled(let signal): "killed by signal \(signal)"
        }
    }
}

/// Why a program could not be started.
public struct SpawnError: ExplainedError {
    /// The program.
    public var path: String
    /// The system's error number.
    public var errno: Int32
    /// Names the program and the reason.
    public var message: String { "cannot start \(path): \(SystemError.text(errno))" }
    /// Nothing general helps.
    public var hint: String? { nil }
    /// 70: we name programs that should be there.
    public var exitCode: ExitCode { .bug }
}

/// A child of this process.
///
/// Whoever starts it waits for it.
public struct ChildProcess: Sendable {
    /// The process id; valid until ``wait()`` returns.
    public let pid: Int32

    /// Starts a program.
    ///
    /// - Parameters:
    ///   - arguments: the program's path first.
    ///   - environment: `NAME=value`; nil = this process's own.
    ///   - directory: where it starts; nil = here.
    ///   - files: descriptor i of the child; -1 = `/dev/null`; all others are closed in it. The caller keeps its own.
    ///   - startsSession: the child survives our terminal.
    ///   - diesWithParent: the child gets SIGKILL when the thread that started it, or the process, ends.
    /// - Throws: ``SpawnError``.
    public init(
        _ arguments: [String],
        environment: [String]? = nil,
        directory: String? = nil,
        files: [Int32] = [-1, 1, 2],
        startsSession: Bool = false,
        diesWithParent: Bool = false
    ) throws {
        guard let path = arguments.first else { preconditionFailure("no program to start") }
        let argv = arguments.map { strdup($0) } + [nil]
        let envp = environment.map { $0.map { strdup($0) } + [nil] }
        defer {
            argv.forEach { free($0) }
            envp?.forEach { free($0) }
        }
        let result = argv.withUnsafeBufferPointer { argv in
            (envp ?? []).withUnsafeBufferPointer { own in
                coord_spawn(
                    path,
                    argv.baseAddress,
                    envp == nil ? UnsafePointer(environ) : own.baseAddress,
                    directory,
                    files,
                    Int32(files.count),
                    startsSession ? 1 : 0,
                    diesWithParent ? 1 : 0
                )
            }
        }
        guard result >= 0 else { throw SpawnError(path: path, errno: -result) }
        pid = result
    }

    /// Blocks until the child has ended.
    public func wait() -> ProcessExit {
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0 {
            guard errno == EINTR else { return .exited(127) }
        }
        let code = coord_wait_status(status)
        return code < 256 ? .exited(code) : .signalled(code - 256)
    }

    /// Sends a signal.
    ///
    /// Safe only before ``wait()`` has returned.
    public func signal(_ number: Int32) { kill(pid, number) }

    /// Runs a program to its end and collects what it prints.
    ///
    /// - Parameter input: written to its standard input.
    /// - Returns: how it ended, and its standard output and error.
    public static func run(
        _ arguments: [String],
        environment: [String]? = nil,
        directory: String? = nil,
        input: [UInt8] = []
    ) throws -> (exit: ProcessExit, output: [UInt8], errors: [UInt8]) {
        var descriptors: [Int32] = [-1, -1, -1, -1, -1, -1]
        for index in stride(from: 0, to: 6, by: 2) {
            let made = descriptors.withUnsafeMutableBufferPointer {
                coord_pipe($0.baseAddress.map { $0 + index })
            }
            guard made == 0 else { throw SpawnError(path: arguments.first ?? "", errno: -made) }
        }
        let (inRead, inWrite, outRead, outWrite, errRead, errWrite) =
            (descriptors[0], descriptors[1], descriptors[2], descriptors[3], descriptors[4], descriptors[5])
        let child: ChildProcess
        do {
            defer { [inRead, outWrite, errWrite].forEach { close($0) } }
            child = try ChildProcess(
                arguments,
                environment: environment,
                directory: directory,
                files: [inRead, outWrite, errWrite]
            )
        } catch {
            [inWrite, outRead, errRead].forEach { close($0) }
            throw error
        }
        var output: [UInt8] = []
        var errors: [UInt8] = []
        var pending = input[...]
        var watched = [
            pollfd(fd: outRead, events: Int16(POLLIN), revents: 0),
            pollfd(fd: errRead, events: Int16(POLLIN), revents: 0),
            pollfd(fd: inWrite, events: Int16(POLLOUT), revents: 0),
        ]
        _ = fcntl(inWrite, F_SETFL, O_NONBLOCK)
        if pending.isEmpty {
            close(inWrite)
            watched[2].fd = -1
        }
        var buffer = [UInt8](repeating: 0, count: 65536)
        while watched[0].fd >= 0 || watched[1].fd >= 0 {
            guard poll(&watched, 3, -1) >= 0 || errno == EINTR else { break }
            for index in 0..<2 where watched[index].fd >= 0 && watched[index].revents != 0 {
                let n = read(watched[index].fd, &buffer, buffer.count)
                if n > 0 {
                    if index == 0 { output += buffer[..<n] } else { errors += buffer[..<n] }
                } else if n == 0 || errno != EINTR {
                    close(watched[index].fd)
                    watched[index].fd = -1
                }
            }
            if watched[2].fd >= 0, watched[2].revents != 0 {
                let n = pending.withUnsafeBytes { write(watched[2].fd, $0.baseAddress, $0.count) }
                if n > 0 { pending = pending.dropFirst(n) }
                if pending.isEmpty || (n < 0 && errno != EAGAIN && errno != EINTR) {
                    close(watched[2].fd)
                    watched[2].fd = -1
                }
            }
        }
        if watched[2].fd >= 0 { close(watched[2].fd) }
        return (child.wait(), output, errors)
    }
}

/// A process named so that a reused pid is not taken for it.
public struct ProcessIdentity: Hashable, Sendable, Codable {
    /// The process id.
    public var pid: Int32
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    public var startTime: UInt64

    /// Looks a living process up; nil when there is none.
    public init?(pid: Int32) {
        guard let text = try? Files.readText("/proc/\(pid)/stat"), let paren = text.lastIndex(of: ")") else {
            return nil
        }
        let fields = text[text.index(after: paren)...].split(separator: " ")
        guard fields.count > 19, fields[0] != "Z", let start = UInt64(fields[19]) else { return nil }
        self.pid = pid
        startTime = start
    }

    /// True while this very process runs.
    public var isAlive: Bool { ProcessIdentity(pid: pid) == self }

    /// Blocks until the process has ended or the time is over; true when it has ended.
    public func waitForEnd(milliseconds: Int32) -> Bool {
        let descriptor = coord_pidfd_open(pid)
        guard descriptor >= 0 else { return !isAlive }
        defer { close(descriptor) }
        guard isAlive else { return true }
        var watched = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&watched, 1, milliseconds) > 0
    }
}
