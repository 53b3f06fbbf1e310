import Basics
import CoordTesting
import Testing

@testable import ContentStore

#if canImport(Glibc)
import Glibc
#endif

@Suite struct PackTests {
    private let later = Int64(Machine.unixTime) + 1_000_000

    /// A folder of small files and one large one.
    private func makeFiles(_ folder: String, count: Int, seed: UInt64 = 1) throws {
        try Files.createDirectory(folder + "/a/b")
        for number in 0..<count {
            let bytes = pseudoRandomBytes(500 + number * 7 % 900, seed: seed &+ UInt64(number))
            try Files.writeAtomically(bytes, to: "\(folder)/a/\(number % 2 == 0 ? "b/" : "")\(number).jpg")
        }
        try Files.writeAtomically(pseudoRandomBytes(3 << 20, seed: seed &+ 99), to: folder + "/large")
        try Files.writeAtomically([UInt8](repeating: 7, count: 200_000), to: folder + "/plain")
        try Files.writeAtomically([UInt8](), to: folder + "/empty")
    }

    /// What a host does with what it is sent.
    private func send(_ tree: FileTree, to store: ChunkStore) throws -> Digest {
        let writer = ChunkWriter(store)
        var batch = ChunkBatch()
        for chunk in store.missing(from: tree.manifest.chunks) {
            try tree.append(chunk, to: &batch)
            guard batch.isFull else { continue }
            try writer.take(ChunkBatch(wire: batch.wire()))
            batch = ChunkBatch()
        }
        try writer.take(ChunkBatch(wire: batch.wire()))
        try writer.flush()
        return try store.putManifest(tree.manifest)
    }

