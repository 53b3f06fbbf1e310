import Basics
import Testing

@testable import Wire

/// Streams on one connection, without a connection.
@Suite struct MuxMachineTests {
    /// One side, as a reference: what it is asked changes it.
    private final class Side {
        var machine: MuxMachine
        init(_ role: MuxMachine.Role) { machine = MuxMachine(role: role) }

        var streamCount: Int { machine.streamCount }
        func open(target: [UInt8], window: Int) -> UInt32? { machine.open(target: target, window: window) }
        func accept(_ id: UInt32, window: Int) { machine.accept(id, window: window) }
        func refuse(_ id: UInt32, _ reason: String) { machine.refuse(id, reason) }
        func sendable(_ id: UInt32) -> Int { machine.sendable(id) }
        func send(_ id: UInt32, _ bytes: [UInt8]) { machine.send(id, bytes) }
        func grant(_ id: UInt32, _ count: Int) { machine.grant(id, count) }
        func end(_ id: UInt32) { machine.end(id) }
        func takeOutput(atMost limit: Int) -> [UInt8] { machine.takeOutput(atMost: limit) }

        func receive(_ bytes: [UInt8]) throws -> [MuxMachine.Event] {
            try bytes.withUnsafeBytes { try machine.receive($0) }
        }
        /// All that waits, in order.
        func output() -> [UInt8] {
            var all: [UInt8] = []
            while true {
                let bytes = machine.takeOutput()
                if bytes.isEmpty { return all }
                all += bytes
            }
        }
    }

    /// Two machines with an open stream of the first one.
    private func joined(window: Int = 1000) throws -> (a: Side, b: Side, stream: UInt32) {
        let a = Side(.first)
        let b = Side(.second)
        let stream = try #require(a.open(target: [9, 9], window: window))
        let opened = try b.receive(a.output())
        #expect(opened == [.opened(stream, target: [9, 9], window: window)])
        b.accept(stream, window: window)
        #expect(try a.receive(b.output()) == [.accepted(stream, window: window)])
        return (a, b, stream)
    }

    @Test func aStreamCarriesBytesBothWaysAndEnds() throws {
        let (a, b, stream) = try joined()
        a.send(stream, [1, 2, 3])
        a.end(stream)
        #expect(try b.receive(a.output()) == [.data(stream, [1, 2, 3]), .ended(stream)])
        b.send(stream, [4])
        b.end(stream)
        #expect(try a.receive(b.output()) == [.data(stream, [4]), .ended(stream)])
        #expect(a.streamCount == 0)
        #expect(b.streamCount == 0)
    }

    @Test func aRefusedStreamIsForgottenWithItsReason() throws {
        let a = Side(.first)
        let b = Side(.second)
        let stream = try #require(a.open(target: [], window: 10))
        _ = try b.receive(a.output())
        b.refuse(stream, "not\u{1B}[2J mine")
        #expect(try a.receive(b.output()) == [.refused(stream, reason: "not[2J mine")])
        #expect(a.streamCount == 0)
        #expect(b.streamCount == 0)
    }

    @Test func bothSidesMayOpenAtOnce() throws {
        let a = Side(.first)
        let b = Side(.second)
        let ours = try #require(a.open(target: [1], window: 1))
        let theirs = try #require(b.open(target: [2], window: 1))
        #expect(ours != theirs)
        let fromA = a.output()
        let fromB = b.output()
        #expect(try b.receive(fromA) == [.opened(ours, target: [1], window: 1)])
        #expect(try a.receive(fromB) == [.opened(theirs, target: [2], window: 1)])
    }

    @Test func aReaderThatStopsHoldsUpItsOwnStreamAlone() throws {
        let (a, b, slow) = try joined(window: 100)
        let fast = try #require(a.open(target: [], window: 100))
        _ = try b.receive(a.output())
        b.accept(fast, window: 100)
        _ = try a.receive(b.output())
        a.send(slow, [UInt8](repeating: 0, count: 100))
        #expect(a.sendable(slow) == 0)
        for round in 0..<50 {
            let piece = [UInt8](repeating: UInt8(round), count: 100)
            a.send(fast, piece)
            let events = try b.receive(a.output())
            #expect(events.last == .data(fast, piece))
            b.grant(fast, 100)
            #expect(try a.receive(b.output()) == [.credit(fast, 100)])
        }
        #expect(a.sendable(slow) == 0)
    }

