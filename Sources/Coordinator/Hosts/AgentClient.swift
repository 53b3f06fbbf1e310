internal import Basics
package import Wire

/// One conversation with an agent: a request, a reply.
///
/// Blocking; one thread at a time.
package final class AgentClient: Sendable {
    let channel: FrameChannel
    package let host: String
    /// How long an idle connection's question and answer take; unit: seconds.
    let roundTrip: Double

    /// Greets the agent.
    ///
    /// - Parameter session: the same for all connections that are made at a time; a new one ends those before at the agent.
    /// - Throws: ``CoordinatorError``: another protocol version (76), another cluster.
    package init(channel: FrameChannel, host: String, cluster: String, session: String? = nil) throws {
        self.channel = channel
        self.host = host
        let begin = Machine.monotonicSeconds
        let reply = try Self.ask(
            channel,
            host,
            .hello(protocolVersion: protocolVersion, cluster: cluster, host: host, session: session),
            timeout: 20_000,
            limit: 64 << 10
        )
        guard case .hello(let version, _, _) = reply, version == protocolVersion else {
            throw CoordinatorError(
                "\(host): the agent speaks another protocol version",
                hint: "run coord up again",
                exitCode: .protocolVersion
            )
        }
        var shortest = Machine.monotonicSeconds - begin
        // On a short way the greeting took mostly what threads needed to wake up, which says nothing about the way.
        for _ in 0..<3 where shortest < Self.short {
            let begin = Machine.monotonicSeconds
            _ = try Self.ask(channel, host, .known([]), timeout: 20_000, limit: 64 << 10)
            shortest = min(shortest, Machine.monotonicSeconds - begin)
        }
        roundTrip = shortest
    }

    /// A round trip that may be mostly the two machines' own; unit: seconds.
    private static let short = 0.02

    /// Asks and waits for the answer.
    ///
    /// - Parameters:
    ///   - parts: follow the request, when it announces some, a bytes frame each.
    ///   - timeout: milliseconds.
    /// - Throws: ``CoordinatorError`` when the agent refuses, ``LostConnection`` when it is gone.
    @discardableResult
    func call(
        _ request: AgentRequest,
        parts: [[UInt8]] = [],
        timeout: Int32 = 60_000
    ) throws -> AgentReply {
        try Self.ask(channel, host, request, parts: parts, timeout: timeout)
    }

    private static func ask(
        _ channel: FrameChannel,
        _ host: String,
        _ request: AgentRequest,
        parts: [[UInt8]] = [],
        timeout: Int32 = 60_000,
        limit: Int = FrameChannel.maximumPayload
    ) throws -> AgentReply {
        do {
            try channel.send(request)
            for part in parts { try channel.send(Frame(.bytes, part)) }
            guard let frame = try channel.receive(timeoutMilliseconds: timeout, limit: limit) else {
                throw FrameError.truncated
            }
            return try reply(in: frame, host)
        } catch let error as FrameError {
            throw LostConnection(host: host, cause: error)
        }
    }

    private static func reply(in frame: Frame, _ host: String) throws -> AgentReply {
        guard frame.kind == .message else {
            throw LostConnection(host: host, cause: .malformed("bytes came instead of an answer"))
        }
        let reply: AgentReply
        do {
            reply = try MessageCoding.decode(AgentReply.self, from: frame.payload)
        } catch is DecodingError {
            throw CoordinatorError(
                "\(host): what answers there is no agent of this version",
                hint: "run coord up again; when that does not help, look at what runs on \(host)",
                exitCode: .protocolVersion
            )
        }
        if case .refused(let message, let hint, let code) = reply {
            throw CoordinatorError(
                "\(host): \(ForeignText.line(message, limit: 1000))",
                hint: hint.map { ForeignText.line($0, limit: 1000) },
                exitCode: ExitCode(rawValue: code)
            )
        }
        return reply
    }

    /// Ends the agent and removes what it kept; for benchmarks.
    package func endAgent() throws {
        try call(.shutdown(wipe: true))
        while (try? channel.receive(timeoutMilliseconds: 30_000)) != nil {}
    }

    // MARK: Many frames

    /// Sends a request whose answer is read with ``receive(timeout:)``.
    func send(_ request: AgentRequest) throws {
        do {
            try channel.send(request)
        } catch let error as FrameError {
            throw LostConnection(host: host, cause: error)
        }
    }

    /// Sends a bytes frame.
    func send(bytes: [UInt8]) throws { try send(Frame(.bytes, bytes)) }

    /// Sends a frame.
    func send(_ frame: Frame) throws {
        do {
            try channel.send(frame)
        } catch let error as FrameError {
            throw LostConnection(host: host, cause: error)
        }
    }

    /// Waits for the next frame; unit of the timeout: milliseconds.
    func receive(timeout: Int32) throws -> Frame {
        do {
            guard let frame = try channel.receive(timeoutMilliseconds: timeout) else {
                throw FrameError.truncated
            }
            return frame
        } catch let error as FrameError {
            throw LostConnection(host: host, cause: error)
        }
    }

    /// Throws what a frame with an answer refuses.
    func check(_ frame: Frame) throws { _ = try Self.reply(in: frame, host) }

    /// Waits for an answer and throws what it refuses.
    func checkReply(timeout: Int32) throws { try check(receive(timeout: timeout)) }

    /// The bytes that follow a reply.
    func receiveBytes() throws -> [UInt8] {
        let frame = try receive(timeout: 60_000)
        guard frame.kind == .bytes else {
            throw LostConnection(
                host: host,
                cause: .malformed("bytes were announced and did not come")
            )
        }
        return frame.payload
    }
}

/// The connection to a host broke; it is made anew, and what was asked can be asked again.
struct LostConnection: ExplainedError {
    var host: String
    var cause: FrameError
    var message: String { "\(host): connection lost (\(cause))" }
    var hint: String? { "run coord up again" }
    var exitCode: ExitCode { .unreachable }
}
