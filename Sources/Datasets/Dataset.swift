public import Basics
public import ContentStore
internal import Synchronization

/// Samples in memory: one buffer for the values of all, filled shard by shard.
///
/// Sample `i` is the same sample on every machine that has the dataset of this id: samples are ordered by
/// shard and position, that is by sample id. The memory of shards that were not loaded is reserved and not
/// touched.
///
/// Any number of threads may read while another loads more.
public final class Dataset: @unchecked Sendable {
    /// The name of its manifest.
    public let id: Digest
    /// What it is.
    public let index: DatasetIndex
    /// Names of samples, in order.
    public let sampleIDs: [SampleID]
    /// The first sample of each shard, and the number of samples at the end: `[shards + 1]`.
    public let shardStarts: [Int]

    private let store: ChunkStore
    private let manifest: Manifest
    private let labels: [UInt32]
    private let sampleSize: Int
    private let valueCount: Int
    /// Where each file begins in `values`, and behind a shard's last one its end; nil where samples are of one size.
    private let places: UnsafeMutablePointer<Int>?
    private let shardBytes: [Int]
    // Safety: a shard's part of `values` and `places` is written once, under `loading`, before its flag is set with
    // release order; `read` looks at the flag with acquire order first. Nothing else is mutable.
    private let values: UnsafeMutableRawBufferPointer
    private let isLoaded: UnsafeMutablePointer<Atomic<Bool>>
    private let shardOfSample: [UInt16]
    private let loading = Mutex(())

    /// Opens a dataset whose manifest is in the store, and loads it.
    ///
    /// - Parameters:
    ///   - id: the dataset's id.
    ///   - shards: those to load now; nil = all. Labels and ids are always there for all samples.
    /// - Throws: ``DatasetError`` `.badDataset`; `ContentError` `.missing`, `.corrupt`.
    public convenience init(store: ChunkStore, manifest id: Digest, shards: [Int]? = nil) throws {
        try self.init(store: store, manifest: store.manifest(id), id: id, shards: shards)
    }

    /// Opens a dataset of which not every chunk need be in the store, and loads some of its shards.
    ///
    /// - Parameters:
    ///   - manifest: as it came from the store that has all of it; needs the chunks of
    ///     ``chunks(of:index:shards:)``.
    ///   - id: the dataset's id.
    ///   - shards: those to load now; nil = all.
    /// - Throws: as the other initializer.
    public init(store: ChunkStore, manifest: Manifest, id: Digest, shards: [Int]?) throws {
        self.id = id
        self.store = store
        self.manifest = manifest
        guard manifest.kind == "dataset" else {
            throw DatasetError(.badDataset, "\(id.short) is a \(manifest.kind), not a dataset")
        }
        index = try DatasetIndex(
            decoding: store.readFile(manifest, DatasetIndex.fileName),
            dataset: id
        )
        (sampleIDs, labels) = try ShardFormat.samples(
            in: store.readFile(manifest, DatasetIndex.samplesName),
            index: index,
            dataset: id
        )
        shardStarts = index.shards.reduce(into: [0]) { $0.append(($0.last ?? 0) + $1.count) }
        shardOfSample = index.shards.enumerated().flatMap { number, shard in
            repeatElement(UInt16(number), count: shard.count)
        }
        sampleSize = index.sampleSize
        valueCount = index.shape.reduce(1, *)
        let byteCount =
            index.isEncoded
            ? index.shards.reduce(0) { $0 + ($1.bytes ?? 0) } : index.count * index.sampleSize
        values = .allocate(byteCount: byteCount, alignment: 64)
        places = index.isEncoded ? .allocate(capacity: index.count + index.shards.count) : nil
        shardBytes = index.shards.reduce(into: [0]) { $0.append(($0.last ?? 0) + ($1.bytes ?? 0)) }
        isLoaded = .allocate(capacity: index.shards.count)
        for number in index.shards.indices { (isLoaded + number).initialize(to: Atomic(false)) }
        try load(shards: shards ?? Array(index.shards.indices))
    }

    deinit {
        values.deallocate()
        places?.deallocate()
        isLoaded.deinitialize(count: index.shards.count)
        isLoaded.deallocate()
    }

