public import Basics

/// A numbered version of a model: `name@N`, never changed and never deleted.
public struct ModelVersionRow: Hashable, Sendable, Codable {
    /// The model's name.
    public var name: String
    /// From 1, without holes.
    public var version: Int
    /// The checkpoint's manifest.
    public var checkpoint: Digest
    /// The run that made it.
    public var run: RunID
    /// What it was judged by when it was registered.
    public var metrics: CheckpointMetrics
    /// What it takes and gives.
    public var signature: ModelSignature?
    /// When it was registered; Unix seconds.
    public var created: Double

    /// How people write it: `name@N`.
    public var label: String { "\(name)@\(version)" }
}

/// A name that moves between the versions of a model: `best`, `deployed:HOST`, or a person's own.
public struct ModelAliasRow: Hashable, Sendable, Codable {
    /// The model's name.
    public var name: String
    /// The alias.
    public var alias: String
    /// What it means now.
    public var version: Int
    /// When it was moved there; Unix seconds.
    public var moved: Double
}
