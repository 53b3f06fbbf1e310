internal import Basics

#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

/// What a dataset is, without its samples: the file `dataset.json` of its manifest.
public struct DatasetIndex: Hashable, Sendable, Codable {
    /// One shard.
    public struct Shard: Hashable, Sendable, Codable {
        /// Its file in the manifest.
        public var file: String
        /// Number of samples.
        public var count: Int
        /// Bytes of its samples, where these are files; nil where all are of one size.
        public var bytes: Int?
    }

    static let formatVersion = 2
    static let fileName = "dataset.json"
    static let samplesName = "samples.bin"
    static let namesName = "names.json"

    /// The version of the format: 2 where samples are files, else 1.
    public var format: Int
    /// For people.
    public var name: String
    /// What it is for.
    public var kind: DatasetKind
    /// What one number is.
    public var type: ElementType
    /// Shape of one sample: `[F]` or `[C, H, W]`.
    public var shape: [Int]
    /// The names of the classes, in label order.
    public var classes: [String]
    /// Number of samples.
    public var count: Int
    /// Samples of each class, in label order.
    public var classCounts: [Int]
    /// A power of two of them, in the order of the samples.
    public var shards: [Shard]
    /// What it was made of.
    public var sources: [DatasetSource]
    /// How the samples were or are to be made of images; nil for what were none.
    public var images: ImageStorage?

    /// True when the samples are image files, to be decoded when they are read.
    public var isEncoded: Bool { images?.isEncoded ?? false }
    /// Bytes of one sample.
    public var sampleSize: Int { shape.reduce(type.size, *) }

    func encoded() throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(self))
    }

    static func encodedNames(_ names: [String]) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.withoutEscapingSlashes]
        return Array(try encoder.encode(names))
    }

    /// The names of all samples, out of the file that ``encodedNames(_:)`` made.
    func names(decoding bytes: [UInt8]) -> [String]? {
        let names = try? JSONDecoder().decode([String].self, from: Data(bytes))
        return names?.count == count ? names : nil
    }

    /// Reads and checks bytes that somebody else may have written.
    init(decoding bytes: [UInt8], dataset: Digest) throws {
        func refuse(_ reason: String, _ hint: String? = nil) -> DatasetError {
            DatasetError(.badDataset, "the index of dataset \(dataset.short) \(reason)", hint: hint)
        }
        do {
            self = try JSONDecoder().decode(DatasetIndex.self, from: Data(bytes))
        } catch {
            throw refuse("is unreadable", "import the data again")
        }
        guard format <= Self.formatVersion else {
            throw refuse(
                "is of format \(format), this program reads up to \(Self.formatVersion)",
                "use the version of coord that wrote it"
            )
        }
        var size = type.size
        for side in shape {
            let (product, overflow) = size.multipliedReportingOverflow(by: side)
            guard side > 0, !overflow, product <= 1 << 31 else { throw refuse("has the shape \(shape)") }
            size = product
        }
        let total = shards.reduce(into: 0) { $0 = $1.count >= 0 && $0 >= 0 ? $0 &+ $1.count : -1 }
        let classTotal = classCounts.reduce(into: 0) { $0 = $1 >= 0 && $0 >= 0 ? $0 &+ $1 : -1 }
        guard shards.count.nonzeroBitCount == 1, shards.count <= DatasetImporter.maximumShards,
            total == count, classTotal == count, classCounts.count == classes.count, count < 1 << 40,
            [1, 3].contains(shape.count),
            !isEncoded
                || (shape.count == 3 && [1, 3].contains(shape[0]) && type == .uint8
                    && shards.allSatisfy { (0...1 << 40).contains($0.bytes ?? -1) })
        else { throw refuse("contradicts itself", "import the data again") }
    }

    /// Private to this module: made by the importer.
    init(name: String, table: SampleTable, shardCounts: [Int]) {
        format = 1
        self.name = name
        kind = table.kind
        images = table.images
        type = table.type
        shape = table.shape
        classes = table.classes
        count = table.count
        var counts = [Int](repeating: 0, count: table.classes.count)
        for label in table.labels { counts[label] += 1 }
        classCounts = counts
        shards = shardCounts.enumerated().map { Shard(file: Self.shardName($0), count: $1) }
        sources = table.sources
    }

    /// Of image files.
    init(name: String, folder: ImageFolder, shards: [(count: Int, bytes: Int)]) {
        format = Self.formatVersion
        self.name = name
        kind = .classification
        type = .uint8
        shape = folder.shape
        classes = folder.classes
        count = folder.entries.count
        var counts = [Int](repeating: 0, count: folder.classes.count)
        for entry in folder.entries { counts[entry.label] += 1 }
        classCounts = counts
        self.shards = shards.enumerated().map {
            Shard(file: Self.shardName($0), count: $1.count, bytes: $1.bytes)
        }
        sources = [folder.source]
        images = folder.storage
    }

    private static func shardName(_ number: Int) -> String {
        let digits = "\(number)"
        return "shards/" + String(repeating: "0", count: max(0, 5 - digits.count)) + digits + ".bin"
    }
}
