import Basics
import CoordTesting
import Foundation
import Remote
import Synchronization
import Testing
import Wire

@testable import ContentStore
@testable import Coordinator

/// Real agents, reached as `coord up` reaches them: here by ``LocalHost``, and through a real sshd.
@Suite(.serialized, .timeLimit(.minutes(3)))
struct TransferTests {
    private static let cluster = "test"
    private static let cuts = Int(Machine.environment("COORD_SOAK_CUTS") ?? "") ?? 3
    private static let seed = UInt64(Machine.environment("COORD_SOAK_SEED") ?? "") ?? 20_261_121

    /// Runs `body` with an agent in a folder; it is ended afterwards.
    private func withAgent(_ host: any Remote.Host, in root: String, _ body: (BulkLink) throws -> Void) throws
    {
        // A cut connection is an error of a write, as in the coordinator, not the end of the tests.
        signal(SIGPIPE, SIG_IGN)
        let worker = Bundle.main.bundleURL.appending(path: "coord-worker").path
        let started = try host.run("\(worker) start --directory \(root) --cluster \(Self.cluster)")
        try #require(started.exit.isSuccess, "\(started.errorText)")
        let link = BulkLink(host: host.name) { try open(host, root) }
        defer {
            try? link.with { try $0.endAgent() }
            link.close()
        }
        try body(link)
    }

    private func open(_ host: any Remote.Host, _ root: String, _ cut: Cut? = nil) throws -> AgentClient {
        let worker = Bundle.main.bundleURL.appending(path: "coord-worker").path
        var socket = try host.openStream("\(worker) bridge --directory \(root)")
        if let cut { socket = try cut.wrap(socket) }
        do {
            return try AgentClient(
                channel: .afterSentinel(socket: socket, timeoutMilliseconds: 20_000),
                host: host.name,
                cluster: Self.cluster
            )
        } catch let error as FrameError {
            throw LostConnection(host: host.name, cause: error)
        }
    }

    private func makeFiles(_ folder: String, large: Int, small: Int, seed: UInt64) throws {
        try Files.createDirectory(folder + "/small")
        for number in 0..<small {
            let bytes = noise(300 + number * 31 % 2000, seed: seed &+ UInt64(number))
            try Files.writeAtomically(bytes, to: "\(folder)/small/\(number).jpg")
        }
        try Files.writeAtomically(noise(large, seed: seed &+ 7), to: folder + "/large")
    }

