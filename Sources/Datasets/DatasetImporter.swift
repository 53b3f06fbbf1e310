public import Basics
public import ContentStore

/// Puts samples into a content store as a dataset: shards that know nothing of runs, and an index.
///
/// The same samples give the same dataset, byte for byte, in whatever order they come: they are sorted by id,
/// and a sample's shard is the first bits of its id. Samples that are added later change only the chunks they
/// fall into.
public struct DatasetImporter: Sendable {
    /// Where datasets go.
    public let store: ChunkStore
    /// The size aimed at; unit: bytes of values.
    static let shardSize = 2 << 20
    static let maximumShards = 1 << 16

    /// - Parameter store: where datasets go.
    public init(store: ChunkStore) { self.store = store }

    /// Imports what lies at a path: a folder with a pair of IDX files or with class folders of images, a text (`.txt`,
    /// `.txt.gz`), or a CSV file.
    ///
    /// - Parameters:
    ///   - name: the dataset's name, for people: letters, digits, `-`, `_` and `.`.
    ///   - options: for CSV; of an IDX pair only `classes` is used, of a text only `shape`, `[T]`.
    ///   - images: for class folders of images.
    /// - Returns: the dataset's id, the name of its manifest.
    /// - Throws: ``DatasetError`` naming file and line; `FileError`; `ContentError`.
    @discardableResult
    public func add(
        path: String,
        name: String,
        options: CSVOptions = CSVOptions(),
        images: ImageFolder.Options = ImageFolder.Options()
    ) throws -> Digest {
        guard Files.kind(path) == .directory else {
            if path.hasSuffix(".txt") || path.hasSuffix(".txt.gz") {
                let length = options.shape?.reduce(1, *) ?? TextReader.usualLength
                return try add(TextReader.read(path, length: length), name: name)
            }
            return try add(CSVReader.read(path, options: options), name: name)
        }
        if Self.isImageFolder(path) { return try add(ImageFolder(path, options: images), name: name) }
        let pair = try IDXReader.pair(in: path)
        return try add(
            IDXReader.read(images: pair.images, labels: pair.labels, classes: options.classes),
            name: name
        )
    }

    /// Whether a folder holds folders, and no IDX file.
    public static func isImageFolder(_ path: String) -> Bool {
        guard Files.kind(path) == .directory, let names = try? Files.list(path) else { return false }
        return names.contains { !$0.hasPrefix(".") && Files.kind(path + "/" + $0) == .directory }
            && !names.contains { $0.contains("idx1") || $0.contains("idx3") || $0.contains("idx4") }
    }

    /// Imports images that were looked at before.
    ///
    /// - Returns: the dataset's id, the name of its manifest.
    /// - Throws: ``DatasetError`` `.badInput` when a file is not what it was; `FileError`; `ContentError`.
    /// - Cost: where samples are files, each is read again, and one shard is in memory at a time.
    @discardableResult
    public func add(_ folder: ImageFolder, name: String) throws -> Digest {
        guard folder.storage.isEncoded else { return try add(folder.table(), name: name) }
        try Self.checkName(name)
        var seen: [Digest: [Int: Int]] = [:]
        let order = folder.entries.enumerated().map { position, entry in
            let ordinal = seen[entry.content, default: [:]][entry.label, default: 0]
            seen[entry.content, default: [:]][entry.label] = ordinal + 1
            let id = SampleID(
                valueDigest: entry.content,
                label: folder.classes[entry.label],
                ordinal: ordinal
            )
            return (id: id, position: position)
        }.sorted { $0.id < $1.id }
        let shardCount = Self.shardCount(bytes: folder.entries.reduce(0) { $0 + $1.size })
        var shards = [[Int]](repeating: [], count: shardCount)
        for sample in order {
            shards[ShardFormat.shard(of: sample.id, count: shardCount)].append(sample.position)
        }
        let index = DatasetIndex(
            name: name,
            folder: folder,
            shards: shards.map { members in
                (members.count, members.reduce(0) { $0 + folder.entries[$1].size })
            }
        )
        var files = [
            try store.add(index.encoded(), name: DatasetIndex.fileName),
            try store.add(
                ShardFormat.samplesFile(
                    ids: order.map(\.id),
                    labels: order.map { folder.entries[$0.position].label },
                    classCount: folder.classes.count
                ),
                name: DatasetIndex.samplesName
            ),
            try store.add(
                DatasetIndex.encodedNames(order.map { folder.entries[$0.position].path }),
                name: DatasetIndex.namesName
            ),
        ]
        for (number, members) in shards.enumerated() {
            let bytes = ShardFormat.shardFile(
                number: number,
                of: shardCount,
                files: try members.map { try folder.readAgain(folder.entries[$0]) }
            )
            files.append(try store.add(bytes, name: index.shards[number].file))
        }
        return try store.putManifest(kind: "dataset", files: files)
    }

