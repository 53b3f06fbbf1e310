import Basics
import ContentStore
import CoordTesting
import Testing

#if canImport(Glibc)
import Glibc
#endif

@Suite struct ManifestTests {
    private func entry(_ name: String) -> Manifest.File {
        Manifest.File(name: name, size: 0, mode: 0o644, sha256: Digest(of: [UInt8]()), chunks: [])
    }

    @Test func filesComeBackWithTheirModes() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder + "/store")
            let large = pseudoRandomBytes(9 << 20, seed: 1)
            try Files.writeAtomically(large, to: folder + "/large", mode: 0o755)
            let files = [
                try store.add(folder + "/large", name: "bin/worker"),
                try store.add([], name: "empty"),
                try store.add(Array("hello".utf8), name: "bin/a/note.txt", mode: 0o600),
            ]
            let name = try store.putManifest(kind: "worker", files: files)
            let manifest = try store.manifest(name)
            #expect(manifest.files.map(\.name) == ["bin/a/note.txt", "bin/worker", "empty"])
            #expect(manifest.size == Int64(large.count) + 5)
            #expect(try store.readFile(manifest, "bin/worker") == large)
            #expect(store.verify(name).isEmpty)

            let target = folder + "/out"
            try store.materialize(manifest, into: target)
            try store.materialize(manifest, into: target)
            #expect(try Files.read(target + "/bin/worker") == large)
            #expect(try Files.read(target + "/empty").isEmpty)
            #expect(try Files.readText(target + "/bin/a/note.txt") == "hello")
            var info = stat()
            #expect(stat(target + "/bin/worker", &info) == 0 && info.st_mode & 0o777 == 0o755)
            #expect(try Files.list(target) == ["bin", "empty"])
            #expect(try Files.list(target + "/bin") == ["a", "worker"])
        }
    }

    @Test func aFileReadInPiecesIsCutAsOneInMemory() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder + "/store")
            let bytes = pseudoRandomBytes((17 << 20) + 12345, seed: 8)
            try Files.writeAtomically(bytes, to: folder + "/file")
            let streamed = try store.add(folder + "/file", name: "x", mode: 0o644)
            #expect(streamed == (try store.add(bytes, name: "x")))
            #expect(streamed.sha256 == Digest(of: bytes))
            #expect(streamed.chunks.count > 30)
        }
    }

    @Test func equalListsHaveEqualBytesAndEqualContentIsStoredOnce() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let bytes = pseudoRandomBytes(2 << 20, seed: 2)
            let a = try store.add(bytes, name: "a")
            let before = try store.usage().chunks
            let b = try store.add(bytes, name: "b")
            #expect(try store.usage().chunks == before)
            #expect(a.chunks == b.chunks)
            let first = try store.putManifest(kind: "test", files: [a, b])
            #expect(first == (try store.putManifest(kind: "test", files: [b, a])))
            #expect(try store.manifests() == [first])
            #expect(first != (try store.putManifest(kind: "other", files: [a, b])))
        }
    }

    @Test func theBytesOfAManifestArePartOfTheFormat() throws {
        let manifest = try Manifest(
            kind: "test",
            files: [
                Manifest.File(
                    name: "dir/ä \"x\".txt",
                    size: 3,
                    mode: 0o644,
                    sha256: Digest(of: "abc"),
                    chunks: [Digest(of: "abc")]
                )
            ]
        )
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        let expected =
            #"{"files":[{"chunks":["\#(sha)"],"mode":420,"name":"dir/ä \"x\".txt","sha256":"\#(sha)","size":3}],"#
            + #""format":1,"kind":"test"}"#
        #expect(String(decoding: manifest.encoded(), as: UTF8.self) == expected)
        #expect(try Manifest(decoding: Array(expected.utf8)) == manifest)
    }

    @Test(arguments: [
        ("", "is empty"), ("/etc/passwd", "is absolute"), ("..", "holds '..'"), ("a/../../b", "holds '..'"),
        ("a/./b", "holds '.'"), ("a//b", "has an empty part"), ("a/", "has an empty part"),
        ("a\0b", "holds a control character"), ("a\nb", "holds a control character"),
        (String(repeating: "x", count: 256), "has a part of more than 255 bytes"),
        (String(repeating: "xy/", count: 400) + "z", "has more than 1024 bytes"),
    ])
    func namesThatCouldLeaveTheFolderAreRefusedWhenWrittenAndWhenRead(name: String, reason: String) throws {
        let written = #expect(throws: ContentError.self) { try Manifest(kind: "test", files: [entry(name)]) }
        #expect(written?.code == .badName)
        #expect(written?.message.hasSuffix(reason) == true, "\(written?.message ?? "")")
        let escaped = name.replacing("\0", with: "\\u0000").replacing("\n", with: "\\n")
        let sha = Digest(of: [UInt8]()).hex
        let json =
            #"{"files":[{"chunks":[],"mode":420,"name":"\#(escaped)","sha256":"\#(sha)","size":0}],"#
            + #""format":1,"kind":"test"}"#
        let read = #expect(throws: ContentError.self) { try Manifest(decoding: Array(json.utf8)) }
        #expect(read?.code == .badName)
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            #expect(throws: ContentError.self) { try store.add([1], name: name) }
            #expect(throws: ContentError.self) {
                try store.importManifest(Array(json.utf8), as: Digest(of: json))
            }
            #expect(try store.manifests().isEmpty)
        }
    }

    @Test func whatIsNoManifestIsRefusedWithAReason() throws {
        let sha = Digest(of: [UInt8]()).hex
        func file(_ name: String, size: Int64 = 0, mode: Int = 420) -> String {
            #"{"chunks":[],"mode":\#(mode),"name":"\#(name)","sha256":"\#(sha)","size":\#(size)}"#
        }
        func manifest(_ files: String, format: Int = 1, kind: String = "test") -> String {
            #"{"files":[\#(files)],"format":\#(format),"kind":"\#(kind)"}"#
        }
        let cases: [(String, ContentError.Code, String)] = [
            ("{", .badManifest, "unreadable JSON"),
            ("{}", .badManifest, "'format' is missing"),
            (manifest("", format: 2), .newerFormat, "format 2"),
            (manifest("", kind: "Bad Kind"), .badManifest, "lower-case word"),
            (manifest("\(file("a")),\(file("a"))"), .badManifest, "'a' is there twice"),
            (manifest("\(file("b")),\(file("a"))"), .badManifest, "'a' is not in its place"),
            (manifest("\(file("a")),\(file("a/b"))"), .badManifest, "'a' is both a file and a folder"),
            (manifest(file("a", size: 1 << 60)), .badManifest, "cannot be"),
            (manifest(file("a", size: -1)), .badManifest, "cannot be"),
            (manifest(file("a", mode: 0o4755)), .badManifest, "mode 4755"),
            (manifest(file("a").replacing(sha, with: "xyz")), .badManifest, "bad value at files.[0].sha256"),
            (manifest(#"{"chunks":[]}"#), .badManifest, "'name' is missing at files.[0]"),
        ]
        for (json, code, part) in cases {
            let error = #expect(throws: ContentError.self) { try Manifest(decoding: Array(json.utf8)) }
            #expect(error?.code == code, "\(json)")
            #expect(error?.message.contains(part) == true, "\(error?.message ?? "") lacks \(part)")
        }
    }

    @Test func anInterruptedImportLeavesNothingVisibleAndGoesOnWhereItWas() throws {
        try withTemporaryDirectory { folder in
            let here = try ChunkStore(directory: folder + "/here")
            let there = try ChunkStore(directory: folder + "/there")
            let files = try (0..<5).map { try here.add(pseudoRandomBytes(1 << 20, seed: $0), name: "f\($0)") }
            let name = try here.putManifest(kind: "test", files: files)
            let bytes = try here.manifestBytes(name)
            let manifest = try Manifest(decoding: bytes)
            let wanted = there.missingChunks(of: manifest)
            #expect(wanted.count == manifest.chunks.count)
            for chunk in wanted.prefix(7) { try there.importChunk(here.exportChunk(chunk), as: chunk) }

            let early = #expect(throws: ContentError.self) { try there.importManifest(bytes, as: name) }
            #expect(early?.code == .missing)
            #expect(try there.manifests().isEmpty && !there.hasManifest(name))
            #expect(throws: ContentError.self) { try there.materialize(manifest, into: folder + "/out") }
            #expect(Files.kind(folder + "/out") == nil)

            let rest = try ChunkStore(directory: folder + "/there").missingChunks(of: manifest)
            #expect(rest == Array(wanted.dropFirst(7)))
            for chunk in rest { try there.importChunk(here.exportChunk(chunk), as: chunk) }
            let wrong = #expect(throws: ContentError.self) {
                try there.importManifest(bytes + [32], as: name)
            }
            #expect(wrong?.code == .corrupt)
            try there.importManifest(bytes, as: name)
            #expect(there.verify(name).isEmpty)
            #expect(try there.missingChunks(of: name).isEmpty)
        }
    }

    @Test func aManifestWhoseChunksAreNotThereIsNotTaken() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let file = Manifest.File(
                name: "a",
                size: 3,
                mode: 0o644,
                sha256: Digest(of: "abc"),
                chunks: [Digest(of: "abc")]
            )
            let error = #expect(throws: ContentError.self) {
                try store.putManifest(kind: "test", files: [file])
            }
            #expect(error?.code == .missing)
            #expect(try store.manifests().isEmpty)
        }
    }

    @Test func linksInTheWayAreNotFollowed() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder + "/store")
            let files = [try store.add([1], name: "sub/inner"), try store.add([2], name: "top")]
            let manifest = try Manifest(kind: "test", files: files)
            let (target, outside) = (folder + "/out", folder + "/outside")
            try Files.createDirectory(target)
            try Files.createDirectory(outside)
            try Files.writeAtomically("precious", to: outside + "/victim")

            #expect(symlink(outside, target + "/sub") == 0)
            let error = #expect(throws: ContentError.self) { try store.materialize(manifest, into: target) }
            #expect(error?.code == .linkInTheWay)
            #expect(error?.message == "\(target)/sub is a symbolic link: nothing is written through it")
            #expect(try Files.list(outside) == ["victim"])

            #expect(unlink(target + "/sub") == 0)
            #expect(symlink(outside + "/victim", target + "/top") == 0)
            try store.materialize(manifest, into: target)
            #expect(try Files.readText(outside + "/victim") == "precious")
            #expect(try Files.read(target + "/top") == [2])
        }
    }

    @Test func aDamagedChunkStopsTheFileAndLeavesTheOldOne() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder + "/store")
            let file = try store.add(pseudoRandomBytes(3 << 20, seed: 3), name: "model")
            let manifest = try Manifest(kind: "test", files: [file])
            try Files.createDirectory(folder + "/out")
            try Files.writeAtomically("old", to: folder + "/out/model")
            let last = try #require(file.chunks.last)
            try overwrite(chunkPath(folder + "/store", last), [0])
            let error = #expect(throws: ContentError.self) {
                try store.materialize(manifest, into: folder + "/out")
            }
            #expect(error?.code == .corrupt)
            #expect(try Files.list(folder + "/out") == ["model"])
            #expect(try Files.readText(folder + "/out/model") == "old")
        }
    }

    @Test func chunksThatAreRightButTogetherAnotherFileAreFound() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            var file = try store.add([1, 2, 3], name: "a")
            file.sha256 = Digest(of: [9])
            let name = try store.putManifest(kind: "test", files: [file])
            #expect(throws: ContentError.self) { try store.readFile(store.manifest(name), "a") }
            #expect(store.verify(name).map(\.kind) == [.wrongFile])
        }
    }
}