    @Test func filesGoToAHostAndComeBack() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", large: 5 << 20, small: 400, seed: 1)
            let tree = try FileTree(folder + "/in", kind: "files")
            try withAgent(LocalHost(), in: folder + "/agent") { link in
                let events = Mutex<[TransferState]>([])
                let sent = try ChunkTransfer.push(tree, to: link) { state in
                    events.withLock { $0.append(state) }
                }
                #expect(sent.sent == tree.manifest.size && sent.total == sent.sent)
                #expect(sent.filesDone == 401 && sent.files == 401)
                let all = events.withLock { $0 }
                #expect(all.first?.sent == 0 && all.last?.sent == sent.total)
                #expect(zip(all, all.dropFirst()).allSatisfy { $0.sent <= $1.sent })
                let name = Digest(of: tree.manifest.encoded())
                let there = try ChunkStore(directory: folder + "/agent/store")
                #expect(there.verify(name).isEmpty)
                // 405 chunks or so in a file or two.
                #expect(try Files.list(folder + "/agent/store/packs").count <= 2)
                #expect(try Files.list(folder + "/agent/store/tmp").isEmpty)
                // Again: nothing goes over.
                #expect(try ChunkTransfer.push(tree, to: link).onTheLine == 0)

                let home = try ChunkStore(directory: folder + "/home")
                let came = try ChunkTransfer.pull(name, from: link, into: home)
                #expect(came.sent == tree.manifest.size)
                #expect(home.verify(name).isEmpty)
                #expect(try ChunkTransfer.pull(name, from: link, into: home).onTheLine == 0)
            }
        }
    }

    @Test func ofChangedFilesLittleIsSentAgain() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", large: 1 << 20, small: 2000, seed: 2)
            let store = try ChunkStore(directory: folder + "/home")
            try withAgent(LocalHost(), in: folder + "/agent") { link in
                func add() throws -> Digest {
                    let tree = try FileTree(folder + "/in", kind: "files")
                    let files = try tree.manifest.files.map {
                        try store.add("\(folder)/in/\($0.name)", name: $0.name)
                    }
                    return try store.putManifest(kind: "files", files: files)
                }
                let first = try ChunkTransfer.push(try add(), from: store, to: link)
                for number in stride(from: 0, to: 2000, by: 100) {
                    let bytes = noise(1100, seed: UInt64(900_000 + number))
                    try Files.writeAtomically(bytes, to: "\(folder)/in/small/\(number).jpg")
                }
                let second = try ChunkTransfer.push(try add(), from: store, to: link)
                #expect(second.total == 20 * 1100)
                #expect(second.onTheLine * 50 < first.onTheLine)
            }
        }
    }

    @Test func whatAHostIsSentFalselyItRefusesAndGoesOn() throws {
        try withTemporaryDirectory { folder in
            try withAgent(LocalHost(), in: folder + "/agent") { link in
                func refused(_ body: (AgentClient) throws -> Void) throws -> String {
                    try link.with { client in
                        var message = ""
                        do {
                            try body(client)
                        } catch let error as CoordinatorError {
                            message = error.message
                        }
                        // The conversation goes on behind a refusal.
                        guard case .status = try client.call(.status) else { throw FrameError.truncated }
                        return message
                    }
                }
                var lie = ChunkBatch()
                [UInt8]("content".utf8).withUnsafeBytes { lie.append(Digest(of: "other"), .raw, $0) }
                var wire = lie.wire()
                #expect(
                    try refused { client in
                        try client.send(.putChunks)
                        for _ in 0..<3 { try client.send(bytes: wire) }
                        try client.send(bytes: [])
                        try client.checkReply(timeout: 20_000)
                    }.contains("arrived damaged")
                )
                // A length past the end.
                wire[wire.count - 9 + 3] = 0x7F
                wire[wire.count - 6] = 0x7F
                #expect(
                    try refused { client in
                        try client.send(.putChunks)
                        try client.send(bytes: wire)
                        try client.send(bytes: [])
                        try client.checkReply(timeout: 20_000)
                    }.contains("claims")
                )
                for (json, word) in [
                    (Self.json(name: "../../x"), "'..'"), (Self.json(name: "/etc/x"), "is absolute"),
                    (Self.json(name: "a", size: 1 << 60), "cannot be"),
                ] {
                    let bytes = Array(json.utf8)
                    let message = try refused { client in
                        try client.call(
                            .offer(Digest(of: bytes), base: nil, parts: 1),
                            parts: [ManifestDelta.encode(bytes, base: nil)]
                        )
                    }
                    #expect(message.contains(word), "\(message)")
                }
                let unknown = Array(Self.json(name: "a").utf8)
                #expect(
                    try refused { client in
                        try client.call(
                            .offer(Digest(of: unknown), base: nil, parts: 1),
                            parts: [ManifestDelta.encode(unknown, base: nil)]
                        )
                        _ = try client.receiveBytes()
                        try client.call(.publish(Digest(of: unknown)))
                    }.contains("not in")
                )
                #expect(
                    try refused { client in
                        try client.send(.getChunks)
                        try client.send(bytes: Digest(of: "nothing").raw)
                        try client.checkReply(timeout: 20_000)
                    }.contains("is not in the store of this host")
                )
                let store = try ChunkStore(directory: folder + "/agent/store")
                #expect(try store.usage() == (0, 0, ByteCount(0)))
                #expect(try Files.list(folder).sorted() == ["agent"])
            }
        }
    }

    private static func json(name: String, size: Int = 7) -> String {
        let digest = Digest(of: "content").hex
        return
            "{\"files\":[{\"chunks\":[\"\(digest)\"],\"mode\":420,\"name\":\"\(name)\",\"sha256\":\"\(digest)\","
            + "\"size\":\(size)}],\"format\":1,\"kind\":\"files\"}"
    }

    @Test func severalHostsAreServedByOneReading() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", large: 3 << 20, small: 100, seed: 5)
            let tree = try FileTree(folder + "/in", kind: "files")
            let counter = CountingSource(tree)
            let share = ChunkShare(counter)
            let name = Digest(of: tree.manifest.encoded())
            try withAgent(LocalHost(name: "a"), in: folder + "/a") { a in
                try withAgent(LocalHost(name: "b"), in: folder + "/b") { b in
                    let failure = Mutex<String?>(nil)
                    DispatchQueue.concurrentPerform(iterations: 2) { index in
                        do {
                            try ChunkTransfer.push(tree, to: index == 0 ? a : b, shared: share)
                        } catch {
                            failure.withLock { $0 = "\(error)" }
                        }
                    }
                    #expect(failure.withLock { $0 } == nil)
                    for host in ["a", "b"] {
                        let store = try ChunkStore(directory: "\(folder)/\(host)/store")
                        #expect(store.verify(name).isEmpty)
                    }
                }
                #expect(counter.count.load(ordering: .relaxed) == tree.manifest.chunks.count)
            }
        }
    }

    @Test func largeFilesAreSentWhileTheyAreScanned() throws {
        try withTemporaryDirectory { folder in
            let large = 20 << 20
            try makeFiles(folder + "/in", large: large, small: 50, seed: 6)
            try withAgent(LocalHost(name: "a"), in: folder + "/a") { a in
                try withAgent(LocalHost(name: "b"), in: folder + "/b") { b in
                    func push(_ bases: [[UInt8]] = []) throws -> (manifest: [UInt8], states: [TransferState])
                    {
                        let tree = try FileTree(listing: folder + "/in", kind: "files")
                        let states = Mutex<[TransferState]>([])
                        try ChunkTransfer.push(scanning: tree, bases: bases, to: [a, b]) { _, result in
                            do {
                                let state = try result.get()
                                states.withLock { $0.append(state) }
                            } catch {
                                Issue.record(error)
                            }
                        }
                        let bytes = tree.manifest.encoded()
                        for host in ["a", "b"] {
                            let store = try ChunkStore(directory: "\(folder)/\(host)/store")
                            #expect(store.verify(Digest(of: bytes)).isEmpty)
                        }
                        return (bytes, states.withLock { $0 })
                    }
                    let first = try push()
                    #expect(first.states.count == 2)
                    for state in first.states {
                        // When the manifest was offered, only the small files were missing.
                        #expect(state.total > 0 && state.total < 1 << 20)
                        #expect(state.onTheLine > Int64(large))
                    }
                    var bytes = try Files.read(folder + "/in/large")
                    bytes.replaceSubrange(large / 2..<large / 2, with: noise(1000, seed: 9))
                    try Files.writeAtomically(bytes, to: folder + "/in/large")
                    for state in try push([first.manifest]).states { #expect(state.onTheLine < 3 << 20) }
                }
            }
        }
    }

    @Test func aCutWhileFilesAreScannedIsMadeGood() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", large: 20 << 20, small: 5, seed: 8)
            let cut = Cut([5 << 20])
            try withAgent(LocalHost(), in: folder + "/agent") { _ in
                let link = BulkLink(host: "local") { try open(LocalHost(), folder + "/agent", cut) }
                defer { link.close() }
                let tree = try FileTree(listing: folder + "/in", kind: "files")
                try ChunkTransfer.push(scanning: tree, to: [link]) { _, result in
                    #expect(throws: Never.self) { try result.get() }
                }
                #expect(cut.happened == 1)
                let store = try ChunkStore(directory: folder + "/agent/store")
                #expect(store.verify(Digest(of: tree.manifest.encoded())).isEmpty)
            }
        }
    }

    @Test func aFileThatGoesAwayBeforeItIsScannedIsTheErrorOfAll() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", large: 1 << 20, small: 1, seed: 8)
            try withAgent(LocalHost(), in: folder + "/agent") { link in
                let tree = try FileTree(listing: folder + "/in", kind: "files")
                try Files.remove(folder + "/in/large")
                #expect(throws: FileError.self) {
                    try ChunkTransfer.push(scanning: tree, to: [link]) { _, _ in
                        Issue.record("a host was told of a push that never was")
                    }
                }
            }
        }
    }

    @Test func aTransferThatIsCutAnywhereGoesOnWhereItWas() throws {
        try withTemporaryDirectory { folder in
            try cutAndResume(LocalHost(), folder, cuts: Self.cuts)
        }
    }

    @Test(.enabled(if: LoopbackSSHServer.isAvailable, Comment(rawValue: LoopbackSSHServer.reason)))
    func overSSHTooATransferThatIsCutGoesOnWhereItWas() throws {
        let server = try LoopbackSSHServer()
        defer { server.stop() }
        let host = SSHHost(
            SSHEndpoint(
                name: "box",
                address: "127.0.0.1",
                port: server.port,
                user: server.user,
                identity: server.clientKey,
                knownHosts: "\(server.directory)/known_hosts"
            ),
            policy: .acceptNew
        )
        defer { host.close() }
        try withTemporaryDirectory { folder in try cutAndResume(host, folder, cuts: Self.cuts) }
    }

    /// Pushes with so many cuts at random places of what goes to the host.
    private func cutAndResume(_ host: any Remote.Host, _ folder: String, cuts: Int) throws {
        let size = max(24, cuts) << 20
        try makeFiles(folder + "/in", large: size, small: 200, seed: Self.seed)
        let tree = try FileTree(folder + "/in", kind: "files")
        let total = Int(tree.manifest.size)
        let random = RandomSource(seed: Self.seed)
        let places = (0..<cuts).map {
            1 + Int(random.block(.augmentation, position: $0)[0]) % (total / cuts)
        }
        let cut = Cut(places)
        try withAgent(host, in: folder + "/agent") { _ in
            let link = BulkLink(host: host.name) { try open(host, folder + "/agent", cut) }
            defer { link.close() }
            var pushes = 1
            while true {
                do {
                    try ChunkTransfer.push(tree, to: link)
                    break
                } catch let error as any ExplainedError where error.exitCode == .unreachable {
                    // Several cuts in a row before anything arrived: a person would try again.
                    pushes += 1
                    try #require(pushes <= cuts)
                }
            }
            let store = try ChunkStore(directory: folder + "/agent/store")
            let name = Digest(of: tree.manifest.encoded())
            #expect(store.verify(name).isEmpty, "cuts at \(places), seed \(Self.seed)")
            let (happened, forwarded) = (cut.happened, cut.forwarded)
            #expect(happened == cuts, "\(happened) cuts at \(places)")
            // A cut costs what was on its way: a batch, the chunk that made it full, the list of files.
            #expect(
                forwarded <= total + total / 50 + cuts * (3 << 20),
                "\(forwarded) bytes for \(total) with cuts at \(places)"
            )
            print("\(host.name): \(happened) cuts, \(pushes) pushes, \(forwarded) bytes went for \(total)")
        }
    }
}

