internal import Basics
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// `coord-worker relay`: what another host's `ssh` runs on a hub, and all that its key allows: relayed streams, under that
/// host's name, to the agent's socket.
enum RelayBridge {
    static func run(directory: AgentDirectory, cluster: String, peer: String, host: String) throws {
        guard chdir(directory.root) == 0 else { throw FileError(.read, directory.root, errno: errno) }
        let socket = try UnixSocket.connect("agent.sock")
        let channel = FrameChannel(socket: socket)
        func ask(_ request: AgentRequest) throws -> AgentReply? {
            try channel.send(request)
            guard let frame = try channel.receive(timeoutMilliseconds: 10_000) else { return nil }
            return try MessageCoding.decode(AgentReply.self, from: frame.payload)
        }
        let hello = try ask(.hello(protocolVersion: protocolVersion, cluster: cluster, host: host))
        guard case .hello? = hello, case .done? = try ask(.relay(peer: peer, host: host)) else {
            throw AgentError("the agent takes no relay connection", exitCode: .protocolVersion)
        }
        try Bridge.join(socket)
    }
}
