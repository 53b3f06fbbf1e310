internal import Basics
internal import Wire

/// One conversation with an agent: a request, a reply.
///
/// Blocking; one thread at a time.
final class AgentClient: Sendable {
    let channel: FrameChannel
    let host: String

    /// Greets the agent.
    ///
    /// - Parameter session: the same for all connections that are made at a time; a new one ends those before at the agent.
    /// - Throws: ``CoordinatorError``: another protocol version (76), another cluster.
    init(channel: FrameChannel, host: String, cluster: String, session: String? = nil) throws {
        self.channel = channel
        self.host = host
        let reply = try call(
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
    }

    /// Asks and waits for the answer.
    ///
    /// - Parameters:
    ///   - bytes: follow the request, when it announces some.
    ///   - timeout: milliseconds.
    ///   - limit: the longest answer that makes sense; unit: bytes.
    /// - Throws: ``CoordinatorError`` when the agent refuses or is gone.
    @discardableResult
    func call(
        _ request: AgentRequest,
        bytes: [UInt8]? = nil,
        timeout: Int32 = 60_000,
        limit: Int = FrameChannel.maximumPayload
    ) throws -> AgentReply {
        do {
            try channel.send(request)
            if let bytes { try channel.send(Frame(.bytes, bytes)) }
            guard let frame = try channel.receive(timeoutMilliseconds: timeout, limit: limit) else {
                throw FrameError.truncated
            }
            let reply = try MessageCoding.decode(AgentReply.self, from: frame.payload)
            if case .refused(let message, let hint, let code) = reply {
                throw CoordinatorError(
                    "\(host): \(ForeignText.line(message, limit: 1000))",
                    hint: hint.map { ForeignText.line($0, limit: 1000) },
                    exitCode: ExitCode(rawValue: code)
                )
            }
            return reply
        } catch is DecodingError {
            throw CoordinatorError(
                "\(host): what answers there is no agent of this version",
                hint: "run coord up again; when that does not help, look at what runs on \(host)",
                exitCode: .protocolVersion
            )
        } catch let error as FrameError {
            throw LostConnection(host: host, cause: error)
        }
    }

    /// The bytes that follow a reply.
    ///
    /// - Throws: ``LostConnection``.
    func receiveBytes() throws -> [UInt8] {
        do {
            guard let frame = try channel.receive(timeoutMilliseconds: 60_000) else {
                throw FrameError.truncated
            }
            guard frame.kind == .bytes else {
                throw FrameError.malformed("bytes were announced and did not come")
            }
            return frame.payload
        } catch let error as FrameError {
            // Also in the middle of the bytes a broken connection is one that is made anew.
            throw LostConnection(host: host, cause: error)
        }
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
