internal import Basics
internal import Collectives
internal import Dispatch
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// All-reduce of two members over TCP loopback, beside the same bytes copied both ways with nothing else done.
///
/// Each member sends and receives `size` bytes in both rows, so the ratio of the throughputs is what the exchange
/// costs over the wire: checksums, sums, digests, the commit. Iterations of the two are interleaved.
enum AllReduceSuite {
    private struct Timings {
        var name: String
        var size: Int
        var seconds: [Double] = []

        var row: String {
            let sorted = seconds.sorted()
            func at(_ share: Double) -> String {
                let value = sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))] * 1e6
                return pad("\((value * 10).rounded() / 10)", 12)
            }
            let rate = Double(size) / sorted[sorted.count / 2] / 1e9
            return pad(name, -12) + pad(ByteCount(size).description, 10) + pad("\(size / 4)", 10) + at(0)
                + at(0.5)
                + at(0.99) + at(1) + pad("\((rate * 1000).rounded() / 1000)", 12) + pad("\(seconds.count)", 8)
        }
    }

    private static func pad(_ text: String, _ width: Int) -> String {
        let space = String(repeating: " ", count: max(1, abs(width) - text.count))
        return width < 0 ? text + space : space + text
    }

    /// Runs the suite and prints its table.
    static func run() throws {
        print(
            pad("name", -12) + pad("size", 10) + pad("elements", 10) + pad("min µs", 12) + pad("p50 µs", 12)
                + pad("p99 µs", 12) + pad("max µs", 12) + pad("GB/s", 12) + pad("n", 8) + "   ratio"
        )
        for power in stride(from: 12, through: 26, by: 2) {
            let size = 1 << power
            let iterations = max(8, min(1000, (256 << 20) / size))
            let (reduce, copy) = try measure(size: size, iterations: iterations)
            print(copy.row)
            let ratio = median(copy.seconds) / median(reduce.seconds)
            print(reduce.row + "   \((ratio * 100).rounded() / 100)")
        }
    }

    private static func median(_ seconds: [Double]) -> Double { seconds.sorted()[seconds.count / 2] }

    private static func measure(size: Int, iterations: Int) throws -> (reduce: Timings, copy: Timings) {
        let transport = TCPTransport()
        let endpoints = [try Endpoint(transport: transport), try Endpoint(transport: transport)]
        let listener = try transport.listen(at: "127.0.0.1:0")
        let dialled = try transport.connect(to: listener.address)
        var waiting: (any Link)?
        while waiting == nil { waiting = listener.accept() }
        guard let accepted = waiting else { return (Timings(name: "", size: 0), Timings(name: "", size: 0)) }
        defer {
            listener.close()
            dialled.close()
            accepted.close()
            endpoints.forEach { $0.close() }
        }
        let members = (0..<2).map {
            Member(rank: $0, address: endpoints[$0].address, lanes: LaneSet([$0]))
        }
        guard let run = RunID("bench") else { preconditionFailure("bad run id") }
        let result = Mutex((Timings(name: "allreduce", size: size), Timings(name: "copy", size: size)))
        let failure = Mutex<(any Error)?>(nil)
        DispatchQueue.concurrentPerform(iterations: 2) { rank in
            do {
                let group = try Group.open(
                    endpoint: endpoints[rank],
                    run: run,
                    generation: 1,
                    rank: rank,
                    members: members,
                    laneCount: 2,
                    secret: Redacted([1, 2, 3]),
                    deadline: .now + .seconds(10)
                )
                defer { group.close() }
                var buffers = Buffers(size: size)
                defer { buffers.free() }
                for iteration in 0..<(iterations + 3) {
                    let start = ContinuousClock.now
                    try buffers.reduce(group, UInt64(iteration), rank)
                    let middle = ContinuousClock.now
                    buffers.copy(rank == 0 ? dialled : accepted)
                    let end = ContinuousClock.now
                    if rank == 0, iteration >= 3 {
                        result.withLock { result in
                            result.0.seconds.append(seconds(start.duration(to: middle)))
                            result.1.seconds.append(seconds(middle.duration(to: end)))
                        }
                    }
                }
            } catch {
                failure.withLock { $0 = error }
            }
        }
        if let failure = failure.withLock({ $0 }) { throw failure }
        return result.withLock { $0 }
    }

    private static func seconds(_ duration: Duration) -> Double {
        let parts = duration.components
        return Double(parts.seconds) + Double(parts.attoseconds) * 1e-18
    }

    private struct Buffers {
        let values: UnsafeMutableBufferPointer<Float>
        let sum: UnsafeMutableBufferPointer<Float>
        var rows = [Double](repeating: 1, count: 8)

        init(size: Int) {
            values = .allocate(capacity: size / 4)
            sum = .allocate(capacity: size / 4)
            values.initialize(repeating: 1.5)
            sum.initialize(repeating: 0)
        }
        func free() {
            values.deallocate()
            sum.deallocate()
        }

        mutating func reduce(_ group: Group, _ operation: UInt64, _ rank: Int) throws {
            try group.reduce(
                operation: operation,
                contributions: [(LaneSubtree(start: rank, level: 0), UnsafeBufferPointer(values))],
                laneValues: &rows,
                sum: sum
            )
        }

        /// Sends all values and receives as many, both at once.
        func copy(_ link: any Link) {
            let size = values.count * 4
            let nothing = UnsafeMutableRawBufferPointer(start: nil, count: 0)
            let source = UnsafeRawBufferPointer(values), target = UnsafeMutableRawBufferPointer(sum)
            var sent = 0, came = 0
            while sent < size || came < size {
                var moved = false
                if sent < size {
                    let piece = UnsafeRawBufferPointer(rebasing: source[sent..<min(size, sent + 262_144)])
                    if case .moved(let count) = link.send(piece, and: UnsafeRawBufferPointer(nothing)) {
                        sent += count
                        moved = true
                    }
                }
                if came < size {
                    let piece = UnsafeMutableRawBufferPointer(
                        rebasing: target[came..<min(size, came + 262_144)]
                    )
                    if case .moved(let count) = link.receive(into: piece, and: nothing) {
                        came += count
                        moved = true
                    }
                }
                if !moved {
                    let events = POLLIN | (sent < size ? POLLOUT : 0)
                    var entry = pollfd(fd: link.descriptor, events: Int16(events), revents: 0)
                    _ = poll(&entry, 1, 1000)
                }
            }
        }
    }
}
