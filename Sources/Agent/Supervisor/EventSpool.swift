internal import Basics
internal import Synchronization
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// The events of one run on this host, in a file, until the coordinator has them.
///
/// `events.jsonl`: one ``AgentEvent`` a line. The file outlives the agent; a half-written last line is cut off.
/// What the coordinator has is dropped, so that the file does not grow with the run.
/// Numbers begin at the time of the file's making, so that those of a host that was wiped lie above all before.
/// While the disk is full, events are kept in memory: they are told as ever, and come into the file once there is room.
final class EventSpool: Sendable {
    private struct State {
        /// ends[i]: where the event with number `base + i + 1` ends in the file.
        var ends: [Int] = []
        var base: Int
        /// Those behind the file's, which it has no room for.
        var waiting: [AgentEvent] = []
        /// What they would take there.
        var waitingBytes = 0

        var count: Int { ends.count + waiting.count }
    }

    /// The most that is kept in memory; unit: bytes.
    private static let mostWaiting = 64 << 20

    private let path: String
    private let state: Mutex<State>

    init(directory: String) throws {
        path = directory + "/events.jsonl"
        var ends: [Int] = []
        var base = Int(Machine.unixTime * 1000)
        if Files.kind(path) == .file {
            let bytes = try Files.read(path)
            for (index, byte) in bytes.enumerated() where byte == 0x0A { ends.append(index + 1) }
            if (ends.last ?? 0) < bytes.count { truncate(path, ends.last ?? 0) }
            if let first = ends.first {
                base = try MessageCoding.decode(AgentEvent.self, from: Array(bytes[..<first])).sequence - 1
            }
        }
        state = Mutex(State(ends: ends, base: base))
    }

    /// Appends a report and returns the event it became.
    ///
    /// - Throws: ``FileError`` when too much is in memory already: the event is lost.
    func append(
        run: RunID,
        attempt: Int,
        member: Int,
        report: TrainerReport,
        time: Double
    ) throws -> AgentEvent {
        try state.withLock { state in
            let event = AgentEvent(
                run: run,
                sequence: state.base + state.count + 1,
                attempt: attempt,
                member: member,
                report: report,
                time: time
            )
            let line = try Self.line(event)
            do {
                try write(&state)
                try write(line, &state)
            } catch let error as FileError {
                guard state.waitingBytes + line.count <= Self.mostWaiting else { throw error }
                state.waiting.append(event)
                state.waitingBytes += line.count
            }
            return event
        }
    }

    private static func line(_ event: AgentEvent) throws -> [UInt8] {
        try MessageCoding.encode(event) + [0x0A]
    }

    /// Brings what waits into the file, as far as it has room.
    private func write(_ state: inout State) throws {
        while let event = state.waiting.first {
            let line = try Self.line(event)
            try write(line, &state)
            state.waiting.removeFirst()
            state.waitingBytes -= line.count
        }
    }

    private func write(_ line: [UInt8], _ state: inout State) throws {
        do {
            try Files.append(line, to: path, mode: 0o600)
        } catch {
            // A full disk may have taken half of the line.
            truncate(path, state.ends.last ?? 0)
            throw error
        }
        state.ends.append((state.ends.last ?? 0) + line.count)
    }

    /// Whether events wait for room on the disk.
    var isFull: Bool { state.withLock { !$0.waiting.isEmpty } }

    /// The number of the last event; 0 when there is none.
    var last: Int { state.withLock { $0.count == 0 ? 0 : $0.base + $0.count } }

    /// Drops what the coordinator has, once that is worth writing the rest anew.
    ///
    /// The last event stays: numbers go on from it. On a full disk all of it goes: then they go on from the time, should
    /// another agent begin with an empty file.
    /// - Parameters:
    ///   - sequence: the coordinator has the events up to here.
    ///   - slack: bytes that may be kept for nothing.
    func forget(through sequence: Int, slack: Int = 4 << 20) throws {
        try state.withLock { state in
            let known = min(sequence - state.base, state.count)
            if !state.waiting.isEmpty, known >= state.ends.count {
                truncate(path, 0)
                for event in state.waiting.prefix(known - state.ends.count) {
                    state.waitingBytes -= try Self.line(event).count
                }
                state.waiting.removeFirst(known - state.ends.count)
                (state.base, state.ends) = (state.base + known, [])
                return
            }
            let count = min(known, state.ends.count - 1)
            guard count > 0, state.ends[count - 1] > slack else { return }
            let start = state.ends[count - 1]
            let bytes = try Files.read(path)
            try Files.writeAtomically(Array(bytes[start...]), to: path, mode: 0o600)
            state.base += count
            state.ends = state.ends[count...].map { $0 - start }
        }
    }

    /// At most `limit` events behind a sequence number.
    func read(after sequence: Int, limit: Int) throws -> [AgentEvent] {
        // Opened under the lock: the file may be written anew, what was opened stays as it was.
        let (found, waiting) = try state.withLock {
            state -> ((range: Range<Int>, descriptor: Int32)?, [AgentEvent]) in
            let index = max(0, sequence - state.base)
            guard index < state.ends.count else {
                return (nil, Array(state.waiting.dropFirst(index - state.ends.count).prefix(limit)))
            }
            let descriptor = open(path, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw FileError(.read, path, errno: errno) }
            let end = state.ends[min(index + limit, state.ends.count) - 1]
            return (((index == 0 ? 0 : state.ends[index - 1])..<end, descriptor), [])
        }
        guard let (range, descriptor) = found else { return waiting }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: range.count)
        var got = 0
        while got < bytes.count {
            let n = bytes.withUnsafeMutableBytes {
                pread(
                    descriptor,
                    $0.baseAddress.map { $0 + got },
                    $0.count - got,
                    off_t(range.lowerBound + got)
                )
            }
            guard n > 0 else { throw FileError(.read, path, errno: n < 0 ? errno : EIO) }
            got += n
        }
        return try bytes.split(separator: 0x0A).map {
            try MessageCoding.decode(AgentEvent.self, from: Array($0))
        }
    }
}