    @Test func manySmallFilesBecomeOnePackAndComeBack() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", count: 300)
            let tree = try FileTree(folder + "/in", kind: "files")
            let store = try ChunkStore(directory: folder + "/store")
            let name = try send(tree, to: store)
            #expect(try Files.list(folder + "/store/packs").count == 1)
            #expect(try Files.list(folder + "/store/chunks").isEmpty)
            #expect(store.verify(name).isEmpty)
            #expect(try store.fsck().isEmpty)
            // Another value, and another process, read the same folder.
            let again = try ChunkStore(directory: folder + "/store")
            try again.materialize(again.manifest(name), into: folder + "/out")
            for file in tree.manifest.files {
                #expect(
                    try Files.read("\(folder)/in/\(file.name)") == Files.read("\(folder)/out/\(file.name)")
                )
            }
            #expect(try store.usage().chunks == tree.manifest.chunks.count)
        }
    }

    @Test func aTreeIsCutAndHashedLikeAFileInTheStore() throws {
        try withTemporaryDirectory { folder in
            try Files.createDirectory(folder + "/in")
            // More than two windows of the scan, and a cut that falls on none of their borders.
            let bytes = pseudoRandomBytes((35 << 20) + 4321, seed: 3)
            try Files.writeAtomically(bytes, to: folder + "/in/x")
            let tree = try FileTree(folder + "/in", kind: "files")
            let store = try ChunkStore(directory: folder + "/store")
            #expect(tree.manifest.files == [try store.add(folder + "/in/x", name: "x")])
            let one = try FileTree(folder + "/in/x", kind: "files")
            #expect(one.manifest == tree.manifest)
        }
    }

    @Test func aStoreOfTheFirstFormatIsReadAndBecomesTheSecondWithItsFirstPack() throws {
        try withTemporaryDirectory { folder in
            let path = folder + "/store"
            let chunk = try ChunkStore(directory: path).put([1, 2, 3])
            try Files.remove(path + "/packs")
            try Files.writeAtomically("coord-store 1\n", to: path + "/FORMAT")
            let store = try ChunkStore(directory: path)
            #expect(try store.get(chunk) == [1, 2, 3])
            _ = try store.put([4])
            #expect(try Files.readText(path + "/FORMAT") == "coord-store 1\n")
            try makeFiles(folder + "/in", count: 20)
            _ = try send(try FileTree(folder + "/in", kind: "files"), to: store)
            #expect(try Files.readText(path + "/FORMAT") == "coord-store 2\n")
            #expect(try store.get(chunk) == [1, 2, 3])
        }
    }

    @Test func aHandfulOfChunksIsNoPack() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", count: 1)
            try Files.remove(folder + "/in/large")
            let store = try ChunkStore(directory: folder + "/store")
            let name = try send(try FileTree(folder + "/in", kind: "files"), to: store)
            #expect(try Files.list(folder + "/store/packs").isEmpty)
            #expect(store.verify(name).isEmpty)
            #expect(try store.fsck().isEmpty)
        }
    }

    @Test func packsThatOtherProcessesWriteAndRemoveAreSeen() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", count: 30)
            let tree = try FileTree(folder + "/in", kind: "files")
            let reader = try ChunkStore(directory: folder + "/store")
            let chunk = try #require(tree.manifest.chunks.first)
            #expect(!reader.has(chunk))
            let name = try send(tree, to: try ChunkStore(directory: folder + "/store"))
            #expect(reader.has(chunk))
            #expect(reader.missing(from: tree.manifest.chunks).isEmpty)
            let other = try ChunkStore(directory: folder + "/store")
            try other.moveToTrash(name, expiry: later)
            _ = try other.apply(other.garbage(now: later + 10))
            #expect(!reader.has(chunk))
            #expect(reader.missing(from: tree.manifest.chunks).count == tree.manifest.chunks.count)
            #expect(throws: ContentError.self) { try reader.putManifest(tree.manifest) }
        }
    }

    @Test func garbageInAPackGoesWhenItIsMoreThanHalf() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", count: 100)
            try Files.remove(folder + "/in/large")
            try Files.remove(folder + "/in/plain")
            let tree = try FileTree(folder + "/in", kind: "files")
            let store = try ChunkStore(directory: folder + "/store")
            let all = try send(tree, to: store)
            let most = try store.putManifest(kind: "files", files: Array(tree.manifest.files.dropLast(20)))
            let few = try store.putManifest(kind: "files", files: Array(tree.manifest.files.prefix(10)))
            try store.moveToTrash(all, expiry: later)
            #expect(try store.garbage(now: later + 1).packs.isEmpty)
            try store.moveToTrash(most, expiry: later)
            let plan = try store.garbage(now: later + 1)
            #expect(plan.packs.map(\.chunks) == [tree.manifest.chunks.count - 10])
            let before = try store.usage().size.bytes
            let freed = try store.apply(plan).bytes
            #expect(freed > before / 2)
            #expect(store.verify(few).isEmpty)
            #expect(try store.usage().chunks == 10)
            #expect(try store.fsck().isEmpty)
            #expect(try store.garbage(now: later + 1).isEmpty)
        }
    }

    @Test func aDamagedPackIsFoundAndMended() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", count: 50)
            let tree = try FileTree(folder + "/in", kind: "files")
            let store = try ChunkStore(directory: folder + "/store")
            let name = try send(tree, to: store)
            let file = try #require(try Files.list(folder + "/store/packs").first)
            let path = "\(folder)/store/packs/\(file)"
            var bytes = try Files.read(path)
            bytes[100] ^= 1
            try overwrite(path, bytes)
            let problems = store.verify(name)
            #expect(problems.map(\.kind) == [.damagedChunk])
            let chunk = try #require(problems.first?.chunk)
            #expect(throws: ContentError.self) { try store.get(chunk) }
            #expect(try store.setAside(chunk) != nil)
            #expect(store.missing(from: tree.manifest.chunks) == [chunk])
            #expect(try send(tree, to: store) == name)
            #expect(store.verify(name).isEmpty)

            // Of a pack whose index is damaged nothing is believed.
            let other = try #require(try Files.list(folder + "/store/packs").first)
            let otherPath = "\(folder)/store/packs/\(other)"
            bytes = try Files.read(otherPath)
            bytes[bytes.count - 60] ^= 1
            try overwrite(otherPath, bytes)
            let fresh = try ChunkStore(directory: folder + "/store")
            #expect(try fresh.fsck().contains { $0.kind == .damagedPack && $0.message.contains(other) })
            #expect(fresh.missing(from: tree.manifest.chunks).count > 1)
        }
    }

    @Test func aBatchThatLiesIsRefusedAndWritesNothing() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", count: 20)
            let tree = try FileTree(folder + "/in", kind: "files")
            var batch = ChunkBatch()
            for chunk in tree.manifest.chunks { try tree.append(chunk, to: &batch) }
            let wire = batch.wire()
            let count = tree.manifest.chunks.count
            let list = wire.count - 4 - 37 * count
            func changed(_ place: Int, _ byte: UInt8) -> [UInt8] {
                var bytes = wire
                bytes[place] = byte
                return bytes
            }
            // Too short, a wrong count, a huge count, a length past the end, a huge length, no such encoding, rest.
            for bad in [
                [], [1, 2, 3], changed(wire.count - 4, UInt8(count - 1)), changed(wire.count - 1, 0x7F),
                changed(list + 32, 0xFF), changed(list + 35, 0xFF), changed(list + 36, 9), [0] + wire,
            ] {
                let error = #expect(throws: ContentError.self) { try ChunkBatch(wire: bad) }
                #expect(error?.code == .corrupt)
            }
            let store = try ChunkStore(directory: folder + "/store")
            // Other content, another name, another encoding: the lengths are right, the SHA-256 is not.
            for bad in [changed(3, wire[3] ^ 1), changed(list, wire[list] ^ 1), changed(list + 36, 1)] {
                let writer = ChunkWriter(store)
                let error = #expect(throws: ContentError.self) { try writer.take(ChunkBatch(wire: bad)) }
                #expect(error?.code == .corrupt)
                try writer.flush()
                #expect(store.missing(from: tree.manifest.chunks).count == count)
            }
            let bomb: [UInt8] = [0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0]
            var lie = ChunkBatch()
            bomb.withUnsafeBytes { lie.append(Digest(of: [1]), .zstd, $0) }
            #expect(throws: ContentError.self) { try ChunkWriter(store).take(lie) }
            #expect(try store.usage().chunks == 0)
            #expect(try Files.list(folder + "/store/tmp").isEmpty)
        }
    }

    @Test func aFileThatChangesIsAnErrorAndALinkIsRefused() throws {
        try withTemporaryDirectory { folder in
            try makeFiles(folder + "/in", count: 3)
            let tree = try FileTree(folder + "/in", kind: "files")
            let file = try #require(tree.manifest.file("plain"))
            try Files.writeAtomically([UInt8](repeating: 8, count: 200_000), to: folder + "/in/plain")
            var batch = ChunkBatch()
            let error = #expect(throws: ContentError.self) { try tree.append(file.chunks[0], to: &batch) }
            #expect(error?.message.contains("changed while") == true)
            #expect(batch.isEmpty)
            symlink("/etc/passwd", folder + "/in/link")
            let refused = #expect(throws: ContentError.self) { try FileTree(folder + "/in", kind: "files") }
            #expect(refused?.code == .linkInTheWay)
        }
    }

    @Test func manifestsAreWrittenAsTheGeneralCoderDoes() throws {
        let files = ["z\"q\\uote", "a/ü/日本", "a b", "c"].enumerated().map { number, name in
            Manifest.File(
                name: name,
                size: Int64(number) * 100,
                mode: 0o644,
                sha256: Digest(of: name),
                chunks: (0..<number).map { Digest(of: "\($0)") }
            )
        }
        for files in [[], files] {
            let manifest = try Manifest(kind: "files", files: files)
            let bytes = manifest.encoded()
            #expect(try bytes == canonicalJSON(manifest))
            #expect(ManifestText.decode(bytes)?.files == manifest.files)
            #expect(try Manifest(decoding: bytes) == manifest)
        }
        // What is not canonical is read by the general decoder, or refused by it.
        let spaced = Array("{ \"files\":[],\"format\":1,\"kind\":\"files\"}".utf8)
        #expect(ManifestText.decode(spaced) == nil)
        #expect(try Manifest(decoding: spaced).files.isEmpty)
        let bytes = try Manifest(kind: "files", files: files).encoded()
        for end in [0, 1, 20, bytes.count / 2, bytes.count - 1] {
            #expect(ManifestText.decode(Array(bytes[..<end])) == nil)
            #expect(throws: ContentError.self) { try Manifest(decoding: Array(bytes[..<end])) }
        }
    }

    @Test func aManifestTravelsAsItsDifferenceAndIsNotTrusted() throws {
        func manifest(_ changed: Int) throws -> [UInt8] {
            try Manifest(
                kind: "files",
                files: (0..<5000).map { number in
                    let digest = Digest(of: "\(number) \(number < changed ? 1 : 0)")
                    return Manifest.File(
                        name: "f/\(number)",
                        size: 10,
                        mode: 0o644,
                        sha256: digest,
                        chunks: [digest]
                    )
                }
            ).encoded()
        }
        let old = try manifest(0)
        let new = try manifest(50)
        let name = Digest(of: new)
        let whole = ManifestDelta.encode(new, base: nil)
        let delta = ManifestDelta.encode(new, base: old)
        #expect(delta.count * 20 < whole.count)
        #expect(try ManifestDelta.decode(whole, base: nil, as: name) == new)
        #expect(try ManifestDelta.decode(delta, base: old, as: name) == new)
        #expect(try ArrivedManifest(delta, base: old, as: name).manifest.files.count == 5000)
        var damaged = delta
        damaged[delta.count / 2] ^= 1
        let bomb: [UInt8] = [0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0]
        for (wire, base) in [(delta, nil), (damaged, old), ([], nil), (bomb, nil)] as [([UInt8], [UInt8]?)] {
            let error = #expect(throws: ContentError.self) {
                try ManifestDelta.decode(wire, base: base, as: name)
            }
            #expect(error?.code == .corrupt)
        }
    }

    /// What is sent again: the figures of a second push, on a small scale.
    @Test func littleIsSentAgainAfterASmallChange() throws {
        try withTemporaryDirectory { folder in
            try Files.createDirectory(folder + "/in")
            var bytes = pseudoRandomBytes(64 << 20, seed: 11)
            try Files.writeAtomically(bytes, to: folder + "/in/big")
            let store = try ChunkStore(directory: folder + "/store")
            _ = try send(try FileTree(folder + "/in", kind: "files"), to: store)
            let start = 17 << 20
            bytes.replaceSubrange(
                start..<start + bytes.count / 100,
                with: pseudoRandomBytes(bytes.count / 100, seed: 12)
            )
            bytes.insert(contentsOf: pseudoRandomBytes(1000, seed: 13), at: 40 << 20)
            try Files.writeAtomically(bytes, to: folder + "/in/big")
            let tree = try FileTree(folder + "/in", kind: "files")
            var batch = ChunkBatch()
            for chunk in store.missing(from: tree.manifest.chunks) { try tree.append(chunk, to: &batch) }
            // 64 MiB have few chunks, so their borders weigh more than in a gigabyte.
            #expect(batch.size < bytes.count * 3 / 100)
            #expect(batch.size > bytes.count / 100)
        }
    }
}
