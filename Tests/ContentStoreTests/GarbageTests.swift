import Basics
import ContentStore
import CoordTesting
import Testing

@Suite struct GarbageTests {
    private let later = Int64(Machine.unixTime) + 1_000_000

    @Test func onlyChunksThatNothingRefersToAreGarbage() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let shared = try store.add([1], name: "shared")
            let mine = try store.add([2], name: "mine")
            let yours = try store.add([3], name: "yours")
            let stray = try store.put([4])
            let keep = try store.putManifest(kind: "test", files: [shared, mine])
            let drop = try store.putManifest(kind: "test", files: [shared, yours])

            #expect(try store.garbage(now: Int64(Machine.unixTime)).isEmpty)
            #expect(try store.garbage(now: later).chunks == [stray])

            try store.moveToTrash(drop, expiry: later + 10)
            #expect(!store.hasManifest(drop))
            #expect(try store.trash().map(\.manifest) == [drop])
            #expect(try store.garbage(now: later).chunks == [stray])

            let plan = try store.garbage(now: later + 10)
            #expect(plan.expired.map(\.manifest) == [drop])
            #expect(Set(plan.chunks) == [stray, yours.chunks[0]])
            #expect(plan.size.bytes > 0)
            #expect(store.has(stray))
            #expect(try store.apply(plan) == plan.size)
            #expect(!store.has(stray) && !store.has(yours.chunks[0]))
            #expect(try store.trash().isEmpty)
            #expect(store.verify(keep).isEmpty)
            #expect(try store.fsck().isEmpty)
        }
    }

    @Test func whatWasRestoredOrUsedAfterThePlanStays() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let restored = try store.putManifest(kind: "test", files: [store.add([1], name: "a")])
            try store.moveToTrash(restored, expiry: later)
            let chunk = try store.put([2])
            let plan = try store.garbage(now: later + 10)
            #expect(plan.chunks.count == 2)
            try store.restore(restored)
            let named = try store.putManifest(kind: "test", files: [store.add([2], name: "b")])
            _ = try store.apply(plan)
            #expect(store.has(chunk))
            #expect(store.verify(restored).isEmpty && store.verify(named).isEmpty)
        }
    }

    @Test func aManifestNobodyCanReadStopsTheCollection() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let name = try store.putManifest(kind: "test", files: [store.add([1], name: "a")])
            try overwrite("\(folder)/manifests/\(name.hex)", [0x7B])
            let error = #expect(throws: ContentError.self) { try store.garbage(now: later) }
            #expect(error?.code == .corrupt)
            #expect(error?.message.contains("manifests/\(name.hex)") == true)
        }
    }

    @Test func restoringWhatIsNotThereIsAnError() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            #expect(throws: ContentError.self) { try store.restore(Digest(of: "x")) }
            #expect(throws: ContentError.self) { try store.moveToTrash(Digest(of: "x"), expiry: 1) }
        }
    }

    @Test func fsckReportsEveryProblemOnce() throws {
        try withTemporaryDirectory { folder in
            let store = try ChunkStore(directory: folder)
            let good = try store.add([1], name: "good")
            let lost = try store.add([2], name: "lost")
            let bad = try store.add([3], name: "bad")
            let manifest = try store.putManifest(kind: "test", files: [good, lost, bad])
            let broken = try store.putManifest(kind: "test", files: [good])
            #expect(try store.fsck().isEmpty)

            try Files.remove(chunkPath(folder, lost.chunks[0]))
            try overwrite(chunkPath(folder, bad.chunks[0]), [4])
            try overwrite("\(folder)/manifests/\(broken.hex)", [5])
            try Files.writeAtomically("?", to: folder + "/chunks/stray")
            try Files.writeAtomically("?", to: folder + "/notes.txt")
            var steps = 0
            let problems = try store.fsck { _, _ in steps += 1 }
            #expect(steps == 3)
            func count(_ kind: StoreProblem.Kind) -> Int { problems.filter { $0.kind == kind }.count }
            #expect(count(.damagedChunk) == 1)
            #expect(count(.missingChunk) == 1)
            #expect(count(.damagedManifest) == 1)
            #expect(count(.stranger) == 2)
            #expect(problems.first { $0.kind == .missingChunk }?.manifest == manifest)
            let damaged = problems.first { $0.kind == .damagedChunk }
            #expect(damaged?.chunk == bad.chunks[0] && damaged?.manifest == manifest)
        }
    }
}
