public import Basics

/// What each way to exchange would cost a run on a cluster, from what was measured of its hosts and links.
///
/// A value: a model of one step without overlap, the sum of computing and exchanging. It leaves out what can't be known
/// before: how much slower a lossy way learns.
public struct ExchangePlanner: Hashable, Sendable, Codable {
    /// A host that trains.
    public struct Host: Hashable, Sendable, Codable {
        /// Its name.
        public var name: String
        /// Its trainers.
        public var workers: Int
        /// All of them together, alone.
        public var samplesPerSecond: Double

        /// All fields.
        public init(name: String, workers: Int, samplesPerSecond: Double) {
            self.name = name
            self.workers = workers
            self.samplesPerSecond = samplesPerSecond
        }
    }

    /// What a host receives from another.
    public struct Link: Hashable, Sendable, Codable {
        /// Who sends.
        public var from: String
        /// Who receives.
        public var to: String
        /// Bytes a second.
        public var bytesPerSecond: Double
        /// Seconds for a question and its answer.
        public var roundTrip: Double

        /// All fields.
        public init(from: String, to: String, bytesPerSecond: Double, roundTrip: Double) {
            self.from = from
            self.to = to
            self.bytesPerSecond = bytesPerSecond
            self.roundTrip = roundTrip
        }
    }

    /// What is predicted of one way.
    public struct Forecast: Hashable, Sendable, Codable {
        /// The way.
        public var exchange: ExchangeSpec
        /// What a worker sends in a step, on average.
        public var bytesPerStep: Double
        /// Seconds of a step in which values travel.
        public var exchangeSeconds: Double
        /// Seconds of a step.
        public var stepSeconds: Double
        /// The part of a step in which the processors work, in [0, 1].
        public var efficiency: Double { stepSeconds > 0 ? 1 - exchangeSeconds / stepSeconds : 1 }
    }

    /// The exchange may take this part of a step before `auto` leaves `sync`.
    public static let tolerated = 0.25
    /// What a pass over the values costs beside the link, at least: encoding, adding, decoding; bytes of floats a second.
    static let codecBytesPerSecond = 2e9
    /// Between workers of one host.
    static let withinHost = (bytesPerSecond: 1e9, roundTrip: 50e-6)
    /// Multiplications of thin matrices: operations a second.
    static let thinOperationsPerSecond = 5e9

    /// The hosts that train.
    public var hosts: [Host]
    /// Measured links; a pair that lacks one direction takes the other's.
    public var links: [Link]
    /// Samples in a step.
    public var batch: Int
    /// Lanes of the run.
    public var lanes: Int
    /// Steps in an epoch: the last one of each is exact.
    public var stepsPerEpoch: Int
    /// The shapes of the model's parameters.
    public var shapes: [[Int]]
    /// Numbers that the optimizer keeps for each parameter.
    public var optimizerParts: Int

    /// All fields.
    public init(
        hosts: [Host],
        links: [Link],
        batch: Int,
        lanes: Int,
        stepsPerEpoch: Int,
        shapes: [[Int]],
        optimizerParts: Int = 2
    ) {
        self.hosts = hosts
        self.links = links
        self.batch = batch
        self.lanes = lanes
        self.stepsPerEpoch = stepsPerEpoch
        self.shapes = shapes
        self.optimizerParts = optimizerParts
    }

    /// Numbers in the model.
    public var parameterCount: Int { shapes.reduce(0) { $0 + $1.reduce(1, *) } }

    private var workers: Int { min(hosts.reduce(0) { $0 + $1.workers }, lanes) }

    /// The pairs of hosts of which nothing is known.
    public var unmeasured: [String] {
        pairs.filter { link($0.0, $0.1) == nil && link($0.1, $0.0) == nil }.map {
            "\($0.0.name)-\($0.1.name)"
        }
    }

    private var pairs: [(Host, Host)] {
        hosts.indices.flatMap { index in hosts[(index + 1)...].map { (hosts[index], $0) } }
    }

    /// All ways, from the most exact on; numbers of `given` stand where it says more than its kind.
    public func table(_ given: ExchangeSpec? = nil) -> [Forecast] {
        ExchangeSpec.Kind.allCases.map { kind in
            forecast(given?.kind == kind ? given ?? ExchangeSpec(kind) : ExchangeSpec(kind))
        }
    }

    /// What `auto` takes: `sync` while that is good enough, else the most exact way that is, else the fastest; and why, with
    /// the host that would be faster alone, if there is one.
    public func choose() -> (forecast: Forecast, reason: String) {
        let table = table()
        let limit = Self.tolerated
        func share(_ forecast: Forecast) -> String { "\(Int((100 * (1 - forecast.efficiency)).rounded())) %" }
        if let good = table.first(where: { 1 - $0.efficiency <= limit }) {
            let first = good.exchange.kind == .sync ? "" : "sync would take \(share(table[0])); "
            return (good, "\(first)the exchange takes \(share(good)) of a step\(alone(good))")
        }
        guard let best = table.max(by: { $0.efficiency < $1.efficiency }) else {
            preconditionFailure("no way to exchange")
        }
        let reason = "no way takes less than a quarter of a step; this one takes \(share(best))"
        return (best, reason + alone(best))
    }

