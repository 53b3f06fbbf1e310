import Basics
import ContentStore
import Testing

@Suite struct ChunkerTests {
    private func cuts(_ chunker: Chunker, _ bytes: [UInt8]) -> [ArraySlice<UInt8>] {
        bytes.withUnsafeBytes { raw in chunker.cuts(in: raw).map { bytes[$0] } }
    }

    @Test func chunksCoverTheBytesAndKeepTheirBounds() {
        let chunker = Chunker(minimum: 256, average: 1024, maximum: 4096)
        let bytes = pseudoRandomBytes(400_000, seed: 1)
        let chunks = cuts(chunker, bytes)
        #expect(Array(chunks.joined()) == bytes)
        #expect(chunks.dropLast().allSatisfy { (256...4096).contains($0.count) })
        let average = Double(bytes.count) / Double(chunks.count)
        #expect((700...1700).contains(average), "average chunk \(average)")
    }

    @Test func bytesWithoutAnyCutAreCutAtTheMaximum() {
        let chunker = Chunker(minimum: 256, average: 1024, maximum: 4096)
        let chunks = cuts(chunker, [UInt8](repeating: 0, count: 10_000))
        #expect(chunks.allSatisfy { $0.count <= 4096 })
        #expect(chunks.reduce(0) { $0 + $1.count } == 10_000)
    }

    @Test func anInsertionMovesOnlyTheCutsNearIt() {
        let chunker = Chunker(minimum: 256, average: 1024, maximum: 4096)
        let before = pseudoRandomBytes(300_000, seed: 2)
        var after = before
        after.insert(contentsOf: Array("something new".utf8), at: 120_000)
        let old = Set(cuts(chunker, before).map { Array($0) })
        let new = cuts(chunker, after).map { Array($0) }
        let fresh = new.filter { !old.contains($0) }
        #expect(new.count > 200)
        #expect(fresh.count <= 4, "\(fresh.count) of \(new.count) chunks changed")
        #expect(!fresh.isEmpty)
    }

    @Test func theStandardCutsArePartOfTheFormat() {
        let bytes = pseudoRandomBytes(3 << 20, seed: 3)
        let lengths = cuts(.standard, bytes).map(\.count)
        #expect(
            lengths == [
                272542, 325966, 153166, 583811, 189762, 277328, 422810, 422641, 266547, 231155,
            ]
        )
    }

    @Test func fewBytesAreOneChunkAndNoneAreNone() {
        #expect(cuts(.standard, [1, 2, 3]).map(\.count) == [3])
        #expect(cuts(.standard, []).isEmpty)
    }
}

/// The same bytes for the same seed, on every machine.
func pseudoRandomBytes(_ count: Int, seed: UInt64) -> [UInt8] {
    let philox = Philox(key: seed)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 16)
    var position: UInt32 = 0
    while bytes.count < count {
        let block = philox.block(position, 0, 0, 0)
        position += 1
        for byte in 0..<UInt32(16) {
            bytes.append(UInt8(truncatingIfNeeded: block[Int(byte / 4)] >> (8 * (byte % 4))))
        }
    }
    return Array(bytes.prefix(count))
}
