public import Basics

/// What the agent asks of `coord-serve` over its admin socket.
///
/// One request, one reply, in order.
public enum ServeRequest: Codable, Sendable, Equatable {
    /// Start a child for a version, check it against its golden examples, and switch all traffic to it if they pass.
    ///
    /// - folder: an absolute path with `model.safetensors`, `model.json`, `golden.safetensors`, all verified.
    case release(version: ServedVersion, folder: String)
    /// Switch back to a version that is still loaded or on disk.
    case rollback
    /// What is served.
    case status
    /// One prediction by the live version; the bytes frame that follows holds `count` float32 values, row-major.
    case predict(count: Int)
    /// Finish what is in flight and end.
    case stop
}

/// A model version on a host.
public struct ServedVersion: Codable, Sendable, Hashable {
    /// The model's name.
    public var model: String
    /// The version's number.
    public var version: Int
    /// The checkpoint's manifest.
    public var checkpoint: Digest

    /// All fields.
    public init(model: String, version: Int, checkpoint: Digest) {
        self.model = model
        self.version = version
        self.checkpoint = checkpoint
    }
}

/// What `coord-serve` answers.
public enum ServeReply: Codable, Sendable, Equatable {
    /// The version takes all traffic; `previous` waits for a rollback.
    case released(live: ServedVersion, previous: ServedVersion?, goldenMaximumDifference: Double)
    /// The state of things.
    case status(ServeStatus)
    /// The probabilities of the classes, in label order.
    case prediction(version: ServedVersion, classes: [String], probabilities: [Double])
    /// Nothing was changed; the reason and what to do.
    case refused(message: String, hint: String?)
    /// The process ends now.
    case stopping
}

/// The state of `coord-serve`.
public struct ServeStatus: Codable, Sendable, Equatable {
    /// Where HTTP is spoken, `127.0.0.1:8000`.
    public var listen: String
    /// Who answers.
    public var live: ServedVersion?
    /// Who answered before.
    public var previous: ServedVersion?
    /// Requests since the start.
    public var requests: Int
    /// Requests that failed by our fault since the start.
    public var errors: Int
    /// 95th percentile of the last 1 000 requests; unit: milliseconds.
    public var p95Milliseconds: Double

    /// All fields.
    public init(
        listen: String,
        live: ServedVersion?,
        previous: ServedVersion?,
        requests: Int,
        errors: Int,
        p95Milliseconds: Double
    ) {
        self.listen = listen
        self.live = live
        self.previous = previous
        self.requests = requests
        self.errors = errors
        self.p95Milliseconds = p95Milliseconds
    }
}