    /// Imports samples that were read before.
    ///
    /// - Returns: the dataset's id, the name of its manifest.
    /// - Cost: one SHA-256 over the values, a sort, one copy.
    @discardableResult
    public func add(_ table: SampleTable, name: String) throws -> Digest {
        try Self.checkName(name)
        let order = Self.ids(of: table).enumerated().sorted { $0.element < $1.element }
        let shardCount = Self.shardCount(bytes: table.values.count)
        var shards = [[ArraySlice<UInt8>]](repeating: [], count: shardCount)
        let size = table.sampleSize
        for (position, id) in order {
            let values = table.values[(position * size)..<((position + 1) * size)]
            shards[ShardFormat.shard(of: id, count: shardCount)].append(values)
        }
        let index = DatasetIndex(name: name, table: table, shardCounts: shards.map(\.count))
        var files = [
            try store.add(index.encoded(), name: DatasetIndex.fileName),
            try store.add(
                ShardFormat.samplesFile(
                    ids: order.map(\.element),
                    labels: order.map { table.labels[$0.offset] },
                    classCount: table.classes.count
                ),
                name: DatasetIndex.samplesName
            ),
        ]
        if let names = table.names {
            files.append(
                try store.add(
                    DatasetIndex.encodedNames(order.map { names[$0.offset] }),
                    name: DatasetIndex.namesName
                )
            )
        }
        for (number, values) in shards.enumerated() {
            let bytes = ShardFormat.shardFile(
                number: number,
                of: shardCount,
                type: table.type,
                sampleSize: size,
                values: values
            )
            files.append(try store.add(bytes, name: index.shards[number].file))
        }
        return try store.putManifest(kind: "dataset", files: files)
    }

    /// The ids of all samples, in the table's order.
    static func ids(of table: SampleTable) -> [SampleID] {
        struct Key: Hashable {
            var values: Digest
            var label: Int
        }
        var seen: [Key: Int] = [:]
        let size = table.sampleSize
        var header = ByteWriter()
        header.write("coord-sample 1")
        header.write(table.type.rawValue)
        for side in table.shape { header.write(UInt32(side)) }
        var prefix = DigestBuilder()
        prefix.update(header.bytes)
        return table.values.withUnsafeBytes { values in
            table.labels.enumerated().map { position, label in
                var builder = prefix
                builder.update(
                    UnsafeRawBufferPointer(rebasing: values[(position * size)..<((position + 1) * size)])
                )
                let digest = builder.finish()
                if table.kind == .text {
                    return SampleID(place: position, of: table.count, valueDigest: digest)
                }
                let ordinal = seen[Key(values: digest, label: label), default: 0]
                seen[Key(values: digest, label: label)] = ordinal + 1
                return SampleID(valueDigest: digest, label: table.classes[label], ordinal: ordinal)
            }
        }
    }

    /// A power of two: shards of 1 to 2 MiB.
    static func shardCount(bytes: Int) -> Int {
        var count = 1
        while count * shardSize < bytes, count < maximumShards { count *= 2 }
        return count
    }

    private static func checkName(_ name: String) throws {
        let isAllowed = name.utf8.allSatisfy {
            (0x61...0x7A).contains($0) || (0x41...0x5A).contains($0) || (0x30...0x39).contains($0)
                || [0x2D, 0x5F, 0x2E].contains($0)
        }
        guard isAllowed, (1...100).contains(name.utf8.count) else {
            throw DatasetError(
                .badInput,
                "'\(name.prefix(100))' is no name for a dataset",
                hint: "use letters, digits, '-', '_' and '.'"
            )
        }
    }
}
