internal import Basics
internal import Glibc

/// The lines that a server may say before its version, as RFC 4253 4.2 allows.
///
/// libssh takes the first line for the version, whatever it is; so what stands before it is read here, and a server
/// that turns us away is told from one that is none.
struct Greeting {
    let socket: Int32
    let endpoint: ResolvedEndpoint

    /// How much may stand before the version; unit: bytes.
    static let limit = 64 << 10

    /// Returns when the next bytes of the socket are a version, which stay where they are.
    ///
    /// - Throws: ``RemoteError`` `.handshakeFailed`, `.timedOut`, `.connectionLost` when the server hung up.
    func skip(deadline: Deadline) throws {
        var said: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        var isLineStart = true
        while true {
            let n = recv(socket, &buffer, buffer.count, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
            if n < 0, errno == EINTR { continue }
            if n == 0 || (n < 0 && errno != EAGAIN) { throw hungUp(said, n < 0 ? errno : 0) }
            if n > 0 {
                let version = Array("SSH-".utf8)
                let isVersion = isLineStart && buffer.prefix(min(n, 4)).elementsEqual(version.prefix(n))
                if isVersion, n >= 4 { return }
                if !isVersion {
                    let line = buffer[..<n].firstIndex(of: 0x0A).map { $0 + 1 } ?? n
                    _ = recv(socket, &buffer, line, Int32(MSG_DONTWAIT))
                    isLineStart = buffer[line - 1] == 0x0A
                    said += buffer[..<line]
                    guard said.count <= Self.limit else { throw stranger(said) }
                    continue
                }
            }
            guard !deadline.hasPassed else { throw said.isEmpty ? late() : stranger(said) }
            // A version that came in part is still readable: the wait would end at once, so it is a short pause.
            var watched = pollfd(fd: n > 0 ? -1 : socket, events: Int16(POLLIN), revents: 0)
            _ = poll(&watched, 1, n > 0 ? 5 : deadline.milliseconds)
        }
    }

    private func hungUp(_ said: [UInt8], _ number: Int32) -> RemoteError {
        let text = SSHSession.printable(String(decoding: said, as: UTF8.self))
        let words = text.isEmpty ? "without a word" : "after it said: \(text)"
        let reason = number == 0 ? "" : " (\(SystemError.text(number)))"
        return RemoteError(
            host: endpoint.host,
            phase: .handshake,
            code: .connectionLost,
            message: "\(endpoint.name) (\(endpoint.place)) hung up \(words)\(reason)",
            hint:
                "it may have too many logins at once (MaxStartups in its sshd_config) or refuse this address"
        )
    }

    private func stranger(_ said: [UInt8]) -> RemoteError {
        let text = SSHSession.printable(String(decoding: said.prefix(300), as: UTF8.self))
        return RemoteError(
            host: endpoint.host,
            phase: .handshake,
            code: .handshakeFailed,
            message: "\(endpoint.name) (\(endpoint.place)) is no SSH server: it says \(text)",
            hint: "check the port with `\(endpoint.command)`"
        )
    }

    private func late() -> RemoteError {
        RemoteError(
            host: endpoint.host,
            phase: .handshake,
            code: .timedOut,
            message: "\(endpoint.name) (\(endpoint.login)) took too long in phase handshake",
            hint:
                "something listens on \(endpoint.place) but does not answer as an SSH server; check the port"
        )
    }
}
