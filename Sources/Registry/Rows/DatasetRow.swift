public import Basics

/// A dataset under a name.
///
/// Adding other data under the same name makes it what the name means; the rows of what runs used before stay.
public struct DatasetRow: Hashable, Sendable, Codable {
    /// What people call it.
    public var name: String
    /// Its identity: the manifest in the content store.
    public var manifest: Digest
    /// Samples.
    public var count: Int
    /// Names of the classes, in label order.
    public var classes: [String]
    /// Shape of one sample: `[features]` or `[C, H, W]`.
    public var shape: [Int]
    /// SHA-256 of the file that it was made from.
    public var source: Digest?
    /// When it got this name; Unix seconds.
    public var added: Double

    /// All fields.
    public init(
        name: String,
        manifest: Digest,
        count: Int,
        classes: [String],
        shape: [Int],
        source: Digest? = nil,
        added: Double
    ) {
        self.name = name
        self.manifest = manifest
        self.count = count
        self.classes = classes
        self.shape = shape
        self.source = source
        self.added = added
    }
}