    /// A host that would be faster by itself than all of them together: words to that effect.
    private func alone(_ together: Forecast) -> String {
        let speed = Double(batch) / together.stepSeconds
        guard let fastest = hosts.max(by: { $0.samplesPerSecond < $1.samplesPerSecond }),
            hosts.count > 1, fastest.samplesPerSecond > speed
        else { return "" }
        return "; that makes \(Int(speed)) samples/s, \(fastest.name) alone \(Int(fastest.samplesPerSecond))"
    }

    /// What one way would cost.
    public func forecast(_ exchange: ExchangeSpec) -> Forecast {
        let values = Double(parameterCount)
        let exact = 4 * values
        let isAlone = workers < 2
        let speed = hosts.reduce(0) { $0 + $1.samplesPerSecond }
        var compute = speed > 0 ? Double(batch) / speed : 0
        // One meeting: the bytes of one copy of the values, the trips they take, passes beside the link.
        var bytes = exact
        var trips = 1.5
        var extra = exact / Self.codecBytesPerSecond
        var steps = 1.0
        var settled = exact
        var spec = exchange
        switch exchange.kind {
        case .sync: break
        case .bf16: bytes = 2 * values
        case .int8: bytes = values * (1 + 4.0 / 256)
        case .topk:
            bytes = 5 * values * min(1, exchange.fraction ?? 1)
            extra += exact / 1e9  // the search for the largest
        case .powersgd:
            let rank = Double(exchange.rank ?? 1)
            bytes = 0
            for shape in shapes {
                let count = Double(shape.reduce(1, *))
                let rows = Double(shape.first ?? 1)
                let thin = rank * (rows + count / max(1, rows))
                let isMatrix = shape.count > 1 && thin < count
                bytes += 4 * (isMatrix ? thin : count)
                if isMatrix { extra += 8 * rank * count / Self.thinOperationsPerSecond }
            }
            trips = 3
        case .diloco:
            bytes = values * (1 + 4.0 / 256)
            steps = Double(min(exchange.localSteps ?? 1, max(1, stepsPerEpoch)))
            settled = exact * Double(1 + optimizerParts)
            let islands = exchange.islands ?? RunPreparation.islands(lanes: lanes, workers: workers)
            spec.islands = islands
            // A worker trains its islands one after the other, and the slowest one is waited for.
            let most = (islands + min(workers, islands) - 1) / max(1, min(workers, islands))
            let slowest = hosts.map { $0.samplesPerSecond / Double(max(1, $0.workers)) }.min() ?? 0
            let waited = Double(most) * Double(batch) / Double(max(1, islands))
            if slowest > 0 { compute = max(compute, waited / slowest) }
        }
        guard !isAlone else {
            return Forecast(exchange: spec, bytesPerStep: 0, exchangeSeconds: 0, stepSeconds: compute)
        }
        // The last meeting of an epoch carries what is left, exactly.
        let meetings = max(1, (Double(max(1, stepsPerEpoch)) / steps).rounded(.up))
        let mean = exchange.kind == .sync ? bytes : (bytes * (meetings - 1) + settled) / meetings
        let perStep = meetings / Double(max(1, stepsPerEpoch))
        let seconds = (linkSeconds(mean) + trips * roundTrip + extra) * perStep
        let share = 2 * Double(workers - 1) / Double(workers)
        return Forecast(
            exchange: spec,
            bytesPerStep: share * mean * perStep,
            exchangeSeconds: seconds,
            stepSeconds: compute + seconds
        )
    }

    /// Seconds until every link has carried its part of one exchange.
    ///
    /// Each worker sends each other one a P-th of its values, and a P-th of the result.
    private func linkSeconds(_ bytes: Double) -> Double {
        let total = Double(hosts.reduce(0) { $0 + $1.workers })
        let part = 2 * bytes / max(1, total)
        var slowest = 0.0
        for host in hosts {
            let inside = Double(host.workers * (host.workers - 1)) * part / Self.withinHost.bytesPerSecond
            slowest = max(slowest, inside)
            var sent = 0.0
            var fastest = 0.0
            for other in hosts where other.name != host.name {
                guard let link = link(host, other) ?? link(other, host) else { continue }
                let load = Double(host.workers * other.workers) * part
                slowest = max(slowest, load / link.bytesPerSecond)
                sent += load
                fastest = max(fastest, link.bytesPerSecond)
            }
            // All of it leaves over one line.
            if fastest > 0 { slowest = max(slowest, sent / fastest) }
        }
        return slowest
    }

    private var roundTrip: Double {
        let between = pairs.compactMap { link($0.0, $0.1)?.roundTrip ?? link($0.1, $0.0)?.roundTrip }.max()
        return between ?? Self.withinHost.roundTrip
    }

    private func link(_ from: Host, _ to: Host) -> Link? {
        links.first { $0.from == from.name && $0.to == to.name && $0.bytesPerSecond > 0 }
    }
}
