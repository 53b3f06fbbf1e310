internal import Basics
internal import Glibc
internal import Synchronization

/// A conversation with the person's ssh-agent, and a window on it that shows libssh one key.
///
/// libssh would offer all keys of an agent, and sshd hangs up after six (MaxAuthTries). So it talks to us: we tell it of
/// the one key whose turn it is, and pass on what is to be signed with that key, nothing else.
///
/// - Source: draft-miller-ssh-agent.
final class KeyAgent: Sendable {
    /// The agent's keys in its own order.
    let keys: [HostKey]

    private let socket: Int32
    /// Our end of the window; -1 = there is none yet.
    private let window = Mutex<Int32>(-1)
    private let shown = Mutex<HostKey?>(nil)

    private enum Message {
        static let failure: UInt8 = 5
        static let identitiesRequest: UInt8 = 11
        static let identities: UInt8 = 12
        static let signRequest: UInt8 = 13
        static let limit = 256 << 10
    }

    /// Asks an agent for its keys; nil when it does not answer in time or makes no sense.
    init?(socket path: String, deadline: Deadline) {
        guard let socket = try? UnixSocket.connect(path) else { return nil }
        guard Self.send([Message.identitiesRequest], to: socket, deadline),
            let answer = Self.receive(from: socket, deadline), let keys = Self.read(answer)
        else {
            systemClose(socket)
            return nil
        }
        self.keys = keys
        self.socket = socket
    }

    deinit {
        systemClose(socket)
        window.withLock { if $0 >= 0 { systemClose($0) } }
    }

    /// Answers libssh on a thread of its own until ``close()``.
    ///
    /// - Parameter deadline: for signing too, which a person may have to confirm.
    /// - Returns: the window's other end, which belongs to the caller; nil when there are no descriptors left.
    func serve(deadline: Deadline) -> Int32? {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { return nil }
        let ours = ends[0]
        window.withLock { $0 = ours }
        OwnThread.start("coord-keyagent") { [self] in
            while let request = Self.receive(from: ours, deadline) {
                guard Self.send(answer(request, deadline), to: ours, deadline) else { break }
            }
            // libssh waits for an answer without end: it must not be left waiting.
            shutdown(ours, Int32(SHUT_RDWR))
        }
        return ends[1]
    }

    /// Whose turn it is.
    func show(_ key: HostKey) { shown.withLock { $0 = key } }

    /// Ends the conversation.
    func close() { window.withLock { if $0 >= 0 { shutdown($0, Int32(SHUT_RDWR)) } } }

    private func answer(_ request: [UInt8], _ deadline: Deadline) -> [UInt8] {
        guard let key = shown.withLock({ $0 }) else { return [Message.failure] }
        switch request.first {
        case Message.identitiesRequest:
            let entry = SSHReader.string(key.blob) + SSHReader.string([])
            return [Message.identities] + SSHReader.number(1) + entry
        case Message.signRequest:
            var reader = SSHReader(Array(request.dropFirst()))
            guard reader.string() == key.blob, Self.send(request, to: socket, deadline),
                let answer = Self.receive(from: socket, deadline)
            else { return [Message.failure] }
            return answer
        default: return [Message.failure]
        }
    }

    private static func read(_ answer: [UInt8]) -> [HostKey]? {
        guard answer.first == Message.identities else { return nil }
        var reader = SSHReader(Array(answer.dropFirst()))
        guard let count = reader.number(), count <= 2048 else { return nil }
        var keys: [HostKey] = []
        for _ in 0..<count {
            guard let blob = reader.string(), reader.string() != nil else { return nil }
            if let key = HostKey(blob: blob) { keys.append(key) }
        }
        return keys
    }

    private static func send(_ message: [UInt8], to socket: Int32, _ deadline: Deadline) -> Bool {
        let bytes = SSHReader.string(message)
        var sent = 0
        while sent < bytes.count {
            let n = bytes.withUnsafeBytes {
                Glibc.send(
                    socket,
                    $0.baseAddress.map { $0 + sent },
                    $0.count - sent,
                    Int32(MSG_NOSIGNAL | MSG_DONTWAIT)
                )
            }
            if n > 0 { sent += n }
            guard n >= 0 || errno == EAGAIN || errno == EINTR, !deadline.hasPassed else { return false }
            if sent < bytes.count { wait(socket, Int16(POLLOUT), deadline) }
        }
        return true
    }

    private static func receive(from socket: Int32, _ deadline: Deadline) -> [UInt8]? {
        guard let head = take(4, from: socket, deadline) else { return nil }
        let count = head.reduce(0) { $0 << 8 | Int($1) }
        guard count > 0, count <= Message.limit else { return nil }
        return take(count, from: socket, deadline)
    }

    private static func take(_ count: Int, from socket: Int32, _ deadline: Deadline) -> [UInt8]? {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: count)
        while bytes.count < count {
            let n = recv(socket, &buffer, count - bytes.count, Int32(MSG_DONTWAIT))
            if n > 0 { bytes += buffer[..<n] }
            guard n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)), !deadline.hasPassed else {
                return nil
            }
            if n < 0 { wait(socket, Int16(POLLIN), deadline) }
        }
        return bytes
    }

    private static func wait(_ socket: Int32, _ events: Int16, _ deadline: Deadline) {
        var watched = pollfd(fd: socket, events: events, revents: 0)
        _ = poll(&watched, 1, deadline.milliseconds)
    }
}

// Inside the class the name `close` is ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