    /// Whatever sizes, pieces and orders: each stream's bytes arrive once, in order, never more than there was room for.
    @Test(arguments: 0..<8) func anyTrafficArrivesWhole(seed: UInt64) throws {
        var chance = SmallRandom(seed: seed)
        let sides = [Side(.first), Side(.second)]
        var wire: [[UInt8]] = [[], []]
        struct Flow {
            var sent: [UInt8] = []; var got: [UInt8] = []; var room = 0; var unused = 0; var isOpen = false
        }
        var flows: [UInt32: [Flow]] = [:]
        for _ in 0..<3000 {
            let side = Int(chance.next() % 2)
            let other = 1 - side
            switch chance.next() % 6 {
            case 0 where flows.count < 12:
                let window = Int(chance.next() % 5000)
                if let id = sides[side].open(target: [UInt8(side)], window: window) {
                    var flow = [Flow(), Flow()]
                    flow[other].room = window
                    flows[id] = flow
                }
            case 1, 2:
                guard let id = flows.keys.sorted().randomElement(using: &chance) else { continue }
                let count = min(sides[side].sendable(id), Int(chance.next() % 3000), MuxMachine.maximumPiece)
                let bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: chance.next()) }
                sides[side].send(id, bytes)
                flows[id]?[side].sent += bytes
            case 3:
                guard let id = flows.keys.sorted().randomElement(using: &chance),
                    let unused = flows[id]?[other].unused, unused > 0
                else { continue }
                let count = Int(chance.next() % UInt64(unused)) + 1
                sides[side].grant(id, count)
                flows[id]?[other].unused -= count
                flows[id]?[other].room += count
            default: wire[side] += sides[side].takeOutput(atMost: 1000)
            }
            // A piece of what is on its way to `side` arrives.
            let count = min(wire[other].count, Int(chance.next() % 4000))
            let piece = Array(wire[other].prefix(count))
            wire[other].removeFirst(count)
            for event in try sides[side].receive(piece) {
                switch event {
                case .opened(let id, let target, _):
                    #expect(target == [UInt8(other)])
                    sides[side].accept(id, window: 2000)
                    flows[id]?[other].room = 2000
                case .data(let id, let bytes):
                    flows[id]?[other].got += bytes
                    flows[id]?[other].room -= bytes.count
                    flows[id]?[other].unused += bytes.count
                    #expect(flows[id]?[other].room ?? -1 >= 0)
                case .accepted, .credit: break
                default: Issue.record("unexpected \(event)")
                }
            }
        }
        for _ in 0..<3 {
            for side in 0..<2 {
                wire[side] += sides[side].output()
                for case .data(let id, let bytes) in try sides[1 - side].receive(wire[side]) {
                    flows[id]?[side].got += bytes
                }
                wire[side] = []
            }
        }
        #expect(flows.values.contains { $0[0].sent.count > 2000 })
        for flow in flows.values {
            for direction in flow { #expect(direction.sent == direction.got) }
        }
    }

    @Test func liesEndTheConnectionByName() throws {
        func failure(_ bytes: [UInt8], to side: MuxMachine) -> MuxError.Code? {
            var machine = side
            do {
                _ = try bytes.withUnsafeBytes { buffer throws(MuxError) in
                    try machine.receive(buffer)
                }
                return nil
            } catch {
                return (error as? MuxError)?.code
            }
        }
        let fresh = Side(.second)
        _ = try fresh.receive(MuxFrame.preface)
        let (_, open, stream) = try joined(window: 10)
        func frame(_ kind: MuxFrame.Kind, _ id: UInt32, _ payload: [UInt8]) -> [UInt8] {
            MuxFrame.head(kind, id, length: payload.count) + payload
        }
        #expect(failure(Array("SSH-2.0-".utf8), to: MuxMachine(role: .first)) == .preface)
        #expect(failure(Array("CMUX".utf8) + [2, 0, 0, 0], to: MuxMachine(role: .first)) == .preface)
        #expect(failure([99] + [UInt8](repeating: 0, count: 11), to: fresh.machine) == .frame)
        #expect(failure([4, 1, 0, 0] + [UInt8](repeating: 0, count: 8), to: fresh.machine) == .frame)
        #expect(failure(MuxFrame.head(.data, 1, length: Int(UInt32.max)), to: open.machine) == .frame)
        let tooLong = MuxFrame.head(.data, 1, length: MuxMachine.maximumPiece + 1)
        #expect(failure(tooLong, to: open.machine) == .frame)
        #expect(failure(frame(.data, 5, [1]), to: fresh.machine) == .stream)
        #expect(failure(frame(.open, 2, [0, 0, 0, 0]), to: fresh.machine) == .stream)
        #expect(failure(frame(.open, 0, [0, 0, 0, 0]), to: fresh.machine) == .stream)
        #expect(failure(frame(.open, 1, [0, 0, 0, 0]), to: open.machine) == .stream)
        #expect(failure(frame(.open, 3, [255, 255, 255, 255]), to: open.machine) == .credit)
        #expect(failure(frame(.credit, stream, [0, 0, 64, 0]), to: open.machine) == .credit)
        #expect(failure(frame(.credit, stream, [0, 0, 0, 0]), to: open.machine) == .credit)
        #expect(failure(frame(.data, stream, [UInt8](repeating: 1, count: 11)), to: open.machine) == .overrun)
        #expect(failure(frame(.accept, stream, [0, 0, 0, 0]), to: open.machine) == .phase)
        #expect(failure(frame(.end, stream, []) + frame(.data, stream, [1]), to: open.machine) == .phase)
        var crowd: [UInt8] = []
        for number in 0...MuxMachine.maximumStreams {
            crowd += frame(.open, UInt32(2 * number + 1), [0, 0, 0, 0])
        }
        #expect(failure(crowd, to: fresh.machine) == .tooMany)
        #expect(failure(frame(.reset, stream, []) + frame(.data, stream, [1]), to: open.machine) == nil)
    }

    /// Random and damaged bytes: an error or events, never a crash, and no memory for what was only announced.
    @Test(arguments: 0..<200) func anyBytesAreEventsOrAnError(seed: UInt64) throws {
        var chance = SmallRandom(seed: seed)
        let (a, b, stream) = try joined(window: 4000)
        for _ in 0..<20 {
            a.send(stream, [UInt8](repeating: 7, count: min(a.sendable(stream), 100)))
            _ = a.open(target: [1, 2, 3], window: Int(chance.next() % 100))
        }
        a.end(stream)
        var bytes = a.output()
        for _ in 0..<Int(chance.next() % 4) {
            bytes[Int(chance.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: chance.next())
        }
        if seed % 4 == 0 { bytes = (0..<2000).map { _ in UInt8(truncatingIfNeeded: chance.next()) } }
        while !bytes.isEmpty {
            let count = min(bytes.count, Int(chance.next() % 300) + 1)
            do {
                for case .opened(let id, _, _) in try b.receive(Array(bytes.prefix(count))) {
                    if chance.next() % 2 == 0 { b.accept(id, window: 10) } else { b.refuse(id, "no") }
                }
            } catch {
                #expect(error is MuxError)
                return
            }
            bytes.removeFirst(count)
        }
    }

    @Test func targetsAreReadBackAndGarbageIsNot() throws {
        let run = try #require(RunID("20261121-aaaaa"))
        for place in [RelayTarget.Place.trainer(run, member: 7), .probe] {
            let target = RelayTarget(host: "gpu", place: place)
            #expect(RelayTarget(target.bytes) == target)
            for end in 0..<target.bytes.count { #expect(RelayTarget(Array(target.bytes.prefix(end))) == nil) }
            #expect(RelayTarget(target.bytes + [0]) == nil)
        }
    }
}

/// SplitMix64: the same numbers for the same seed.
struct SmallRandom: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 &+ 1 }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
