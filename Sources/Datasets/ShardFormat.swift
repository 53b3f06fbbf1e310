internal import Basics

/// The bytes of shards and of the list of samples; described in `docs/formats/dataset-shard.md`.
enum ShardFormat {
    static let version: UInt32 = 1
    /// Of shards of files.
    static let encodedVersion: UInt32 = 2
    static let shardMagic = Array("CRDSHARD".utf8)
    static let samplesMagic = Array("CRDSMPLS".utf8)
    static let shardHeader = 64
    static let samplesHeader = 32
    static let sampleEntry = 20

    /// The shard of a sample: the first bits of its id.
    static func shard(of id: SampleID, count: Int) -> Int {
        count == 1 ? 0 : Int(id.content >> UInt64(64 - count.trailingZeroBitCount))
    }

    static func shardFile(
        number: Int,
        of shards: Int,
        type: ElementType,
        sampleSize: Int,
        values: [ArraySlice<UInt8>]
    ) -> [UInt8] {
        var writer = ByteWriter(capacity: shardHeader + values.count * sampleSize)
        writer.write(raw: shardMagic)
        writer.write(version)
        writer.write(UInt32(number))
        writer.write(UInt32(shards))
        writer.write(UInt32(type.size))
        writer.write(UInt64(values.count))
        writer.write(UInt64(sampleSize))
        writer.write(raw: [UInt8](repeating: 0, count: shardHeader - writer.bytes.count))
        for sample in values { writer.write(raw: sample) }
        return writer.bytes
    }

    /// Checks a shard against the index.
    ///
    /// - Returns: where its values are.
    static func values(
        ofShard bytes: [UInt8],
        number: Int,
        index: DatasetIndex,
        dataset: Digest
    ) throws -> Range<Int> {
        let count = index.shards[number].count
        var expected = ByteWriter()
        expected.write(raw: shardMagic)
        expected.write(version)
        expected.write(UInt32(number))
        expected.write(UInt32(index.shards.count))
        expected.write(UInt32(index.type.size))
        expected.write(UInt64(count))
        expected.write(UInt64(index.sampleSize))
        guard bytes.starts(with: expected.bytes), bytes.count == shardHeader + count * index.sampleSize else {
            throw DatasetError(
                .badDataset,
                "shard \(number) of dataset \(dataset.short) does not fit its index",
                hint: "import the data again"
            )
        }
        return shardHeader..<bytes.count
    }

    /// A shard of files: their places, then their bytes.
    static func shardFile(number: Int, of shards: Int, files: [[UInt8]]) -> [UInt8] {
        let total = files.reduce(0) { $0 + $1.count }
        var writer = ByteWriter(capacity: shardHeader + 8 * (files.count + 1) + total)
        writer.write(raw: encodedHead(number: number, of: shards, count: files.count, bytes: total))
        var place = 0
        writer.write(UInt64(0))
        for file in files {
            place += file.count
            writer.write(UInt64(place))
        }
        for file in files { writer.write(raw: file) }
        return writer.bytes
    }

    private static func encodedHead(number: Int, of shards: Int, count: Int, bytes: Int) -> [UInt8] {
        var writer = ByteWriter(capacity: shardHeader)
        writer.write(raw: shardMagic)
        writer.write(encodedVersion)
        writer.write(UInt32(number))
        writer.write(UInt32(shards))
        writer.write(UInt32(0))
        writer.write(UInt64(count))
        writer.write(UInt64(bytes))
        writer.write(raw: [UInt8](repeating: 0, count: shardHeader - writer.bytes.count))
        return writer.bytes
    }

    /// Checks a shard of files against the index.
    ///
    /// - Returns: where each file begins in `bytes`, and where the last one ends.
    static func files(
        ofShard bytes: [UInt8],
        number: Int,
        index: DatasetIndex,
        dataset: Digest
    ) throws -> [Int] {
        let (count, total) = (index.shards[number].count, index.shards[number].bytes ?? 0)
        let start = shardHeader + 8 * (count + 1)
        let head = encodedHead(number: number, of: index.shards.count, count: count, bytes: total)
        var places: [Int] = []
        if bytes.starts(with: head), bytes.count == start + total {
            places = bytes.withUnsafeBytes { raw in
                (0...count).map { position in
                    let at = shardHeader + 8 * position
                    let place = UInt64(
                        littleEndian: raw.loadUnaligned(fromByteOffset: at, as: UInt64.self)
                    )
                    return start + Int(min(place, UInt64(total)))
                }
            }
        }
        guard places.first == start, places.last == bytes.count,
            zip(places, places.dropFirst()).allSatisfy({ $0 < $1 })
        else {
            throw DatasetError(
                .badDataset,
                "shard \(number) of dataset \(dataset.short) does not fit its index",
                hint: "import the data again"
            )
        }
        return places
    }

    static func samplesFile(ids: [SampleID], labels: [Int], classCount: Int) -> [UInt8] {
        var writer = ByteWriter(capacity: samplesHeader + ids.count * sampleEntry)
        writer.write(raw: samplesMagic)
        writer.write(version)
        writer.write(UInt32(classCount))
        writer.write(UInt64(ids.count))
        writer.write(UInt64(0))
        for (id, label) in zip(ids, labels) {
            writer.write(id.content.byteSwapped)
            writer.write(id.rest.byteSwapped)
            writer.write(UInt32(label))
        }
        return writer.bytes
    }

    static func samples(
        in bytes: [UInt8],
        index: DatasetIndex,
        dataset: Digest
    ) throws -> (ids: [SampleID], labels: [UInt32]) {
        func refuse(_ reason: String) -> DatasetError {
            DatasetError(
                .badDataset,
                "the list of samples of dataset \(dataset.short) \(reason)",
                hint: "import the data again"
            )
        }
        var expected = ByteWriter()
        expected.write(raw: samplesMagic)
        expected.write(version)
        expected.write(UInt32(index.classes.count))
        expected.write(UInt64(index.count))
        guard bytes.starts(with: expected.bytes), bytes.count == samplesHeader + index.count * sampleEntry
        else {
            throw refuse("does not fit its index")
        }
        var ids: [SampleID] = []
        var labels: [UInt32] = []
        ids.reserveCapacity(index.count)
        labels.reserveCapacity(index.count)
        var counts = [Int](repeating: 0, count: index.classes.count)
        var shards = [Int](repeating: 0, count: index.shards.count)
        bytes.withUnsafeBytes { raw in
            for position in 0..<index.count {
                let at = samplesHeader + position * sampleEntry
                let id = SampleID(
                    content: UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: at, as: UInt64.self)),
                    rest: UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: at + 8, as: UInt64.self))
                )
                let label = UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: at + 16, as: UInt32.self))
                if Int(label) < counts.count { counts[Int(label)] += 1 }
                shards[shard(of: id, count: shards.count)] += 1
                ids.append(id)
                labels.append(label)
            }
        }
        guard counts == index.classCounts, shards == index.shards.map(\.count) else {
            throw refuse("does not fit its index")
        }
        guard zip(ids, ids.dropFirst()).allSatisfy({ $0 < $1 }) else { throw refuse("is not in order") }
        return (ids, labels)
    }
}
