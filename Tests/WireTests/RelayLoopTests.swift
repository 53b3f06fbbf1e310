import Basics
import Synchronization
import Testing

@testable import Wire

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Real sockets through real loops: two hosts and one in the middle.
@Suite(.timeLimit(.minutes(5))) struct RelayLoopTests {
    private let run = RunID.make(timestamp: "20261121-000000")

    /// Hosts a and b, joined to a hub; trainers by their numbers at addresses of b.
    private struct Relay {
        let a: RelayLoop
        let b: RelayLoop
        let hub: RelayLoop
        let lost = Mailbox<String>()

        init(trainers: [Int: String]) throws {
            let lost = self.lost
            a = try RelayLoop(
                name: "relay-a",
                decide: { _, _ in .refuse("no") },
                ended: { _, reason in lost.put("a \(reason)") }
            )
            b = try RelayLoop(
                name: "relay-b",
                decide: { target, _ in
                    guard target.host == "b", case .trainer(_, let member) = target.place,
                        let address = trainers[member]
                    else { return .refuse("\(target) is not here") }
                    return .dial(address)
                },
                ended: { _, reason in lost.put("b \(reason)") }
            )
            hub = try RelayLoop(
                name: "relay-hub",
                decide: { target, _ in .forward(to: target.host) },
                ended: { name, _ in lost.put("hub \(name)") }
            )
            for (loop, name) in [(a, "a"), (b, "b")] {
                let (here, there) = try UnixSocket.pair()
                loop.add(here, as: "hub", role: .second)
                hub.add(there, as: name, role: .first)
            }
        }
    }

    /// A TCP server that hands each connection to `serve` on a thread of its own.
    private func server(_ serve: @escaping @Sendable (Int32) -> Void) throws -> String {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = bind(listener, $0, size)
                _ = getsockname(listener, $0, &size)
            }
        }
        try #require(listen(listener, 16) == 0)
        OSThread.start(name: "server") {
            while let client = UnixSocket.accept(listener) {
                OSThread.start(name: "serve") {
                    serve(client)
                    close(client)
                }
            }
        }
        return "127.0.0.1:\(UInt16(bigEndian: address.sin_port))"
    }

    private func connect(_ text: String) throws -> Int32 {
        let port = try #require(text.split(separator: ":").last.flatMap { UInt16($0) })
        let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        address.sin_port = port.bigEndian
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(client, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(result == 0)
        return client
    }

    private static func readAll(_ socket: Int32) -> [UInt8] {
        var all: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let n = read(socket, &buffer, buffer.count)
            if n <= 0 { return all }
            all += buffer[..<n]
        }
    }

    private static func echo(_ socket: Int32) {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let n = read(socket, &buffer, buffer.count)
            guard n > 0 else { break }
            var sent = 0
            while sent < n {
                let w = buffer.withUnsafeBytes {
                    send(socket, $0.baseAddress.map { $0 + sent }, n - sent, Int32(MSG_NOSIGNAL))
                }
                guard w > 0 else { return }
                sent += w
            }
        }
        shutdown(socket, Int32(SHUT_WR))
    }

    private func trainer(_ member: Int) -> RelayTarget {
        RelayTarget(host: "b", place: .trainer(run, member: member))
    }

    @Test func manyMegabytesComeBackAsTheyWent() throws {
        let relay = try Relay(trainers: [3: server(Self.echo)])
        let door = try relay.a.listen(for: trainer(3), through: "hub")
        #expect(try relay.a.listen(for: trainer(3), through: "hub") == door)
        let client = try connect(door)
        let bytes = (0..<20_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        OSThread.start(name: "writer") {
            try? bytes.withUnsafeBytes { try Files.writeAll($0, to: client, path: "socket") }
            shutdown(client, Int32(SHUT_WR))
        }
        #expect(Self.readAll(client) == bytes)
        close(client)
        relay.a.close()
        relay.b.close()
        relay.hub.close()
    }

    @Test func aReaderThatStopsHoldsNothingElseUp() throws {
        let gate = Mailbox<Void>()
        let slow = try server { socket in
            gate.take()
            _ = Self.readAll(socket)
        }
        let relay = try Relay(trainers: [0: slow, 1: server(Self.echo)])
        let stuck = try connect(try relay.a.listen(for: trainer(0), through: "hub"))
        let filled = Mailbox<Int>()
        OSThread.start(name: "filler") {
            // More than sockets and windows hold: this blocks until the gate opens.
            let bytes = [UInt8](repeating: 1, count: 64 << 20)
            try? bytes.withUnsafeBytes { try Files.writeAll($0, to: stuck, path: "socket") }
            shutdown(stuck, Int32(SHUT_WR))
            filled.put(bytes.count)
        }
        let quick = try connect(try relay.a.listen(for: trainer(1), through: "hub"))
        var answer = [UInt8](repeating: 0, count: 4)
        for round in 0..<200 {
            let asked = [UInt8(round), 1, 2, 3]
            try asked.withUnsafeBytes { try Files.writeAll($0, to: quick, path: "socket") }
            var got = 0
            while got < 4 {
                let n = answer.withUnsafeMutableBytes {
                    read(quick, $0.baseAddress.map { $0 + got }, 4 - got)
                }
                try #require(n > 0)
                got += n
            }
            #expect(answer == asked)
        }
        #expect(filled.take(milliseconds: 0) == nil)
        gate.put(())
        #expect(filled.take() == 64 << 20)
        close(stuck)
        close(quick)
    }

    @Test func otherTargetsAreRefused() throws {
        let relay = try Relay(trainers: [0: server(Self.echo)])
        for target in [
            trainer(1), RelayTarget(host: "b", place: .probe), RelayTarget(host: "a", place: .probe),
            RelayTarget(host: "nowhere", place: .trainer(run, member: 0)),
        ] {
            let client = try connect(try relay.a.listen(for: target, through: "hub"))
            #expect(Self.readAll(client).isEmpty)
            close(client)
        }
        // The loops live on, and know what they may.
        let client = try connect(try relay.a.listen(for: trainer(0), through: "hub"))
        shutdown(client, Int32(SHUT_WR))
        #expect(Self.readAll(client).isEmpty)
        close(client)
    }

    @Test func aBrokenWayEndsItsConnectionsAndANewOneServesAgain() throws {
        let relay = try Relay(trainers: [0: server(Self.echo)])
        let door = try relay.a.listen(for: trainer(0), through: "hub")
        let client = try connect(door)
        try [UInt8](arrayLiteral: 1).withUnsafeBytes { try Files.writeAll($0, to: client, path: "socket") }
        var byte: UInt8 = 0
        #expect(read(client, &byte, 1) == 1)
        relay.hub.remove("b")
        #expect(Self.readAll(client).isEmpty)
        close(client)
        #expect(relay.lost.take() == "b it was closed")
        let (here, there) = try UnixSocket.pair()
        relay.b.add(here, as: "hub", role: .second)
        relay.hub.add(there, as: "b", role: .first)
        let again = try connect(door)
        shutdown(again, Int32(SHUT_WR))
        #expect(Self.readAll(again).isEmpty)
        close(again)
    }

    @Test func aSideThatTalksNonsenseIsCutOff() throws {
        let lost = Mailbox<String>()
        let loop = try RelayLoop(
            name: "relay",
            decide: { _, _ in .refuse("no") },
            ended: { lost.put("\($0): \($1)") }
        )
        let (here, there) = try UnixSocket.pair()
        loop.add(here, as: "stranger", role: .first)
        try Array("GET / HTTP/1.1\r\n\r\n".utf8).withUnsafeBytes {
            try Files.writeAll($0, to: there, path: "socket")
        }
        #expect(lost.take().hasPrefix("stranger: preface"))
        close(there)
    }
}
