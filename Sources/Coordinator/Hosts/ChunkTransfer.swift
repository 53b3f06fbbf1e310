package import Basics
package import ContentStore
internal import Dispatch
internal import Synchronization
internal import Wire

/// Chunks between our store and a host's: what is there already is not sent, what arrives is verified, what arrived
/// before a cut is not sent again.
package enum ChunkTransfer {
    /// So often in a row a connection may break without anything having arrived.
    private static let patience = 4
    /// Manifests that are tried as the base of a new one: the newest.
    private static let baseCount = 16

    /// Sends what a host lacks of a manifest, and the manifest last: visible there means complete there.
    ///
    /// - Parameters:
    ///   - source: what gives the chunks; by default the store.
    ///   - progress: called a few times a second, on several threads.
    /// - Returns: what was sent.
    /// - Throws: ``LostConnection`` when the host cannot be reached any more; what the host refused.
    /// - Cost: at most 16 MiB and a chunk under way for each of 1 to 8 connections.
    @discardableResult
    static func push(
        _ name: Digest,
        from store: ChunkStore,
        to link: BulkLink,
        shared: ChunkShare? = nil,
        progress: @escaping @Sendable (TransferState) -> Void = { _ in }
    ) throws -> TransferState {
        let bytes = try store.manifestBytes(name)
        let manifest = try Manifest(decoding: bytes)
        return try push(
            Offer(name: name, manifest: manifest, bytes: bytes, bases: Bases(store: store, besides: name)),
            from: shared ?? store,
            to: link,
            progress: progress
        )
    }

    /// Sends files from where they lie.
    ///
    /// - Parameter bases: older manifests of the same files, which the host may have.
    @discardableResult
    package static func push(
        _ tree: FileTree,
        bases: [[UInt8]] = [],
        to link: BulkLink,
        shared: ChunkShare? = nil,
        progress: @escaping @Sendable (TransferState) -> Void = { _ in }
    ) throws -> TransferState {
        let bytes = tree.manifest.encoded()
        return try push(
            Offer(
                name: Digest(of: bytes),
                manifest: tree.manifest,
                bytes: bytes,
                bases: Bases(given: bases)
            ),
            from: shared ?? tree,
            to: link,
            progress: progress
        )
    }

    /// What is offered to a host.
    struct Offer: Sendable {
        var name: Digest
        var manifest: Manifest
        var bytes: [UInt8]
        var bases: Bases
    }

    /// Manifests that both sides may have.
    struct Bases: Sendable {
        var names: [Digest]
        private let bytes: @Sendable (Digest) -> [UInt8]?

        init(store: ChunkStore, besides name: Digest) {
            let recent = (try? store.recentManifests(ChunkTransfer.baseCount + 1)) ?? []
            names = Array(recent.filter { $0 != name }.prefix(ChunkTransfer.baseCount))
            bytes = { try? store.manifestBytes($0) }
        }

        init(given: [[UInt8]]) {
            let all = Dictionary(given.map { (Digest(of: $0), $0) }, uniquingKeysWith: { a, _ in a })
            names = given.map { Digest(of: $0) }
            bytes = { all[$0] }
        }

        subscript(name: Digest) -> [UInt8]? { bytes(name) }
    }

    private static func push(
        _ offer: Offer,
        from source: any ChunkSource,
        to link: BulkLink,
        progress: @escaping @Sendable (TransferState) -> Void
    ) throws -> TransferState {
        try resuming { attempt in
            try link.with { client in
                let (wanted, listSize) = try ask(offer, client)
                guard let wanted else { return TransferState() }
                let counter = TransferProgress(offer.manifest, wanted: wanted, tell: progress)
                counter.arrived([], onTheLine: listSize)
                if !wanted.isEmpty {
                    try PushJob(source: source, wanted: wanted, progress: counter, attempt: attempt)
                        .run(first: client, link: link)
                }
                try client.call(.publish(offer.name))
                return counter.state
            }
        }
    }

    /// Offers a manifest.
    ///
    /// - Returns: the chunks that the host lacks, nil when it has the manifest already; and the bytes that went over
    ///   the line.
    private static func ask(_ offer: Offer, _ client: AgentClient) throws -> ([Digest]?, Int) {
        guard case .known(let known) = try client.call(.known([offer.name] + offer.bases.names)) else {
            throw CoordinatorError("\(client.host): no answer about manifests", exitCode: .bug)
        }
        if known.contains(offer.name) { return (nil, 0) }
        let base = known.first { offer.bases[$0] != nil }
        let wire = ManifestDelta.encode(offer.bytes, base: base.flatMap { offer.bases[$0] })
        let size = 16 << 20
        let parts = stride(from: 0, to: wire.count, by: size).map {
            Array(wire[$0..<min($0 + size, wire.count)])
        }
        try client.call(.offer(offer.name, base: base, parts: parts.count), parts: parts)
        let bits = try client.receiveBytes()
        let chunks = offer.manifest.chunks
        guard bits.count == (chunks.count + 7) / 8 else {
            throw CoordinatorError("\(client.host): an answer about \(bits.count * 8) chunks", exitCode: .bug)
        }
        let wanted = chunks.indices.filter { bits[$0 / 8] & (1 << UInt8($0 % 8)) != 0 }.map { chunks[$0] }
        return (wanted, wire.count + bits.count)
    }

    /// Fetches what we lack of a manifest, and the manifest last.
    @discardableResult
    package static func pull(
        _ name: Digest,
        from link: BulkLink,
        into store: ChunkStore,
        progress: @escaping @Sendable (TransferState) -> Void = { _ in }
    ) throws -> TransferState {
        if store.hasManifest(name) { return TransferState() }
        return try resuming { attempt in
            try link.with { client in
                guard case .parts(let count) = try client.call(.getManifest(name)) else {
                    throw CoordinatorError("\(client.host): no answer about a manifest", exitCode: .bug)
                }
                var wire: [UInt8] = []
                for _ in 0..<min(count, 32) { wire += try client.receiveBytes() }
                let arrived = try ArrivedManifest(wire, base: nil, as: name)
                let missing = store.missingChunks(of: arrived.manifest)
                let counter = TransferProgress(arrived.manifest, wanted: missing, tell: progress)
                counter.arrived([], onTheLine: wire.count)
                if !missing.isEmpty {
                    try PullJob(
                        store: store,
                        wanted: missing,
                        averageSize: Int(arrived.manifest.size) / max(1, arrived.manifest.chunks.count),
                        progress: counter,
                        attempt: attempt
                    ).run(first: client, link: link)
                }
                try store.importManifest(arrived)
                return counter.state
            }
        }
    }

    /// Tells whether something arrived in an attempt.
    final class Attempt: Sendable {
        private let arrived = Atomic<Bool>(false)
        func mark() { arrived.store(true, ordering: .relaxed) }
        var isFruitful: Bool { arrived.load(ordering: .relaxed) }
    }

    /// Tries again after a cut, for as long as something arrives between two cuts.
    private static func resuming<R>(_ body: (Attempt) throws -> R) throws -> R {
        var failures = 0
        while true {
            let attempt = Attempt()
            do {
                return try body(attempt)
            } catch let error where isCut(error) {
                failures = attempt.isFruitful ? 1 : failures + 1
                guard failures < patience else { throw error }
                // A line that just broke is seldom back at once: 0.1, 0.4, 1.6 s and a quarter of chance.
                let pause = 0.1 * Double(1 << (2 * (failures - 1))) * Double.random(in: 1...1.25)
                OSThread.pause(seconds: pause)
            }
        }
    }

    private static func isCut(_ error: any Error) -> Bool {
        (error as? any ExplainedError)?.exitCode == .unreachable
    }
}
