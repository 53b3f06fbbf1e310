internal import Basics
internal import Collectives

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// One member of an all-reduce, in a process of its own, driven line by line by `Benchmarks/allreduce-vs-peers.py`.
///
/// `coord-bench allreduce RANK MEMBERS tcp|sealed|shm` prints its addresses, is told everybody's, and then obeys:
/// - `reduce BYTES COUNT`: all-reduces, committed by all; prints the seconds of each.
/// - `repeat BYTES COUNT`: the same; prints only how many there were, so that writing numbers takes no memory.
/// - `copy BYTES COUNT`: sends and receives that many bytes with the member beside it (rank xor 1) at the same time,
///   with nothing else done: the limit that the same bytes could reach over loopback TCP.
struct AllReduceMember {
    private let rank: Int
    private let group: Group
    /// Where the training loop would take its gradients from.
    private let memory: SharedArena?
    private let beside: any Link
    private var operation: UInt64 = 0
    private var rows: [Double]

    /// Runs until standard input ends.
    static func run(rank: Int, members: Int, way: String) throws {
        let transport = try transport(way)
        let endpoint = try Endpoint(transport: transport)
        defer { endpoint.close() }
        let listener = try TCPTransport().listen(at: "127.0.0.1:0")
        say("\(endpoint.address) \(listener.address)")
        guard let line = readLine() else { return }
        let addresses = line.split(separator: " ").map(String.init)
        let beside = try neighbour(listener, address: addresses[members + (rank ^ 1)], dials: rank & 1 == 1)
        var options = Group.Options()
        options.sealing = way == "sealed" ? .always : .never
        guard let run = RunID("bench") else { preconditionFailure("bad run id") }
        var lanes = 1
        while lanes < members { lanes *= 2 }
        let group = try Group.open(
            endpoint: endpoint,
            run: run,
            generation: 1,
            rank: rank,
            members: LanePlanner.assign(laneCount: lanes, weights: Array(repeating: 1, count: members))
                .enumerated().map { Member(rank: $0, address: addresses[$0], lanes: $1) },
            laneCount: lanes,
            secret: Redacted([1, 2, 3]),
            deadline: .now + .seconds(10),
            options: options
        )
        defer { group.close() }
        var member = AllReduceMember(
            rank: rank,
            group: group,
            memory: endpoint.memory,
            beside: beside,
            rows: Array(repeating: 1, count: lanes * 3)
        )
        while let line = readLine() {
            let words = line.split(separator: " ")
            guard words.count == 3, let bytes = Int(words[1]), let count = Int(words[2]) else { continue }
            let seconds = try member.measure(bytes: bytes, count: count, reduces: words[0] != "copy")
            say(
                words[0] == "repeat"
                    ? "\(seconds.count)" : seconds.map { "\($0)" }.joined(separator: " ")
            )
        }
    }

    /// A line for the script, at once: standard output is a pipe, and `print` would keep it back.
    private static func say(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        _ = write(1, bytes, bytes.count)
    }

    private static func transport(_ way: String) throws -> any Transport {
        switch way {
        case "tcp", "sealed": return TCPTransport()
        case "shm": return DirectTransport()
        default: throw CollectivesError(.badAddress, "no way is called '\(way)'")
        }
    }

    private static func neighbour(
        _ listener: any Listener,
        address: String,
        dials: Bool
    ) throws -> any Link {
        if dials { return try TCPTransport().connect(to: address) }
        while true {
            if let link = listener.accept() { return link }
            var entry = pollfd(fd: listener.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&entry, 1, 1000)
        }
    }

    private mutating func measure(bytes: Int, count: Int, reduces: Bool) throws -> [Double] {
        let elements = bytes / 4
        let values = allocate(elements), sum = allocate(elements)
        values.initialize(repeating: 1.5)
        sum.initialize(repeating: 0)
        defer {
            free(values)
            free(sum)
        }
        // By their labels: another tuple would be made over for each operation.
        let trees = group.subtrees.map { (subtree: $0, values: UnsafeBufferPointer(values)) }
        let warmUp = 3
        var seconds: [Double] = []
        seconds.reserveCapacity(count)
        for iteration in 0..<(count + warmUp) {
            let start = ContinuousClock.now
            if reduces {
                try group.reduce(operation: operation, contributions: trees, laneValues: &rows, sum: sum)
                operation += 1
            } else {
                copy(UnsafeRawBufferPointer(values), UnsafeMutableRawBufferPointer(sum))
            }
            let parts = start.duration(to: .now).components
            if iteration >= warmUp {
                seconds.append(Double(parts.seconds) + Double(parts.attoseconds) * 1e-18)
            }
        }
        return seconds
    }

    private func allocate(_ count: Int) -> UnsafeMutableBufferPointer<Float> {
        memory?.allocate(count) ?? .allocate(capacity: count)
    }
    private func free(_ buffer: UnsafeMutableBufferPointer<Float>) {
        if let memory { memory.free(buffer) } else { buffer.deallocate() }
    }

    /// Sends all of `source` and fills all of `target`, both at once.
    private func copy(_ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer) {
        let size = source.count, most = 262_144
        let nothing = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        var sent = 0, came = 0
        while sent < size || came < size {
            var moved = false
            if sent < size {
                let piece = UnsafeRawBufferPointer(rebasing: source[sent..<min(size, sent + most)])
                if case .moved(let count) = beside.send(piece, and: UnsafeRawBufferPointer(nothing)) {
                    sent += count
                    moved = true
                }
            }
            if came < size {
                let piece = UnsafeMutableRawBufferPointer(rebasing: target[came..<min(size, came + most)])
                if case .moved(let count) = beside.receive(into: piece, and: nothing) {
                    came += count
                    moved = true
                }
            }
            if !moved {
                let events = POLLIN | (sent < size ? POLLOUT : 0)
                var entry = pollfd(fd: beside.descriptor, events: Int16(events), revents: 0)
                _ = poll(&entry, 1, 1000)
            }
        }
    }
}
