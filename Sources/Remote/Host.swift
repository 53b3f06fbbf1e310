public import Basics

/// What a command on a host left behind.
public struct CommandResult: Sendable, Equatable {
    /// How it ended.
    public var exit: ProcessExit
    /// Its standard output.
    public var output: [UInt8]
    /// Its standard error.
    public var errors: [UInt8]

    /// The standard output as text, without the last line's end.
    public var text: String { Self.trimmed(output) }
    /// The standard error as text, without the last line's end.
    public var errorText: String { Self.trimmed(errors) }

    private static func trimmed(_ bytes: [UInt8]) -> String {
        var bytes = bytes[...]
        while let last = bytes.last, last == 0x0A || last == 0x0D { bytes.removeLast() }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// How a stream ended, told once to whoever opened it.
public struct StreamEnd: Sendable {
    /// How the command ended; nil when the connection broke first.
    public var exit: ProcessExit?
    /// The last bytes of its standard error, at most ``limit``.
    public var errors: [UInt8]
    /// Why the stream broke; nil when it ended by itself.
    public var error: RemoteError?

    /// How much of a stream's standard error is kept; unit: bytes.
    public static let limit = 16 << 10

    /// The standard error as text.
    public var errorText: String { String(decoding: errors, as: UTF8.self) }
}

/// A machine that runs commands: this one, or one that answers SSH.
///
/// All calls block and have a deadline; any thread may call, several at once. Commands are POSIX shell text
/// and run under `/bin/sh`, whatever the user's login shell is; quote words with ``ShellQuoting``.
public protocol Host: Sendable {
    /// The host's name in the cluster file.
    var name: String { get }

    /// Runs a command to its end.
    ///
    /// - Parameters:
    ///   - command: shell text; what the login shell prints before it is dropped.
    ///   - input: its standard input.
    ///   - timeout: for the whole call, connecting included.
    ///   - limit: the most that the command may print on each of its two outputs; unit: bytes.
    /// - Returns: how it ended and what it printed; a non-zero exit is a result.
    /// - Throws: ``RemoteError``; `.tooMuchOutput` above `limit`.
    func run(_ command: String, input: [UInt8], timeout: Duration, limit: Int) throws -> CommandResult

    /// Runs a command to its end, however long its input takes on its way.
    ///
    /// - Parameter silence: how long nothing may happen: no byte of the input is taken by the other side, none of the
    ///   outputs comes.
    /// - Throws: ``RemoteError``, `.timedOut` after a silence.
    func run(_ command: String, input: [UInt8], silence: Duration) throws -> CommandResult

    /// Starts a command and gives a socket that is its standard input and output.
    ///
    /// Bytes written go to the command, bytes read come from it; `shutdown(SHUT_WR)` ends its input; reading
    /// gives the end when it has ended or the connection broke. The caller owns the descriptor and closes it,
    /// which ends the command's input and stops listening to it. The login shell's noise is not removed here:
    /// protocols begin with a sentinel of their own.
    ///
    /// - Parameter onEnd: called once, on a thread of ours, when the stream is over.
    /// - Throws: ``RemoteError``.
    func openStream(_ command: String, onEnd: (@Sendable (StreamEnd) -> Void)?) throws -> Int32

    /// Starts a command several times, for more bytes a second than one stream carries over a long distance.
    ///
    /// OpenSSH takes 2 MiB a round trip on one stream, and TCP has limits of its own for a connection; so several streams
    /// over several connections. Each stream is as one of ``openStream(_:onEnd:)``, except that streams of one connection
    /// end together when it breaks.
    ///
    /// - Parameters:
    ///   - count: streams, at least 1.
    ///   - connections: how many connections they are spread over, at least 1; more are made when the host starts
    ///     fewer commands on one.
    ///   - onEnd: called once for each stream, with its place in the result.
    /// - Returns: `count` sockets, all or none.
    /// - Throws: ``RemoteError``.
    func openStreams(
        _ command: String,
        count: Int,
        connections: Int,
        onEnd: (@Sendable (_ index: Int, _ end: StreamEnd) -> Void)?
    ) throws -> [Int32]

    /// Ends all connections; streams end, calls that wait fail.
    func close()
}

extension Host {
    /// Runs a command to its end, at most a minute.
    public func run(_ command: String, input: [UInt8] = []) throws -> CommandResult {
        try run(command, input: input, timeout: .seconds(60))
    }

    /// Runs a command that prints at most ``CommandLimits/output``.
    public func run(_ command: String, input: [UInt8], timeout: Duration) throws -> CommandResult {
        try run(command, input: input, timeout: timeout, limit: CommandLimits.output)
    }

    /// Starts a command and gives a socket that is its standard input and output.
    public func openStream(_ command: String) throws -> Int32 { try openStream(command, onEnd: nil) }

    /// Starts a command several times over one connection.
    public func openStreams(_ command: String, count: Int, connections: Int = 1) throws -> [Int32] {
        try openStreams(command, count: count, connections: connections, onEnd: nil)
    }
}

/// Limits of commands.
public enum CommandLimits {
    /// What a command may print where nobody says otherwise, on each of its two outputs; unit: bytes.
    public static let output = 64 << 20
}
