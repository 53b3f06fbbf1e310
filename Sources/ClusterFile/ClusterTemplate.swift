/// Writes the cluster file that `coord init` begins with.
public enum ClusterTemplate {
    /// What `coord init` read from the data; it goes into comments, so that the user sees what was found.
    public struct DatasetFacts: Hashable, Sendable {
        /// The name or the path, as it goes under `dataset:`.
        public var name: String
        /// Samples in all.
        public var count: Int
        /// The names of the classes, in label order.
        public var classes: [String]
        /// Shape of one sample: `[features]` or `[C, H, W]`.
        public var shape: [Int]
        /// Mean of the input values, one a channel or one for all.
        public var mean: [Float]
        /// Standard deviation of the input values, one a channel or one for all.
        public var deviation: [Float]

        /// All facts.
        public init(
            name: String,
            count: Int,
            classes: [String],
            shape: [Int],
            mean: [Float],
            deviation: [Float]
        ) {
            self.name = name
            self.count = count
            self.classes = classes
            self.shape = shape
            self.mean = mean
            self.deviation = deviation
        }
    }

    /// A host that the user named; `address` `local` is this machine.
    public struct HostChoice: Hashable, Sendable {
        /// The key under `hosts:`.
        public var name: String
        /// `local`, a host name, an address or a name from `~/.ssh/config`.
        public var address: String
        /// The SSH port, when it is not 22.
        public var port: Int?
        /// The user to log in as, when it is not the user's own name.
        public var user: String?
        /// Trainers on the host.
        public var workers: Int

        /// All choices.
        public init(
            name: String,
            address: String,
            port: Int? = nil,
            user: String? = nil,
            workers: Int = 1
        ) {
            self.name = name
            self.address = address
            self.port = port
            self.user = user
            self.workers = workers
        }
    }

    /// A commented cluster file that parses and fits the data.
    ///
    /// Images get `simple_cnn`, rows of numbers get `mlp`; small datasets get more epochs, so that each
    /// file starts with roughly the same number of steps.
    ///
    /// - Parameters:
    ///   - cluster: the cluster's name; characters that a name cannot hold become `-`.
    ///   - hosts: at least one; the first one serves.
    /// - Precondition: at least one host.
    public static func make(cluster: String, dataset: DatasetFacts, hosts: [HostChoice]) -> String {
        guard let first = hosts.first else { preconditionFailure("a cluster without a host") }
        let name = slug(cluster)
        let epochs = min(40, max(5, 20_000 / max(1, dataset.count)))
        let model =
            dataset.shape.count == 3
            ? "{ type: simple_cnn, channels: [16, 32], hidden: 64 }" : "{ type: mlp, hidden: [128] }"
        return """
            # Every key with its meaning and default: coord docs cluster
            cluster: \(name)

            # Machines that answer ssh; `local` is this one. More: `gpu-box: { address: 192.168.1.50, user: me }`
            hosts:
            \(hosts.map(line).joined(separator: "\n"))

            # \(facts(dataset))
            # classes: \(names(dataset.classes))
            # input values: mean \(numbers(dataset.mean)), deviation \(numbers(dataset.deviation))
            dataset: \(quoted(dataset.name))

            run:
              name: \(slug(dataset.name.split(separator: "/").last.map(String.init) ?? dataset.name))
              model: \(model)
              epochs: \(epochs)                            # passes over the training data
              batch: 64                             # samples in a step, over all hosts
              lanes: auto                           # parts of a batch that workers share; the result depends on it
              optimizer: { type: adamw, learning_rate: 0.002, weight_decay: 0.01 }
              schedule: { type: cosine, warmup_steps: 20 }
              seed: 42                              # the same seed gives the same weights, on any number of workers
              keep: { best: 3, latest: 2 }          # checkpoints that stay
              monitor: val_accuracy                 # what "best" means; only validation metrics
              split: { validation: 0.2, test: 0, seed: 1 }

            # The best checkpoint goes here when it is better than what is deployed.
            deploy:
              host: \(first.name)
              when: best                            # `never`: only by hand, with `coord deploy`

            serve:
              listen: 127.0.0.1:8000                # off loopback it needs `token_env`

            """
    }

    private static func line(_ host: HostChoice) -> String {
        var fields = ["address: \(quoted(host.address))"]
        if let port = host.port { fields.append("port: \(port)") }
        if let user = host.user { fields.append("user: \(quoted(user))") }
        fields.append("workers: \(host.workers)")
        return "  \(host.name): { \(fields.joined(separator: ", ")) }"
    }

    private static func facts(_ dataset: DatasetFacts) -> String {
        let kind =
            switch dataset.shape.count {
            case 3:
                "images of \(dataset.shape[1]) x \(dataset.shape[2]) pixels, "
                    + "\(dataset.shape[0]) channel\(dataset.shape[0] == 1 ? "" : "s")"
            default: "rows of \(dataset.shape.reduce(1, *)) numbers"
            }
        return "\(dataset.count) samples, \(dataset.classes.count) classes, \(kind)"
    }

    private static func names(_ classes: [String]) -> String {
        // A name from the data must not end the comment it stands in.
        let shown = classes.prefix(12).map { $0.filter { !$0.isNewline } }.joined(separator: ", ")
        return classes.count > 12 ? shown + ", … (\(classes.count))" : shown
    }

    private static func numbers(_ values: [Float]) -> String {
        values.map { "\((Double($0) * 10_000).rounded() / 10_000)" }.joined(separator: ", ")
    }

    private static func quoted(_ text: String) -> String {
        let isPlain = text.utf8.allSatisfy {
            (0x61...0x7A).contains($0) || (0x41...0x5A).contains($0) || (0x30...0x39).contains($0)
                || [0x2D, 0x5F, 0x2E, 0x2F].contains($0)
        }
        if isPlain, !text.isEmpty, !text.hasPrefix("-") { return text }
        let escaped = text.map { $0 == "\\" || $0 == "\"" ? "\\\($0)" : String($0) }.joined()
        return "\"\(escaped)\""
    }

    private static func slug(_ text: String) -> String {
        let stem = text.split(separator: ".").first.map(String.init) ?? text
        let letters = stem.prefix(64).map {
            $0.isASCII && ($0.isLetter || $0.isNumber) || $0 == "_" ? $0 : "-"
        }
        let trimmed = String(String(letters).drop { $0 == "-" })
        return trimmed.isEmpty ? "cluster" : trimmed
    }
}
