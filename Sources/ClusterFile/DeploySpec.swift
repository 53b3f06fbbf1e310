/// Where a run's best checkpoint goes by itself, and when.
public struct DeploySpec: Hashable, Sendable {
    /// When a checkpoint is deployed without being asked.
    public enum Moment: String, Hashable, Sendable, CaseIterable {
        /// When the best checkpoint of a run is good enough.
        case best
        /// Only by `coord deploy`.
        case never
    }

    /// The host that serves.
    public var host: String
    /// When.
    public var when: Moment
    /// What the monitored metric must reach: at least this `val_accuracy`, or at most this `val_loss`.
    ///
    /// nil asks for nothing but ``improvement``.
    public var minimum: Double?
    /// By how much the monitored metric must be better than that of the deployed version.
    public var improvement: Double

    /// All fields.
    public init(host: String, when: Moment = .best, minimum: Double? = nil, improvement: Double = 0) {
        self.host = host
        self.when = when
        self.minimum = minimum
        self.improvement = improvement
    }
}

/// How `coord-serve` listens.
public struct ServeSpec: Hashable, Sendable {
    /// `address:port`.
    public var listen: String
    /// The environment variable, on this machine, that holds the token which clients must send; nil asks for none.
    public var tokenEnvironment: String?

    /// All fields.
    public init(listen: String = "127.0.0.1:8000", tokenEnvironment: String? = nil) {
        self.listen = listen
        self.tokenEnvironment = tokenEnvironment
    }
}

/// An `address:port` in parts.
struct Endpoint: Hashable {
    var address: String
    var port: Int

    /// Takes `127.0.0.1:8000`, `[::1]:8000` or `name:8000`; nil for anything else.
    init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (1...65535).contains(port)
        else { return nil }
        var address = text[..<colon]
        if address.hasPrefix("["), address.hasSuffix("]") {
            address = address.dropFirst().dropLast()
        } else if address.contains(":") {
            return nil
        }
        guard !address.isEmpty, !address.contains(where: \.isWhitespace) else { return nil }
        self.address = String(address)
        self.port = port
    }

    /// True when only this machine's own programs can dial it.
    var isLoopback: Bool {
        if address == "localhost" || address == "::1" { return true }
        let parts = address.split(separator: ".", omittingEmptySubsequences: false).map { UInt8($0) }
        return parts.count == 4 && !parts.contains(nil) && parts[0] == 127
    }
}