    /// Loads shards that are not loaded yet; blocks.
    ///
    /// - Throws: `ContentError` `.missing`, `.corrupt`; what was loaded before the error stays.
    public func load(shards: [Int]) throws {
        try loading.withLock { _ in
            for number in shards where !isLoaded[number].load(ordering: .acquiring) {
                let bytes = try store.readFile(manifest, index.shards[number].file)
                let range: Range<Int>
                let start: Int
                if let places {
                    let files = try ShardFormat.files(
                        ofShard: bytes,
                        number: number,
                        index: index,
                        dataset: id
                    )
                    range = files[0]..<bytes.count
                    start = shardBytes[number]
                    let first = shardStarts[number] + number
                    for (position, place) in files.enumerated() {
                        places[first + position] = start + place - range.lowerBound
                    }
                } else {
                    range = try ShardFormat.values(
                        ofShard: bytes,
                        number: number,
                        index: index,
                        dataset: id
                    )
                    start = shardStarts[number] * sampleSize
                }
                bytes.withUnsafeBytes { source in
                    UnsafeMutableRawBufferPointer(rebasing: values[start..<(start + range.count)])
                        .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[range]))
                }
                isLoaded[number].store(true, ordering: .releasing)
            }
        }
    }

    /// The chunks that a worker needs to open the dataset with these shards; nil = all shards.
    public static func chunks(of manifest: Manifest, index: DatasetIndex, shards: [Int]?) -> [Digest] {
        var names = Set([DatasetIndex.fileName, DatasetIndex.samplesName])
        for number in shards ?? Array(index.shards.indices) { names.insert(index.shards[number].file) }
        var seen: Set<Digest> = []
        return manifest.files.filter { names.contains($0.name) }.flatMap(\.chunks)
            .filter { seen.insert($0).inserted }
    }

    /// What the values of all samples take in memory; unit: bytes.
    public var byteCount: Int { values.count }
    /// For people.
    public var name: String { index.name }
    /// Number of samples.
    public var count: Int { index.count }
    /// Shape of one sample: `[F]` or `[C, H, W]`.
    public var shape: [Int] { index.shape }
    /// The names of the classes, in label order.
    public var classes: [String] { index.classes }

    /// The label of a sample, an index into ``classes``.
    public func label(_ sample: Int) -> Int { Int(labels[sample]) }

    /// The shard of a sample.
    public func shard(_ sample: Int) -> Int { Int(shardOfSample[sample]) }

    /// Writes the raw values of a sample: bytes as 0 to 255, numbers as they are.
    ///
    /// - Parameter target: `[shape.product]`.
    /// - Precondition: the sample's shard is loaded.
    public func read(_ sample: Int, into target: UnsafeMutableBufferPointer<Float>) {
        let shard = shard(sample)
        precondition(
            isLoaded[shard].load(ordering: .acquiring),
            "shard \(shard) of sample \(sample) not loaded"
        )
        precondition(target.count == valueCount, "\(target.count) values for a sample of \(valueCount)")
        guard places == nil else {
            for (position, value) in decode(sample).enumerated() { target[position] = Float(value) }
            return
        }
        let source = UnsafeRawBufferPointer(
            rebasing: values[(sample * sampleSize)..<((sample + 1) * sampleSize)]
        )
        switch index.type {
        case .uint8:
            for position in 0..<valueCount { target[position] = Float(source[position]) }
        case .float32:
            for position in 0..<valueCount {
                let bits = source.loadUnaligned(fromByteOffset: 4 * position, as: UInt32.self)
                target[position] = Float(bitPattern: UInt32(littleEndian: bits))
            }
        }
    }

    /// The pixels of a sample that is a file.
    ///
    /// - Precondition: it decodes; the importer has decoded it, and its chunks' digests are those that were stored.
    private func decode(_ sample: Int) -> [UInt8] {
        guard let places, let images = index.images else { preconditionFailure("samples are no files") }
        let place = sample + shard(sample)
        let file = UnsafeRawBufferPointer(rebasing: values[places[place]..<places[place + 1]])
        do {
            return try images.pixels(of: file, shape: shape)
        } catch {
            preconditionFailure("sample \(sample) of dataset \(id.short) \(error)")
        }
    }

    /// The files that the samples were, in the order of the samples; nil when they were no files of their own.
    ///
    /// - Throws: `ContentError`.
    public func readNames() throws -> [String]? {
        guard manifest.files.contains(where: { $0.name == DatasetIndex.namesName }) else { return nil }
        return index.names(decoding: try store.readFile(manifest, DatasetIndex.namesName))
    }

    /// The raw values of a sample.
    public func read(_ sample: Int) -> [Float] {
        [Float](unsafeUninitializedCapacity: valueCount) { target, count in
            read(sample, into: UnsafeMutableBufferPointer(rebasing: target[..<valueCount]))
            count = valueCount
        }
    }
}
