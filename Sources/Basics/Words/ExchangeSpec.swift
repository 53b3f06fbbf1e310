/// How the members of a run tell each other what their lanes computed.
///
/// All kinds but `sync` lose something on the way and keep what they lose for later, or speak rarely: the result is
/// then reproducible from who held which lanes, and no longer independent of it.
public struct ExchangeSpec: Hashable, Sendable, Codable {
    /// The way.
    public enum Kind: String, Hashable, Sendable, Codable, CaseIterable {
        /// Every gradient, exactly: the same bits on any cluster.
        case sync
        /// Gradients in 2 bytes a value.
        case bf16
        /// Gradients in 1 byte a value.
        case int8
        /// The largest values of each gradient alone.
        case topk
        /// Matrices as products of two thin ones.
        case powersgd
        /// Islands train by themselves and meet every few steps.
        case diloco
    }

    /// The way.
    public var kind: Kind
    /// `topk`: the fraction of the values that travels, in (0, 1]; smaller is less to send and slower to learn.
    public var fraction: Double?
    /// `powersgd`: columns of the thin matrices; smaller is less to send and slower to learn.
    public var rank: Int?
    /// `diloco`: how many islands, a power of two that divides the lanes; nil until the run is submitted.
    public var islands: Int?
    /// `diloco`: steps between two meetings; more is less to send and slower to learn.
    public var localSteps: Int?
    /// `diloco`: the learning rate that a meeting's mean progress is applied with.
    public var outerLearningRate: Double?
    /// `diloco`: how much of the progress of earlier meetings goes on, in [0, 1).
    public var outerMomentum: Double?

    /// A way with its usual numbers.
    public init(_ kind: Kind) {
        self.kind = kind
        switch kind {
        case .sync, .bf16, .int8: break
        case .topk: fraction = 1.0 / 64
        case .powersgd: rank = 4
        case .diloco:
            localSteps = 20
            outerLearningRate = 0.7
            outerMomentum = 0.9
        }
    }
}

extension ExchangeSpec {
    /// `topk (fraction 0.02)`.
    public var words: String {
        let numbers: [(String, String?)] = [
            ("fraction", fraction.map { "\($0)" }), ("rank", rank.map { "\($0)" }),
            ("islands", islands.map { "\($0)" }), ("local steps", localSteps.map { "\($0)" }),
            ("outer learning rate", outerLearningRate.map { "\($0)" }),
            ("outer momentum", outerMomentum.map { "\($0)" }),
        ]
        let given = numbers.compactMap { name, value in value.map { "\(name) \($0)" } }
        return kind.rawValue + (given.isEmpty ? "" : " (\(given.joined(separator: ", ")))")
    }
}

extension RunSpec {
    /// How the members tell each other what they computed.
    public var exchangeInForce: ExchangeSpec { exchange ?? ExchangeSpec(.sync) }

    /// How these members exchange, for people: `sync, in two levels`.
    public func exchangeWords(_ members: [(host: String, lanes: LaneSet)]) -> String {
        let hasLevels =
            exchangeInForce.kind == .sync && !ExchangeLevels.sites(of: members, laneCount: lanes).isEmpty
        return exchangeInForce.words + (hasLevels ? ", \(ExchangeLevels.words)" : "")
    }

    /// Lanes that stay together for the whole run, those of an island; nil where each lane may go where it likes.
    public var fixedUnit: Int? { exchange?.islands.map { max(1, lanes / max(1, $0)) } }

    /// How many workers can take part.
    public var unitCount: Int { lanes / (fixedUnit ?? 1) }

    /// `4 lanes`, `2 islands`.
    public var unitWords: String { "\(unitCount) \(fixedUnit == nil ? "lanes" : "islands")" }
}

extension LaneSet {
    /// The lanes of some units of `size` neighbours each.
    public init(units: LaneSet, of size: Int) {
        self.init(units.lanes.flatMap { $0 * size..<($0 + 1) * size })
    }

    /// The units of `size` neighbours of which any lane is here.
    public func units(of size: Int) -> LaneSet { LaneSet(Set(lanes.map { $0 / size })) }
}
