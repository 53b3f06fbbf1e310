public import Basics

/// What one number of a sample is.
public enum ElementType: String, Hashable, Sendable, Codable {
    /// A byte: 0 to 255.
    case uint8 = "u8"
    /// A single-precision number, little-endian.
    case float32 = "f32"

    /// Unit: bytes.
    public var size: Int { self == .uint8 ? 1 : 4 }
}

/// What a dataset is for.
public enum DatasetKind: String, Hashable, Sendable, Codable {
    /// Samples of classes.
    case classification
    /// Windows of one text, in its order; the class of a window is the letter after it.
    case text
}

/// Samples as they were read, in the order of the source.
public struct SampleTable: Sendable {
    /// What one number is.
    public var type: ElementType
    /// Shape of one sample: `[F]` or `[C, H, W]`.
    public var shape: [Int]
    /// The names of the classes, in label order.
    public var classes: [String]
    /// `[N × shape.product × type.size]`: the values, one sample after the other.
    public var values: [UInt8]
    /// `[N]`: indices into ``classes``.
    public var labels: [Int]
    /// What it was read from.
    public var sources: [DatasetSource]
    /// What it is for.
    public var kind = DatasetKind.classification
    /// `[N]`: the file of each sample; nil when all came from one.
    public var names: [String]?
    /// How images were brought to `shape`; nil for what were none.
    public var images: ImageStorage?

    /// - Precondition: as many values as labels ask for; every label is an index into `classes`.
    public init(
        type: ElementType,
        shape: [Int],
        classes: [String],
        values: [UInt8],
        labels: [Int],
        sources: [DatasetSource] = []
    ) {
        let size = shape.reduce(type.size, *)
        precondition(
            values.count == labels.count * size,
            "\(values.count) bytes are not \(labels.count) samples of \(size) bytes"
        )
        precondition(labels.allSatisfy { classes.indices.contains($0) }, "a label outside the classes")
        self.type = type
        self.shape = shape
        self.classes = classes
        self.values = values
        self.labels = labels
        self.sources = sources
    }

    /// Number of samples.
    public var count: Int { labels.count }
    /// Bytes of one sample.
    public var sampleSize: Int { shape.reduce(type.size, *) }
}

/// A file that samples came from.
public struct DatasetSource: Hashable, Sendable, Codable {
    /// The file's name, without its folder.
    public var name: String
    /// Of its content, after gzip.
    public var sha256: Digest
    /// A file and its content.
    public init(name: String, sha256: Digest) {
        self.name = name
        self.sha256 = sha256
    }
}

/// The name of a sample, from its content: the same on every machine, in every order, in every dataset.
///
/// Sixteen bytes: eight from the SHA-256 of the values alone, eight from that of values, label and ordinal.
/// So equal samples sort side by side, and a corrected label moves a sample to no other shard and, within its
/// class, to no other side of a split.
public struct SampleID: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// From the values alone.
    public var content: UInt64
    /// From the values, the label's name, and the number of equal samples before this one.
    public var rest: UInt64

    init(content: UInt64, rest: UInt64) {
        self.content = content
        self.rest = rest
    }

    /// - Parameter valueDigest: SHA-256 of type, shape and values.
    init(valueDigest: Digest, label: String, ordinal: Int) {
        content = Self.head(valueDigest)
        var writer = ByteWriter()
        writer.write(valueDigest)
        writer.write(label)
        writer.write(UInt64(ordinal))
        rest = Self.head(Digest(of: writer.bytes))
    }

    /// A window of a text: in the order of the text, and evenly over all ids, so that shards are alike.
    init(place: Int, of count: Int, valueDigest: Digest) {
        content = UInt64(count).dividingFullWidth((UInt64(place), 0)).quotient
        rest = Self.head(valueDigest)
    }

    private static func head(_ digest: Digest) -> UInt64 {
        digest.raw.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Orders by content first.
    public static func < (a: SampleID, b: SampleID) -> Bool { (a.content, a.rest) < (b.content, b.rest) }

    /// 32 hexadecimal digits.
    public var description: String {
        Digest.hex(
            [content, rest].flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> (56 - 8 * $0)) }
            }
        )
    }
}
