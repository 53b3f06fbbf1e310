package import Basics
package import ContentStore
internal import Dispatch
internal import Synchronization
internal import Wire

/// Chunks as they are found; nil behind the last.
typealias FoundChunks = Mailbox<[Digest]?>

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

    /// Cuts and hashes files, and sends them to several hosts meanwhile.
    ///
    /// - Parameters:
    ///   - tree: listed, not scanned.
    ///   - bases: older manifests of the same files, which the hosts may have.
    ///   - ended: told how it went with each host, by its place in the list, on several threads; all were told when
    ///     this returns.
    /// - Throws: what went wrong with the files; then nobody was told.
    package static func push(
        scanning tree: FileTree,
        bases: [[UInt8]] = [],
        to links: [BulkLink],
        ended: @escaping @Sendable (Int, Result<TransferState, any Error>) -> Void
    ) throws {
        let shared = links.count > 1 ? ChunkShare(tree) : nil
        let found = links.map { _ in FoundChunks() }
        let failure = Mutex<(any Error)?>(nil)
        let scanned = DispatchGroup()
        scanned.enter()
        let all = DispatchGroup()
        for (place, link) in links.enumerated() {
            all.enter()
            OSThread.start(name: "push-\(link.host)") {
                defer { all.leave() }
                let early = sendEarly(found[place], from: shared ?? tree, to: link)
                scanned.wait()
                guard failure.withLock({ $0 == nil }) else { return }
                ended(
                    place,
                    Result {
                        var state = try push(tree, bases: bases, to: link, shared: shared)
                        state.onTheLine += early.onTheLine
                        state.connections = max(state.connections, early.connections)
                        return state
                    }
                )
            }
        }
        do {
            try tree.scan { chunks in for list in found { list.put(chunks) } }
        } catch {
            failure.withLock { $0 = error }
        }
        for list in found { list.put(nil) }
        scanned.leave()
        all.wait()
        if let error = failure.withLock({ $0 }) { throw error }
    }

    /// Sends what is wanted of chunks that are still being found.
    ///
    /// Whatever goes wrong here: the push that follows asks once more for all of them, and says why it cannot go on.
    /// - Returns: when all was found and sent, or nothing more can be.
    private static func sendEarly(
        _ found: FoundChunks,
        from source: any ChunkSource,
        to link: BulkLink
    ) -> (onTheLine: Int64, connections: Int) {
        let onTheLine = Atomic<Int64>(0)
        let job = PushJob(source: source, found: found) { _, size in
            onTheLine.add(Int64(size), ordering: .relaxed)
        }
        try? link.with { try job.run(first: $0, link: link) }
        return (onTheLine.load(ordering: .relaxed), job.connections)
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
                let job = PushJob(source: source, wanted: wanted) { chunks, size in
                    attempt.mark()
                    counter.arrived(chunks, onTheLine: size)
                }
                if !wanted.isEmpty { try job.run(first: client, link: link) }
                try client.call(.publish(offer.name))
                return counter.state(connections: job.connections)
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
        return (try missing(of: offer.manifest.chunks, bits, client.host), wire.count + bits.count)
    }

    /// The chunks whose bit is set in an answer.
    static func missing(of chunks: [Digest], _ bits: [UInt8], _ host: String) throws -> [Digest] {
        guard bits.count == (chunks.count + 7) / 8 else {
            throw CoordinatorError("\(host): an answer about \(bits.count * 8) chunks", exitCode: .bug)
        }
        return chunks.indices.filter { bits[$0 / 8] & (1 << UInt8($0 % 8)) != 0 }.map { chunks[$0] }
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
                let job = PullJob(
                    store: store,
                    wanted: missing,
                    averageSize: Int(arrived.manifest.size) / max(1, arrived.manifest.chunks.count),
                    progress: counter,
                    attempt: attempt
                )
                if !missing.isEmpty { try job.run(first: client, link: link) }
                try store.importManifest(arrived)
                return counter.state(connections: job.connections)
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
