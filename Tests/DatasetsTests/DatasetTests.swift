import Basics
import ContentStore
import CoordTesting
import Testing

@testable import Datasets

/// Samples of `[size]` bytes, the first two of which number them.
func table(count: Int, size: Int = 8, classes: Int = 4, type: ElementType = .uint8) -> SampleTable {
    let philox = Philox(key: 11)
    var values: [UInt8] = []
    for sample in 0..<count {
        var state = philox.block(UInt32(sample), 0, 0, 0)[0]
        for position in 0..<size {
            state = state &* 1_664_525 &+ 1_013_904_223
            let number = state >> 24
            let value: UInt8 =
                position == 0 ? UInt8(sample & 255) : position == 1 ? UInt8(sample >> 8) : UInt8(number & 255)
            if type == .uint8 {
                values.append(value)
            } else {
                withUnsafeBytes(of: (Float(value) / 7).bitPattern.littleEndian) {
                    values.append(contentsOf: $0)
                }
            }
        }
    }
    return SampleTable(
        type: type,
        shape: [size],
        classes: (0..<classes).map { "c\($0)" },
        values: values,
        labels: (0..<count).map { Int(philox.block(UInt32($0), 0, 1, 0)[1] % UInt32(classes)) }
    )
}

extension SampleTable {
    /// The same samples in another order.
    func reordered(_ order: [Int]) -> SampleTable {
        var copy = self
        copy.labels = order.map { labels[$0] }
        copy.values = order.flatMap { values[($0 * sampleSize)..<(($0 + 1) * sampleSize)] }
        return copy
    }
}

func withStore<R>(_ body: (ChunkStore, String) throws -> R) throws -> R {
    try withTemporaryDirectory { folder in try body(ChunkStore(directory: folder + "/store"), folder) }
}

@Suite struct DatasetTests {
    @Test(arguments: [ElementType.uint8, .float32])
    func everySampleComesBackWithItsLabel(type: ElementType) throws {
        try withStore { store, _ throws in
            let table = table(count: 3000, type: type)
            let dataset = try Dataset(
                store: store,
                manifest: DatasetImporter(store: store).add(table, name: "t")
            )
            #expect(dataset.count == 3000)
            #expect(dataset.shape == [8])
            var seen: Set<Int> = []
            for sample in 0..<dataset.count {
                let values = dataset.read(sample)
                let scale: Float = type == .uint8 ? 1 : 7
                let number = Int((values[0] * scale).rounded()) + 256 * Int((values[1] * scale).rounded())
                seen.insert(number)
                // Expectations cost more than reads: only what is wrong becomes one.
                if dataset.label(sample) != table.labels[number] { Issue.record("label of sample \(sample)") }
                let raw = table.values[(number * table.sampleSize)..<((number + 1) * table.sampleSize)]
                let isEqual =
                    type == .uint8
                    ? values == raw.map { Float($0) } : values.withUnsafeBytes { Array($0) } == Array(raw)
                if !isEqual { Issue.record("values of sample \(sample): \(values)") }
            }
            #expect(seen == Set(0..<3000))
        }
    }

    @Test func theDatasetDoesNotDependOnTheOrderOfTheSource() throws {
        try withStore { store, folder in
            let table = table(count: 500)
            let permutation = KeyedPermutation(count: 500, key: 3)
            let first = try DatasetImporter(store: store).add(table, name: "t")
            let other = try ChunkStore(directory: folder + "/other")
            let second = try DatasetImporter(store: other).add(
                table.reordered((0..<500).map { permutation[$0] }),
                name: "t"
            )
            #expect(first == second)
        }
    }

    @Test func theBytesOfADatasetArePartOfTheFormat() throws {
        try withStore { store, _ throws in
            let id = try DatasetImporter(store: store).add(table(count: 100), name: "golden")
            let manifest = try store.manifest(id)
            #expect(manifest.kind == "dataset")
            #expect(manifest.files.map(\.name) == ["dataset.json", "samples.bin", "shards/00000.bin"])
            #expect(manifest.files.map(\.size) == [212, 2032, 864])
            #expect(id.hex == "a2e0a6c68d062a38faae06049d9617e0aa59050537dba2c96489c7dcf4a468c3")
        }
    }

    @Test func largeDatasetsHaveAPowerOfTwoOfShardsAndALittleNewDataChangesLittle() throws {
        try withStore { store, _ throws in
            let large = table(count: 9000, size: 1000)
            let importer = DatasetImporter(store: store)
            let id = try importer.add(large.reordered(Array(0..<8900)), name: "t")
            let index = try Dataset(store: store, manifest: id).index
            #expect(index.shards.count == 8)
            #expect(index.shards.reduce(0) { $0 + $1.count } == 8900)
            #expect(index.shards.allSatisfy { (900...1350).contains($0.count) })

            // One sample more: the shards it does not fall into keep their bytes.
            let grown = try importer.add(large.reordered(Array(0..<8901)), name: "t")
            let before = try store.manifest(id).files, after = try store.manifest(grown).files
            let changed = zip(before, after).filter { $0.sha256 != $1.sha256 }.map(\.0.name)
            #expect(changed.filter { $0.hasPrefix("shards/") }.count == 1)
        }
    }

