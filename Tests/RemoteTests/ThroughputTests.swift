import Basics
import CoordTesting
import Glibc
import Synchronization
import Testing

@testable import Remote

/// Prints what streams carry over a long distance: `COORD_MEASURE=1` puts 50 ms before a server of its own,
/// `COORD_MEASURE_AT="USER ADDRESS PORT KEY"` takes one that is there, at whatever distance.
@Suite(
    .enabled(
        if: getenv("COORD_MEASURE") != nil && LoopbackSSHServer.isAvailable,
        "set COORD_MEASURE=1 where sshd can run"
    ),
    .serialized
)
struct ThroughputTests {
    @Test func streamsOverALongDistance() throws {
        if let place = Machine.environment("COORD_MEASURE_AT") {
            let words = place.split(separator: " ").map(String.init)
            try #require(words.count == 4)
            let folder = try Files.makeTemporaryDirectory(prefix: "coord-measure")
            defer { try? Files.remove(folder) }
            return try measure(
                SSHEndpoint(
                    name: "box",
                    address: words[1],
                    port: UInt16(words[2]),
                    user: words[0],
                    identity: words[3],
                    knownHosts: "\(folder)/known_hosts"
                )
            )
        }
        let server = try LoopbackSSHServer()
        var ends: [Int32] = [-1, -1]
        #expect(makePipe(&ends) == 0)
        let script = Files.parent(Files.parent(Files.parent(#filePath))) + "/scripts/delay-proxy.py"
        let proxy = try ChildProcess(
            ["/usr/bin/env", "python3", script, String(server.port), "50"],
            files: [-1, ends[1], 2],
            diesWithParent: true
        )
        close(ends[1])
        defer {
            proxy.signal(SIGKILL)
            _ = proxy.wait()
            close(ends[0])
        }
        var text: [UInt8] = []
        var digit: UInt8 = 0
        while read(ends[0], &digit, 1) == 1, digit != 0x0A { text.append(digit) }
        var endpoint = server.endpoint()
        endpoint.port = UInt16(String(decoding: text, as: UTF8.self))
        try measure(endpoint)
    }

    private func measure(_ endpoint: SSHEndpoint) throws {
        let host = SSHHost(endpoint, policy: .acceptNew)
        _ = try host.run("true")
        for (count, connections) in [(1, 1), (2, 1), (4, 1), (4, 4), (8, 4)] {
            let size = 96 << 20
            let down = try rate(host, "exec head -c \(size) /dev/zero", count, connections) {
                #expect(readAll($0, hashing: false).count == size)
            }
            let up = try rate(host, "exec wc -c", count, connections) { stream in
                let block = [UInt8](repeating: 0, count: 1 << 20)
                for _ in 0..<(size / block.count) {
                    _ = block.withUnsafeBytes { try? Files.writeAll($0, to: stream, path: "stream") }
                }
                shutdown(stream, Int32(SHUT_WR))
                #expect(readAll(stream, hashing: false).count == "\(size)\n".utf8.count)
            }
            let megabytes = Double(count * size) / 1e6
            print(
                "\(count) streams, \(connections) connections: down \(Int(megabytes / down)) up \(Int(megabytes / up)) MB/s"
            )
        }
    }

    /// Seconds from the first byte to the last one of all streams.
    private func rate(
        _ host: SSHHost,
        _ command: String,
        _ count: Int,
        _ connections: Int,
        _ body: @escaping @Sendable (Int32) -> Void
    ) throws -> Double {
        let streams = try host.openStreams(command, count: count, connections: connections)
        let started = ContinuousClock.now
        let threads = Workers()
        for stream in streams {
            threads.start {
                body(stream)
                close(stream)
            }
        }
        threads.wait()
        return (ContinuousClock.now - started) / .seconds(1)
    }
}
