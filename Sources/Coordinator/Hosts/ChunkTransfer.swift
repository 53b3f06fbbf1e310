internal import Basics
internal import ContentStore
internal import Wire

/// Chunks between our store and a host's: what is there already is not sent, what arrives is verified.
enum ChunkTransfer {
    /// How often progress is told; unit: bytes.
    private static let reportEvery = 8 << 20

    /// Sends what a host lacks of a manifest, and the manifest last: visible there means complete there.
    static func push(
        _ name: Digest,
        from store: ChunkStore,
        to client: AgentClient,
        progress: (ByteCount, ByteCount) -> Void = { _, _ in }
    ) throws {
        let manifest = try store.manifest(name)
        guard case .missing(let missing) = try client.call(.missing(manifest.chunks)) else {
            throw CoordinatorError("\(client.host): no answer about chunks", exitCode: .bug)
        }
        var sent = 0
        var reported = 0
        for chunk in missing {
            let bytes = try store.exportChunk(chunk)
            try client.call(.putChunk(chunk), bytes: bytes)
            sent += bytes.count
            if sent - reported >= reportEvery {
                reported = sent
                progress(ByteCount(sent), ByteCount(manifest.size))
            }
        }
        try client.call(.putManifest(name), bytes: try store.manifestBytes(name))
    }

    /// Fetches what we lack of a manifest, and the manifest last.
    static func pull(_ name: Digest, from client: AgentClient, into store: ChunkStore) throws {
        if store.hasManifest(name) { return }
        try client.call(.getManifest(name))
        let bytes = try client.receiveBytes()
        guard Digest(of: bytes) == name else {
            throw CoordinatorError("\(client.host): sent another manifest than \(name.short)")
        }
        for chunk in store.missingChunks(of: try Manifest(decoding: bytes)) {
            try client.call(.getChunk(chunk))
            try store.importChunk(try client.receiveBytes(), as: chunk)
        }
        try store.importManifest(bytes, as: name)
    }
}
