internal import Basics
internal import ContentStore
internal import Wire

/// Takes and gives chunks on one connection; one thread.
final class ChunkService {
    /// The most parts of a manifest: together no more than a manifest may have.
    private static let partLimit = 32

    private let channel: FrameChannel
    private let store: ChunkStore
    /// The manifest whose chunks are being sent.
    private var offered: ArrivedManifest?

    init(channel: FrameChannel, store: ChunkStore) {
        self.channel = channel
        self.store = store
    }

    // MARK: Taking

    /// Takes a manifest and says which of its chunks are not here.
    func offer(_ name: Digest, base: Digest?, parts: Int) throws {
        guard (1...Self.partLimit).contains(parts) else {
            throw FrameError.malformed("a manifest in \(parts) parts")
        }
        var wire: [UInt8] = []
        for _ in 0..<parts { wire += try payload() }
        let arrived = try ArrivedManifest(wire, base: base.map { try store.manifestBytes($0) }, as: name)
        offered = arrived
        try channel.send(AgentReply.done)
        try channel.send(Frame(.bytes, missing(of: arrived.manifest.chunks)))
    }

    /// A bit for each chunk: set when it is not here.
    private func missing(of chunks: [Digest]) -> [UInt8] {
        let missing = Set(store.missing(from: chunks))
        var bits = [UInt8](repeating: 0, count: (chunks.count + 7) / 8)
        for (index, chunk) in chunks.enumerated() where missing.contains(chunk) {
            bits[index / 8] |= 1 << UInt8(index % 8)
        }
        return bits
    }

    /// Takes batches up to the end, or to the end of the connection: what arrived whole is kept in either case.
    ///
    /// Questions among them are answered in their turn.
    func put() throws {
        let writer = ChunkWriter(store)
        var count: UInt64 = 0
        do {
            while true {
                let frame = try next()
                if frame.kind == .question {
                    try channel.send(Frame(.bytes, missing(of: Self.names(frame.payload))))
                    continue
                }
                let bytes = frame.payload
                if bytes.isEmpty { break }
                try writer.take(ChunkBatch(wire: bytes))
                count += 1
                var number = ByteWriter(capacity: 8)
                number.write(count)
                try channel.send(Frame(.bytes, number.bytes))
            }
            try writer.flush()
        } catch let error as FrameError {
            // Whoever sends it again asks first what is here.
            try? writer.flush()
            throw error
        } catch let error as any ExplainedError {
            try? writer.flush()
            try channel.send(
                AgentReply.refused(
                    message: error.message,
                    hint: error.hint,
                    exitCode: error.exitCode.rawValue
                )
            )
            while try next() != Frame(.bytes, []) {}
            return
        }
        try channel.send(AgentReply.done)
    }

    /// Makes the offered manifest visible.
    func publish(_ name: Digest) throws {
        guard let offered, offered.name == name else {
            throw AgentError("manifest \(name.short) was not offered on this connection")
        }
        try store.importManifest(offered)
        self.offered = nil
    }

    // MARK: Giving

    func sendManifest(_ name: Digest) throws {
        let parts = Self.parts(ManifestDelta.encode(try store.manifestBytes(name), base: nil))
        try channel.send(AgentReply.parts(parts.count))
        for part in parts { try channel.send(Frame(.bytes, part)) }
    }

    /// Sends the chunks whose names follow.
    func send() throws {
        let chunks = try Self.names(payload())
        if let first = store.missing(from: chunks).first {
            throw AgentError("chunk \(first.short) is not in the store of this host", exitCode: .badInput)
        }
        try channel.send(AgentReply.done)
        var batch = ChunkBatch()
        for chunk in chunks {
            try store.append(chunk, to: &batch)
            guard batch.isFull else { continue }
            try channel.send(Frame(.bytes, batch.wire()))
            batch = ChunkBatch()
        }
        if !batch.isEmpty { try channel.send(Frame(.bytes, batch.wire())) }
        try channel.send(Frame(.bytes, []))
    }

    private func payload() throws -> [UInt8] {
        guard let frame = try channel.receive(), frame.kind == .bytes else {
            throw FrameError.malformed("a bytes frame was announced and did not come")
        }
        return frame.payload
    }

    /// What comes in a stream of chunks.
    private func next() throws -> Frame {
        guard let frame = try channel.receive(), frame.kind != .message else {
            throw FrameError.malformed("a stream of chunks ended in the middle")
        }
        return frame
    }

    private static func names(_ bytes: [UInt8]) throws -> [Digest] {
        guard bytes.count % 32 == 0 else { throw FrameError.malformed("\(bytes.count) bytes are no names") }
        return bytes.withUnsafeBytes { raw in
            stride(from: 0, to: raw.count, by: 32).map {
                Digest(raw: UnsafeRawBufferPointer(rebasing: raw[$0..<$0 + 32]))
            }
        }
    }

    /// Pieces that fit a frame.
    private static func parts(_ bytes: [UInt8]) -> [[UInt8]] {
        let size = 16 << 20
        return stride(from: 0, to: max(bytes.count, 1), by: size).map {
            Array(bytes[$0..<min($0 + size, bytes.count)])
        }
    }
}
