import Basics
import ContentStore
import CoordTesting
import Testing

#if canImport(Glibc)
import Glibc
#endif

@Suite struct ChunkStoreTests {
    @Test(arguments: [0, 1, 1000, 200_000])
    func contentComesBackByItsName(size: Int) throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder + "/store")
            for content in [pseudoRandomBytes(size, seed: 7), [UInt8](repeating: 9, count: size)] {
                let digest = try store.put(content)
                #expect(digest == Digest(of: content))
                #expect(store.has(digest))
                #expect(try store.get(digest) == content)
            }
        }
    }

    @Test func compressionIsUsedWhereItPaysAndOnlyThere() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let dense = try store.put(pseudoRandomBytes(50_000, seed: 1))
            let text = try store.put([UInt8](repeating: 0x61, count: 50_000))
            #expect(Files.kind(chunkPath(folder, dense)) == .file)
            #expect(Files.kind(chunkPath(folder, text) + ".zst") == .file)
            #expect(try Files.size(chunkPath(folder, text) + ".zst") < 100)
            #expect(try store.usage().chunks == 2)
        }
    }

    @Test func chunksAreWrittenOnceAndProtected() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let content = pseudoRandomBytes(5000, seed: 1)
            let digest = try store.put(content)
            var before = stat()
            #expect(stat(chunkPath(folder, digest), &before) == 0)
            #expect(before.st_mode & 0o777 == 0o444)
            #expect(try store.put(content) == digest)
            var after = stat()
            #expect(stat(chunkPath(folder, digest), &after) == 0)
            #expect(after.st_ino == before.st_ino)
            #expect(try Files.list(folder + "/tmp").isEmpty)
        }
    }

    @Test func aStoreOpensAgainAndCleansUpAfterAWriterThatDied() throws {
        try withTemporaryDirectory { folder in
            let digest = try ChunkStore(directory: folder).put([1, 2, 3])
            // No process has pid 2^30 - 1; the second one is named as nothing of ours is.
            try Files.writeAtomically("half", to: folder + "/tmp/1073741823-5-abcdef")
            try Files.writeAtomically("half", to: folder + "/tmp/stray")
            let store = try ChunkStore(directory: folder)
            #expect(try Files.list(folder + "/tmp").isEmpty)
            #expect(try store.get(digest) == [1, 2, 3])
        }
    }

    @Test func aNewerFormatIsRefusedByName() throws {
        try withTemporaryDirectory { folder in
            _ = try ChunkStore(directory: folder)
            #expect(try Files.readText(folder + "/FORMAT") == "coord-store 2\n")
            try Files.writeAtomically("coord-store 3\n", to: folder + "/FORMAT")
            let error = #expect(throws: ContentError.self) { try ChunkStore(directory: folder) }
            #expect(error?.code == .newerFormat)
            #expect(error?.message == "\(folder)/FORMAT is of format 3, this program reads up to format 2")
            #expect(error?.exitCode == .protocolVersion)
        }
    }

    @Test func aFolderOfSomethingElseIsLeftAlone() throws {
        try withTemporaryDirectory { folder in
            try Files.writeAtomically("mine", to: folder + "/thesis.tex")
            let error = #expect(throws: ContentError.self) { try ChunkStore(directory: folder) }
            #expect(error?.code == .notAStore)
            #expect(try Files.list(folder) == ["thesis.tex"])
        }
    }

    @Test func aFlippedByteIsFoundWhereverItIs() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let dense = try store.put(pseudoRandomBytes(3000, seed: 4))
            let text = try store.put(Array(repeating: Array("abc def ".utf8), count: 400).flatMap { $0 })
            for path in [chunkPath(folder, dense), chunkPath(folder, text) + ".zst"] {
                let digest = path.hasSuffix(".zst") ? text : dense
                let good = try Files.read(path)
                for position in [0, good.count / 2, good.count - 1] {
                    var bad = good
                    bad[position] ^= 0x10
                    try overwrite(path, bad)
                    let error = #expect(throws: ContentError.self) { try store.get(digest) }
                    #expect(error?.code == .corrupt)
                    #expect(error?.message.contains(path) == true)
                    #expect(throws: ContentError.self) { try store.exportChunk(digest) }
                }
                try overwrite(path, Array(good.dropLast()))
                #expect(throws: ContentError.self) { try store.get(digest) }
                try overwrite(path, good)
                _ = try store.get(digest)
            }
        }
    }

    @Test func aDamagedChunkThatIsSetAsideCountsAsMissingAndCanComeAgain() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let digest = try store.put([1, 2, 3])
            try overwrite(chunkPath(folder, digest), [1, 2, 4])
            let aside = try #require(try store.setAside(digest))
            #expect(try Files.read(aside) == [1, 2, 4])
            #expect(store.missing(from: [digest, digest]) == [digest])
            try store.put([1, 2, 3])
            #expect(try store.get(digest) == [1, 2, 3])
        }
    }

    @Test func chunksTravelInTheirStoredFormAndAreNotTrusted() throws {
        try withTemporaryDirectory { folder in
            let here = try ChunkStore(directory: folder + "/here")
            let there = try ChunkStore(directory: folder + "/there")
            let content = [UInt8](repeating: 5, count: 100_000)
            let digest = try here.put(content)
            let wire = try here.exportChunk(digest)
            #expect(wire.count < 1000)

            var cases = [
                wire, wire, [], [9] + wire.dropFirst(), [0] + content.dropLast(), [0] + wire.dropFirst(),
            ]
            cases[0][wire.count / 2] ^= 1
            cases[1].removeLast()
            for bad in cases {
                let error = #expect(throws: ContentError.self) { try there.importChunk(bad, as: digest) }
                #expect(error?.code == .corrupt)
                #expect(!there.has(digest))
            }
            #expect(try Files.list(folder + "/there/tmp").isEmpty)
            try there.importChunk(wire, as: digest)
            #expect(try there.get(digest) == content)
        }
    }

    @Test func aCompressedChunkThatClaimsToBeHugeIsRefusedUnread() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            // A zstd frame header that promises 2^60 bytes (RFC 8878, 3.1.1.1: single segment, 8-byte size).
            let bomb: [UInt8] = [1, 0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0]
            let error = #expect(throws: ContentError.self) {
                try store.importChunk(bomb, as: Digest(of: [1]))
            }
            #expect(error?.code == .corrupt)
        }
    }

    @Test func aMissingChunkIsSaidToBeMissing() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let error = #expect(throws: ContentError.self) { try store.get(Digest(of: "nothing")) }
            #expect(error?.code == .missing)
            #expect(store.missing(from: [Digest(of: "a"), Digest(of: "b"), Digest(of: "a")]).count == 2)
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func manyWritersOfTheSameContentDoNotDisturbOneAnother() async throws {
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-test")
        defer { try? Files.remove(folder) }
        let store = try ChunkStore(directory: folder)
        let contents = (0..<8).map { pseudoRandomBytes(2000, seed: UInt64($0)) }
        try await withThrowingTaskGroup { group in
            for _ in 0..<6 {
                group.addTask { for content in contents { _ = try store.put(content) } }
            }
            try await group.waitForAll()
        }
        #expect(try store.usage().chunks == 8)
        #expect(try store.fsck().isEmpty)
    }
}

func chunkPath(_ folder: String, _ digest: Digest) -> String {
    "\(folder)/chunks/\(digest.hex.prefix(2))/\(digest.hex)"
}

/// Damages a protected file as a disk would.
func overwrite(_ path: String, _ bytes: [UInt8]) throws {
    try Files.writeAtomically(bytes, to: path, mode: 0o444)
}