    @Test func aWorkerLoadsTheShardsItNeedsAndMoreLater() throws {
        try withStore { store, folder in
            let id = try DatasetImporter(store: store).add(table(count: 6000, size: 1000), name: "t")
            let whole = try Dataset(store: store, manifest: id)
            #expect(whole.index.shards.count == 4)
            let manifest = try store.manifest(id)
            let there = try ChunkStore(directory: folder + "/there")
            func send(_ shards: [Int]?) throws {
                let chunks = Dataset.chunks(of: manifest, index: whole.index, shards: shards)
                for chunk in there.missing(from: chunks) {
                    try there.importChunk(store.exportChunk(chunk), as: chunk)
                }
            }
            try send([1])
            let part = try Dataset(store: there, manifest: manifest, id: id, shards: [1])
            #expect(part.sampleIDs == whole.sampleIDs)
            let loaded = part.shardStarts[1]..<part.shardStarts[2]
            #expect(loaded.allSatisfy { part.read($0) == whole.read($0) })
            #expect(throws: ContentError.self) { try part.load(shards: [3]) }
            try send([3])
            try part.load(shards: [1, 3])
            #expect(part.read(5999) == whole.read(5999))
            #expect(there.missingChunks(of: manifest).isEmpty == false)
        }
    }

    @Test func aFlippedByteInAnyFileIsAnErrorThatNamesIt() throws {
        try withStore { store, _ throws in
            let id = try DatasetImporter(store: store).add(table(count: 300), name: "t")
            let manifest = try store.manifest(id)
            for file in manifest.files {
                let chunk = try #require(file.chunks.first)
                let base = "\(store.directory)/chunks/\(chunk.hex.prefix(2))/\(chunk.hex)"
                let path = Files.kind(base) == .file ? base : base + ".zst"
                let good = try Files.read(path)
                var bad = good
                bad[good.count / 2] ^= 1
                try Files.writeAtomically(bad, to: path)
                let error = #expect(throws: ContentError.self) { try Dataset(store: store, manifest: id) }
                #expect(error?.code == .corrupt)
                #expect(error?.message.contains(path) == true)
                #expect(store.verify(id).first?.message.contains("'\(file.name)'") == true)
                try Files.writeAtomically(good, to: path)
            }
            _ = try Dataset(store: store, manifest: id)
        }
    }

    @Test func filesThatDoNotBelongTogetherAreRefused() throws {
        try withStore { store, _ throws in
            let importer = DatasetImporter(store: store)
            let one = try store.manifest(importer.add(table(count: 300), name: "t")).files
            let two = try store.manifest(importer.add(table(count: 301), name: "t")).files
            let cases: [([Manifest.File], String)] = [
                ([two[0], one[1], one[2]], "the list of samples of dataset ID does not fit its index"),
                ([one[0], one[1], two[2]], "shard 0 of dataset ID does not fit its index"),
                (
                    [try store.add(Array("{}".utf8), name: "dataset.json"), one[1]],
                    "the index of dataset ID is unreadable"
                ),
            ]
            for (files, message) in cases {
                let id = try store.putManifest(kind: "dataset", files: files)
                let error = #expect(throws: DatasetError.self) { try Dataset(store: store, manifest: id) }
                #expect(error?.code == .badDataset)
                #expect(error?.message == message.replacing("ID", with: id.short))
            }
            let other = try store.putManifest(kind: "checkpoint", files: one)
            let error = #expect(throws: DatasetError.self) { try Dataset(store: store, manifest: other) }
            #expect(error?.message == "\(other.short) is a checkpoint, not a dataset")
        }
    }

    @Test func namesThatAreNoNamesAreRefused() throws {
        try withStore { store, _ throws in
            for name in ["", "a b", "a/b", "ä"] {
                #expect(throws: DatasetError.self) {
                    try DatasetImporter(store: store).add(table(count: 3), name: name)
                }
            }
            #expect(try store.manifests().isEmpty)
        }
    }

    @Test func equalSamplesHaveNamesOfTheirOwn() throws {
        let copies = table(count: 4).reordered([0, 1, 0, 0])
        let ids = DatasetImporter.ids(of: copies)
        #expect(Set(ids).count == 4)
        #expect(Set(ids.map(\.content)).count == 2)
        #expect(Set(DatasetImporter.ids(of: copies.reordered([3, 2, 1, 0]))) == Set(ids))
    }

    @Test func theCheckFindsWhatAPersonShouldKnow() throws {
        try withStore { store, _ throws in
            var odd = table(count: 60, size: 4, classes: 5)
            odd.labels = (0..<60).map { $0 < 50 ? 0 : $0 < 54 ? 1 : $0 < 59 ? 2 : 3 }
            odd = odd.reordered(Array(0..<60) + [0, 1])
            odd = odd.reordered(Array(0..<62) + [55])
            odd.labels[62] = 1
            for sample in 0..<63 { odd.values[4 * sample + 3] = 9 }
            let dataset = try Dataset(
                store: store,
                manifest: DatasetImporter(store: store).add(odd, name: "t")
            )
            let check = DatasetCheck.run(dataset)
            #expect(check.classCounts == [52, 5, 5, 1, 0])
            #expect(!check.isUsable)
            #expect(
                check.findings.map(\.description) == [
                    "error: class 'c4' has no samples",
                    "warning: class 'c3' has one sample: too few to train and to validate on",
                    "warning: class 'c0' has 52 samples, class 'c3' only 1: accuracy will hide the rare one",
                    "warning: 1 sample is there under different labels, one as 'c1' and as 'c2'",
                    "warning: 2 samples are exact copies of others of the same class",
                    "note: 2 of 4 values are the same in all samples",
                ]
            )
        }
    }

    @Test func aDatasetInOrderHasNoFindings() throws {
        try withStore { store, _ throws in
            let id = try DatasetImporter(store: store).add(table(count: 500), name: "t")
            let check = DatasetCheck.run(try Dataset(store: store, manifest: id))
            #expect(check.findings.isEmpty && check.isUsable)
            #expect(check.minimum == 0 && check.maximum == 255)
        }
    }
}
