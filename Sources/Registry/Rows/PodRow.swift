/// A rented pod that the cluster file named, and that is still there.
public struct PodRow: Hashable, Sendable, Codable {
    /// The provider's id.
    public var id: String
    /// The host that it was last.
    public var host: String
    /// When it was first seen as that; Unix seconds.
    public var seen: Double

    /// All fields.
    public init(id: String, host: String, seen: Double) {
        self.id = id
        self.host = host
        self.seen = seen
    }
}
