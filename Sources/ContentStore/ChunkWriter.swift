internal import Basics
internal import Dispatch
internal import Synchronization

/// Takes many chunks and brings them to the disk together, in packs.
///
/// What was taken can be seen, and survives a power cut, after ``flush()``, or earlier when a pack is full. One
/// thread at a time.
public final class ChunkWriter {
    /// Fewer chunks than these become a file each: a pack is not worth its index then.
    private static let fewest = 8

    /// What the finishing thread found; one pack at a time is on its way to the disk.
    private final class Finish: Sendable {
        let done = DispatchSemaphore(value: 1)
        let failure = Mutex<(any Error)?>(nil)
    }

    /// A builder that is handed to one other thread and not touched again.
    private struct Handover: @unchecked Sendable {
        // Safety: the writer forgets the builder when it hands it over.
        let builder: PackBuilder
    }

    private let store: ChunkStore
    private var builder: PackBuilder?
    private let finish = Finish()
    private let codec = ChunkCodec()

    /// Starts with nothing taken.
    public init(_ store: ChunkStore) { self.store = store }

    deinit {
        // A semaphore may not be dropped while it is lower than at its start.
        finish.done.wait()
        finish.done.signal()
    }

    /// Takes chunks from another store; nothing is trusted.
    ///
    /// - Returns: how many bytes of content they hold.
    /// - Throws: ``ContentError`` `.corrupt` at the first that is not what its name says (those before it are
    ///   kept), `FileError`.
    /// - Cost: one SHA-256 over the content, one write.
    @discardableResult
    public func take(_ batch: ChunkBatch) throws -> Int {
        try batch.bytes.withUnsafeBytes { raw in
            var size = 0
            // What is not compressed is hashed side by side.
            let plain = batch.entries.filter { $0.encoding == .raw }
            var digests = Digest.each(of: plain.map { UnsafeRawBufferPointer(rebasing: raw[$0.range]) })[...]
            for entry in batch.entries {
                let stored = UnsafeRawBufferPointer(rebasing: raw[entry.range])
                let content =
                    entry.encoding == .raw
                    ? digests.popFirst() == entry.chunk ? stored.count : nil
                    : codec.verifiedSize(of: stored, entry.encoding, as: entry.chunk)
                guard let count = content else {
                    throw ContentError(
                        .corrupt,
                        "chunk \(entry.chunk.short) arrived damaged: \(stored.count) bytes that do not have its SHA-256",
                        hint:
                            "send it again; when it stays so, the sender is damaged: `coord checkpoint verify`"
                    )
                }
                size += count
                try add(entry.chunk, entry.encoding, stored)
            }
            return size
        }
    }

    /// Takes content; what the store has already is not written again.
    ///
    /// - Returns: its name.
    func put(_ content: UnsafeRawBufferPointer) throws -> Digest {
        let chunk = Digest(of: content)
        if builder?.contains(chunk) == true || store.freshen(chunk) { return chunk }
        if let compressed = codec.compressed(content) {
            try compressed.withUnsafeBytes { try add(chunk, .zstd, $0) }
        } else {
            try add(chunk, .raw, content)
        }
        return chunk
    }

    private func add(_ chunk: Digest, _ encoding: ChunkEncoding, _ stored: UnsafeRawBufferPointer) throws {
        let builder = try self.builder ?? PackBuilder(store)
        self.builder = builder
        try builder.add(chunk, encoding, stored)
        if builder.isFull { try handOver(builder) }
    }

    /// The pack goes to the disk while the next one fills.
    private func handOver(_ builder: PackBuilder) throws {
        self.builder = nil
        try wait()
        finish.done.wait()
        let box = Handover(builder: builder)
        OSThread.start(name: "pack") { [finish] in
            do {
                try box.builder.publish()
            } catch {
                finish.failure.withLock { $0 = error }
            }
            finish.done.signal()
        }
    }

    private func wait() throws {
        finish.done.wait()
        finish.done.signal()
        if let error = finish.failure.withLock({ $0 }) { throw error }
    }

    /// Brings everything that was taken to the disk.
    ///
    /// - Throws: `FileError`; nothing half-written is ever visible.
    /// - Cost: two fsyncs, or two for each chunk of a handful.
    public func flush() throws {
        try wait()
        guard let builder else { return }
        self.builder = nil
        if builder.entries.count >= Self.fewest {
            try builder.publish()
        } else {
            try builder.publishOneByOne()
        }
    }
}
