import Basics
import CoordTesting
import Dispatch
import Glibc
import Synchronization
import Testing

@testable import Remote

extension LoopbackSSHServer {
    /// How a test reaches this server.
    func endpoint(identity: String? = nil) -> SSHEndpoint {
        SSHEndpoint(
            name: "box",
            address: "127.0.0.1",
            port: port,
            user: user,
            identity: identity ?? clientKey,
            knownHosts: "\(directory)/known_hosts"
        )
    }

    /// The same with files that are still there when the server is gone.
    func endpointThatOutlivesIt() throws -> SSHEndpoint {
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-client")
        for name in ["client_key", "client_key.pub"] {
            try Files.writeAtomically(
                try Files.read("\(directory)/\(name)"),
                to: "\(folder)/\(name)",
                mode: 0o600
            )
        }
        var endpoint = endpoint(identity: "\(folder)/client_key")
        endpoint.knownHosts = "\(folder)/known_hosts"
        return endpoint
    }

    /// The key that it shows.
    func hostKey() throws -> HostKey {
        let fields = try Files.readText(hostKeyFile).split(separator: " ")
        return try #require(HostKey(base64: fields[1]))
    }

    /// How many descriptors of this process are connections to it.
    func socketsHere() throws -> Int {
        let port = String(self.port, radix: 16, uppercase: true)
        let padded = String(repeating: "0", count: 4 - port.count) + port
        // Field 3 is the other side's address, field 10 the socket's number.
        let lines = try Files.readText("/proc/self/net/tcp").split(separator: "\n").map {
            $0.split(separator: " ")
        }
        let numbers = Set(
            lines.filter { $0.count > 9 && $0[2].hasSuffix(":\(padded)") }.map { String($0[9]) }
        )
        return try Files.list("/proc/self/fd").filter { name in
            var target = [CChar](repeating: 0, count: 64)
            readlink("/proc/self/fd/\(name)", &target, 63)
            let text = String(decoding: target.prefix { $0 > 0 }.map { UInt8($0) }, as: UTF8.self)
            return text.hasPrefix("socket:[") && numbers.contains(String(text.dropFirst(8).dropLast()))
        }.count
    }
}

/// Sends a few MB to a command of a host, where they must arrive as they are.
func checkLargeInput(_ host: any Host) throws {
    let bytes = (0..<3_333_333).map { UInt8(truncatingIfNeeded: $0 &* 77 >> 5) }
    let result = try host.run("sha256sum", input: bytes)
    #expect(Digest(hex: result.text.prefix(64)) == Digest(of: bytes))
}

/// Threads of a test, waited for with a deadline.
final class Workers: Sendable {
    private let group = DispatchGroup()

    func expect() { group.enter() }
    func done() { group.leave() }

    func start(_ body: @escaping @Sendable () -> Void) {
        group.enter()
        OwnThread.start("test") {
            body()
            self.group.leave()
        }
    }

    func wait() { #expect(group.wait(timeout: .now() + 50) == .success, "threads ended in time") }
}

/// Reads a stream to its end.
func readAll(_ stream: Int32, hashing: Bool = true) -> (count: Int, digest: Digest) {
    var digest = DigestBuilder()
    var count = 0
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
        let n = read(stream, &buffer, buffer.count)
        if n < 0, errno == EINTR { continue }
        guard n > 0 else { break }
        count += n
        guard hashing else { continue }
        buffer.withUnsafeBytes { digest.update(UnsafeRawBufferPointer(rebasing: $0[..<n])) }
    }
    return (count, digest.finish())
}

/// Waits for something that another process does to the file system.
func waitUntil(_ isTrue: () -> Bool) throws {
    let deadline = Deadline(after: .seconds(20))
    while !isTrue() {
        try #require(!deadline.hasPassed, "it did not happen in time")
        poll(nil, 0, 5)
    }
}

/// Accepts connections, says something, and then nothing more.
final class SilentServer: Sendable {
    let port: UInt16
    private let descriptor: Int32

    init(says text: String?) throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutableBytes(of: &address) { bytes -> Int32 in
            let pointer = bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self)
            return bind(descriptor, pointer, length) | getsockname(descriptor, pointer, &length)
        }
        try #require(bound == 0 && listen(descriptor, 16) == 0)
        port = UInt16(bigEndian: address.sin_port)
        self.descriptor = descriptor
        guard let text else { return }
        OwnThread.start("silent") {
            // Ends when the listening socket is shut down; the connections go with the process.
            while true {
                let connection = accept(descriptor, nil, nil)
                guard connection >= 0 else { return }
                _ = Array(text.utf8).withUnsafeBytes {
                    try? Files.writeAll($0, to: connection, path: "connection")
                }
            }
        }
    }

    deinit {
        shutdown(descriptor, Int32(SHUT_RDWR))
        close(descriptor)
    }
}
