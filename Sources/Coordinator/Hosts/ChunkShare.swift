package import Basics
package import ContentStore
internal import Dispatch
internal import Synchronization

/// Chunks for several hosts: each is read and compressed once, while the hosts are near one another.
///
/// What was read is kept up to a limit. A host that falls behind by more than that reads again by itself, so that it
/// holds nobody up; it costs a read, nothing else.
package final class ChunkShare: ChunkSource {
    private final class Entry: Sendable {
        let ready = DispatchSemaphore(value: 0)
        let batch = Mutex<ChunkBatch?>(nil)
    }

    private struct State {
        var entries: [Digest: Entry] = [:]
        /// In the order in which they were read.
        var order: [Digest] = []
        var first = 0
        var size = 0
    }

    /// Kept at most, about four windows of one host; unit: bytes.
    private static let limit = 64 << 20

    private let source: any ChunkSource
    private let state = Mutex(State())

    /// - Parameter source: who is asked, once a chunk as long as it is kept.
    package init(_ source: any ChunkSource) { self.source = source }

    package func append(_ chunk: Digest, to batch: inout ChunkBatch) throws {
        let (entry, isMine) = state.withLock { state -> (Entry, Bool) in
            if let entry = state.entries[chunk] { return (entry, false) }
            let entry = Entry()
            state.entries[chunk] = entry
            state.order.append(chunk)
            return (entry, true)
        }
        if isMine {
            var one = ChunkBatch(capacity: 0)
            defer { entry.ready.signal() }
            do {
                try source.append(chunk, to: &one)
            } catch {
                state.withLock { $0.entries[chunk] = nil }
                throw error
            }
            let read = one
            entry.batch.withLock { $0 = read }
            keep(read.size)
            batch.append(read)
        } else {
            entry.ready.wait()
            entry.ready.signal()
            guard let read = entry.batch.withLock({ $0 }) else {
                return try source.append(chunk, to: &batch)
            }
            batch.append(read)
        }
    }

    private func keep(_ size: Int) {
        state.withLock { state in
            state.size += size
            while state.size > Self.limit, state.first < state.order.count {
                let oldest = state.order[state.first]
                state.first += 1
                if let entry = state.entries.removeValue(forKey: oldest) {
                    state.size -= entry.batch.withLock { $0?.size ?? 0 }
                }
            }
            // The front of the list is dropped now and then, not each time.
            if state.first > 4096 {
                state.order.removeFirst(state.first)
                state.first = 0
            }
        }
    }
}