/// Cuts connections after given numbers of bytes towards the host, one connection after the other; then no more.
private final class Cut: Sendable {
    private struct State {
        var places: [Int]
        var happened = 0
        var forwarded = 0
    }

    private let state: Mutex<State>

    init(_ places: [Int]) { state = Mutex(State(places: places)) }

    var happened: Int { state.withLock { $0.happened } }
    var forwarded: Int { state.withLock { $0.forwarded } }

    /// A socket in front of `inner`, which it takes over.
    func wrap(_ inner: Int32) throws -> Int32 {
        let (ours, theirs) = try UnixSocket.pair()
        let limit = state.withLock { $0.places.isEmpty ? nil : $0.places.removeFirst() }
        let ends = DispatchGroup()
        ends.enter()
        OSThread.start(name: "cut-up") { [self] in
            var left = limit ?? .max
            var buffer = [UInt8](repeating: 0, count: 64 << 10)
            while left > 0 {
                let n = read(theirs, &buffer, min(buffer.count, left))
                guard n > 0, Self.write(inner, buffer[..<n]) else { break }
                left -= n
                state.withLock { $0.forwarded += n }
            }
            if left == 0 { state.withLock { $0.happened += 1 } }
            shutdown(inner, Int32(SHUT_RDWR))
            shutdown(theirs, Int32(SHUT_RDWR))
            ends.leave()
        }
        ends.enter()
        OSThread.start(name: "cut-down") {
            var buffer = [UInt8](repeating: 0, count: 64 << 10)
            while true {
                let n = read(inner, &buffer, buffer.count)
                guard n > 0, Self.write(theirs, buffer[..<n]) else { break }
            }
            shutdown(theirs, Int32(SHUT_RDWR))
            ends.leave()
        }
        ends.notify(queue: .global()) {
            close(inner)
            close(theirs)
        }
        return ours
    }

    private static func write(_ descriptor: Int32, _ bytes: ArraySlice<UInt8>) -> Bool {
        var rest = bytes
        while !rest.isEmpty {
            let n = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard n > 0 else { return false }
            rest = rest.dropFirst(n)
        }
        return true
    }
}

/// Bytes that do not compress, the same for the same seed.
private func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var state = seed
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        withUnsafeBytes(of: z ^ (z >> 31)) { bytes.append(contentsOf: $0) }
    }
    bytes.removeLast(bytes.count - count)
    return bytes
}

/// Counts what is read.
private final class CountingSource: ChunkSource {
    private let source: any ChunkSource
    let count = Atomic<Int>(0)
    init(_ source: any ChunkSource) { self.source = source }
    func append(_ chunk: Digest, to batch: inout ChunkBatch) throws {
        count.add(1, ordering: .relaxed)
        try source.append(chunk, to: &batch)
    }
}
