public import Basics

/// Whoever can give the chunks of a manifest to be sent: a store, or files where they lie.
public protocol ChunkSource: Sendable {
    /// Appends the stored form of a chunk.
    ///
    /// Its content is not checked: whoever takes it does.
    ///
    /// - Throws: ``ContentError`` `.missing`, `FileError`.
    func append(_ chunk: Digest, to batch: inout ChunkBatch) throws
}

extension ChunkStore: ChunkSource {
    /// Appends the stored form of a chunk; see ``ChunkSource``.
    ///
    /// - Cost: one read.
    public func append(_ chunk: Digest, to batch: inout ChunkBatch) throws {
        if let slot = shelf.slot(chunk) {
            return try batch.append(chunk, slot.encoding, count: slot.length) {
                try slot.pack.read(slot.offset, into: $0)
            }
        }
        guard let (path, encoding) = location(of: chunk) else { throw absent(chunk) }
        let bytes = try Files.read(path, limit: 2 * StoredChunk.limit)
        bytes.withUnsafeBytes { batch.append(chunk, encoding, $0) }
    }
}
