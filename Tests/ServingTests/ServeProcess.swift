import Basics
import Glibc
import Wire

@testable import Serving

/// A running `coord-serve`, in a folder of its own.
final class ServeProcess: Sendable {
    let directory: String
    let process: ChildProcess
    /// Where it speaks HTTP; "" when it ended before it listened.
    let address: String
    /// What it wrote to standard error until then.
    let log: String

    /// Starts the program that was built beside the tests and waits until it listens or ends.
    init(
        _ directory: String,
        listen: String = "127.0.0.1:0",
        more: [String] = [],
        token: String? = nil
    ) throws {
        self.directory = directory
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw ServingError(.failed, "no pipe") }
        process = try ChildProcess(
            [Self.program, "--directory", directory, "--listen", listen] + more,
            environment: Machine.environment + (token.map { ["SERVE_TEST_TOKEN=\($0)"] } ?? []),
            // Not our standard output: whoever reads it would wait for this program too.
            files: [-1, ends[1], ends[1]]
        )
        close(ends[1])
        var text = ""
        var buffer = [UInt8](repeating: 0, count: 4096)
        while !text.contains("listening on ") || !text.hasSuffix("\n") {
            let count = read(ends[0], &buffer, buffer.count)
            guard count > 0 else { break }
            text += String(decoding: buffer[..<count], as: UTF8.self)
        }
        log = text
        let tail = text.split(separator: "listening on ").dropFirst().first ?? ""
        address = String(tail.prefix { $0 != "\n" })
        let reading = ends[0]
        // A full pipe would block the program.
        OSThread.start(name: "serve") {
            var rest = [UInt8](repeating: 0, count: 4096)
            while read(reading, &rest, rest.count) > 0 {}
            close(reading)
        }
    }

    static var program: String { Files.parent(Machine.executable) + "/coord-serve" }

    var port: UInt16 { UInt16(address.split(separator: ":").last ?? "") ?? 0 }

    /// Asks the admin socket.
    func ask(_ request: ServeRequest, values: [Float]? = nil) throws -> ServeReply {
        let channel = FrameChannel(socket: try LocalSocket.connect("\(directory)/serve.sock"))
        try channel.send(request)
        if let values { try channel.send(Frame(.bytes, RawValues.bytes(values))) }
        guard let frame = try channel.receive(timeoutMilliseconds: 30_000) else { throw FrameError.truncated }
        return try MessageCoding.decode(ServeReply.self, from: frame.payload)
    }

    func release(_ number: Int, _ folder: String) throws -> ServeReply {
        try ask(.release(version: Self.version(number), folder: folder))
    }

    static func version(_ number: Int) -> ServedVersion {
        ServedVersion(model: "toy", version: number, checkpoint: Digest(of: "\(number)"))
    }

    /// The process that holds the model of a folder.
    func child(_ folder: String) -> ProcessIdentity? {
        let tasks = (try? Files.list("/proc/\(process.pid)/task")) ?? []
        let pids = tasks.flatMap { task in
            ((try? Files.readText("/proc/\(process.pid)/task/\(task)/children")) ?? "")
                .split(separator: " ").compactMap { Int32($0) }
        }
        return pids.first { pid in
            ((try? Files.readText("/proc/\(pid)/cmdline")) ?? "").split(separator: "\0").contains(folder[...])
        }.flatMap { ProcessIdentity(pid: $0) }
    }

    /// Ends it the way the agent does.
    func stop() -> ProcessExit {
        process.signal(SIGTERM)
        return process.wait()
    }

    /// Speaks HTTP/1.1: one request on a connection of its own.
    func http(
        _ method: String,
        _ path: String,
        headers: [String] = [],
        body: [UInt8] = []
    ) throws -> (status: Int, headers: [String: String], body: [UInt8]) {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var target = sockaddr_in()
        target.sin_family = sa_family_t(AF_INET)
        target.sin_port = port.bigEndian
        target.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let connected = withUnsafePointer(to: &target) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard connected == 0 else { throw ServingError(.failed, "no connection to \(address)") }
        var lines = ["\(method) \(path) HTTP/1.1", "Host: test", "Connection: close"] + headers
        if !body.isEmpty { lines.append("Content-Length: \(body.count)") }
        let request = Array((lines.joined(separator: "\r\n") + "\r\n\r\n").utf8) + body
        var sent = 0
        while sent < request.count {
            // A server that refuses early may close before it has read all.
            let count = request.withUnsafeBytes {
                send(descriptor, $0.baseAddress.map { $0 + sent }, $0.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { break }
            sent += count
        }
        var reply: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            guard count > 0 else { break }
            reply += buffer[..<count]
        }
        guard let end = reply.indices.first(where: { reply[$0...].starts(with: Array("\r\n\r\n".utf8)) })
        else {
            throw ServingError(.failed, "no HTTP reply: \(reply.count) bytes")
        }
        let head = String(decoding: reply[..<end], as: UTF8.self).split(separator: "\r\n")
        let fields = head.dropFirst().map { line -> (String, String) in
            let parts = line.split(separator: ":", maxSplits: 1)
            return (parts[0].lowercased(), String((parts.last ?? "").drop { $0 == " " }))
        }
        let status = Int((head.first ?? "").split(separator: " ").dropFirst().first ?? "") ?? 0
        return (status, Dictionary(fields) { $1 }, Array(reply[(end + 4)...]))
    }

    /// Sends rows as JSON and reads the logits and the version back.
    func infer(
        _ inputs: [Double],
        path: String = "/v2/models/toy/infer",
        headers: [String] = []
    ) throws -> (
        status: Int, version: String?, logits: [Double], text: String
    ) {
        let rows = inputs.count / ToyModel.features
        let body = """
            {"inputs":[{"name":"x","datatype":"FP32","shape":[\(rows),\(ToyModel.features)],"data":\(inputs)}]}
            """
        let reply = try http("POST", path, headers: headers, body: Array(body.utf8))
        let text = String(decoding: reply.body, as: UTF8.self)
        guard reply.status == 200 else { return (reply.status, nil, [], text) }
        let outputs = try JSON(reply.body)["outputs"]?.elements ?? []
        var logits: [Double] = []
        if case .numbers(let numbers)? = outputs.first(where: { $0["name"]?.text == "logits" })?["data"] {
            logits = numbers
        }
        return (reply.status, reply.headers["x-coord-version"], logits, text)
    }
}

/// A folder that is removed behind the test, with room for a router and its models.
func withServeFolder<Result>(_ body: (String) throws -> Result) throws -> Result {
    let folder = try Files.makeTemporaryDirectory(prefix: "serve")
    defer { try? Files.remove(folder) }
    return try body(folder)
}
