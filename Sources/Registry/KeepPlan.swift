public import Basics

/// Why a checkpoint is kept.
public enum KeepReason: Hashable, Sendable, Codable {
    /// Among the best of its run; 1 is the best.
    case best(Int)
    /// Among the last of its run; 1 is the last.
    case latest(Int)
    /// Someone asked for it.
    case pinned
    /// Serves on a host, or is on its way there.
    case deployed(host: String)
    /// Where a rollback on a host would go.
    case fallback(host: String)
    /// A model version, `name@N`: its bytes were promised.
    case version(String)
    /// A model alias, `name@alias`.
    case alias(String)
    /// A run that is kept, or is not over, started from it.
    case parent(of: RunID)

    /// For people.
    public var words: String {
        switch self {
        case .best(1): "best of its run"
        case .best(let place): "number \(place) of the best of its run"
        case .latest(1): "last of its run"
        case .latest(let place): "number \(place) from the end of its run"
        case .pinned: "pinned"
        case .deployed(let host): "deployed on \(host)"
        case .fallback(let host): "the way back on \(host)"
        case .version(let label): "model \(label)"
        case .alias(let label): "alias \(label)"
        case .parent(let run): "run \(run) started from it"
        }
    }

    /// Whether not even `coord checkpoint rm` may go against it.
    public var isFirm: Bool {
        switch self {
        case .best, .latest: false
        default: true
        }
    }
}

/// What stays, what may go to the trash, and what may be deleted from there: a value, worked out from rows alone.
///
/// Never in the plan: the best and the last checkpoint of a run, what is pinned, deployed, a way back, a model
/// version, an alias, and what a run of such started from. Deletion has two steps with a deadline between them.
public struct KeepPlan: Hashable, Sendable {
    /// What the plan knows of a run.
    public struct Run: Hashable, Sendable {
        /// Its id.
        public var id: RunID
        /// How many of the best and of the last stay; at least one of each does.
        public var keep: KeepSpec
        /// What `best` means.
        public var monitor: Monitor
        /// Whether the run is under way: it may need its parent again.
        public var isActive: Bool
        /// The checkpoint that it started from.
        public var parent: Digest?

        /// All fields.
        public init(
            id: RunID,
            keep: KeepSpec = KeepSpec(),
            monitor: Monitor = .valAccuracy,
            isActive: Bool = false,
            parent: Digest? = nil
        ) {
            self.id = id
            self.keep = keep
            self.monitor = monitor
            self.isActive = isActive
            self.parent = parent
        }
    }

    /// A checkpoint and why it stays; without a reason it does not.
    public struct Entry: Hashable, Sendable {
        /// The checkpoint.
        public var checkpoint: CheckpointRow
        /// Why it stays.
        public var reasons: [KeepReason]
    }

    /// What stays, and why.
    public private(set) var kept: [Entry] = []
    /// What may go to the trash now.
    public private(set) var trashable: [CheckpointRow] = []
    /// What is in the trash and can still come back.
    public private(set) var inTrash: [CheckpointRow] = []
    /// The manifests whose bytes may be deleted: in the trash past the deadline in every run that made them.
    public private(set) var deletable: [Digest] = []
    private var firm: [Digest: [KeepReason]] = [:]

    /// Works out the plan.
    ///
    /// - Parameters:
    ///   - checkpoints: of all runs: a checkpoint may be kept for the sake of another run.
    ///   - runs: the runs' policies; a run that is missing has the default one.
    ///   - claims: firm reasons from models and releases.
    ///   - now: Unix seconds.
    /// - Cost: a sort of each run's checkpoints.
    public init(checkpoints: [CheckpointRow], runs: [Run], claims: [Digest: [KeepReason]], now: Double) {
        let all = checkpoints.filter { $0.state != .deleted }
        let policies = Dictionary(runs.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
        firm = claims
        for row in all where row.isPinned { Self.add(.pinned, to: row.manifest, in: &firm) }
        addParents(all, runs)

        let byRun = Dictionary(grouping: all, by: \.run)
        var places: [RunID: [Digest: [KeepReason]]] = [:]
        for (run, rows) in byRun {
            places[run] = Self.places(rows.filter { $0.trashedUntil == nil }, policies[run] ?? Run(id: run))
        }
        for row in all.sorted(by: { ($0.run, $0.step, $0.manifest) < ($1.run, $1.step, $1.manifest) }) {
            let reasons = (firm[row.manifest] ?? []) + (places[row.run]?[row.manifest] ?? [])
            if !reasons.isEmpty {
                kept.append(Entry(checkpoint: row, reasons: reasons))
            } else if row.trashedUntil == nil {
                trashable.append(row)
            } else {
                inTrash.append(row)
            }
        }
        deletable = Dictionary(grouping: all, by: \.manifest)
            .filter { manifest, rows in
                firm[manifest] == nil && rows.allSatisfy { $0.trashedUntil.map { $0 <= now } ?? false }
            }
            .keys.sorted()
        let gone = Set(deletable)
        inTrash.removeAll { gone.contains($0.manifest) }
    }

    /// Why not even a person may delete this checkpoint; empty when they may.
    public func firmReasons(_ manifest: Digest) -> [KeepReason] { firm[manifest] ?? [] }

    /// The places of a run's checkpoints among its best and its last.
    ///
    /// Counted over all and once more over the saved ones alone: while the newest are only held somewhere, a loss
    /// of that host must not cost the safe ones before them.
    private static func places(_ rows: [CheckpointRow], _ run: Run) -> [Digest: [KeepReason]] {
        var places: [Digest: [KeepReason]] = [:]
        for group in [rows, rows.filter { $0.state == .saved }] {
            for (place, row) in run.monitor.ranked(group).prefix(max(1, run.keep.best)).enumerated()
            where !(places[row.manifest] ?? []).contains(where: \.isBest) {
                add(.best(place + 1), to: row.manifest, in: &places)
            }
            let last = group.sorted { ($0.step, $0.manifest) > ($1.step, $1.manifest) }
            for (place, row) in last.prefix(max(1, run.keep.latest)).enumerated()
            where !(places[row.manifest] ?? []).contains(where: \.isLatest) {
                add(.latest(place + 1), to: row.manifest, in: &places)
            }
        }
        return places
    }

    /// Adds the parents of what is firm, and theirs, until nothing is new.
    private mutating func addParents(_ checkpoints: [CheckpointRow], _ runs: [Run]) {
        let makers = Dictionary(grouping: checkpoints, by: \.manifest).mapValues { Set($0.map(\.run)) }
        let parents = runs.compactMap { run in run.parent.map { (run: run, parent: $0) } }
        var open = parents.filter { $0.run.isActive }
        var visited: Set<RunID> = []
        func children(of manifest: Digest) -> [(run: Run, parent: Digest)] {
            parents.filter { makers[manifest]?.contains($0.run.id) ?? false }
        }
        open += firm.keys.sorted().flatMap(children)
        while let (run, parent) = open.popLast() {
            guard visited.insert(run.id).inserted else { continue }
            Self.add(.parent(of: run.id), to: parent, in: &firm)
            open += children(of: parent)
        }
    }

    private static func add(
        _ reason: KeepReason,
        to manifest: Digest,
        in reasons: inout [Digest: [KeepReason]]
    ) {
        guard !(reasons[manifest] ?? []).contains(reason) else { return }
        reasons[manifest, default: []].append(reason)
    }
}

extension KeepReason {
    fileprivate var isBest: Bool { if case .best = self { true } else { false } }
    fileprivate var isLatest: Bool { if case .latest = self { true } else { false } }
}

extension RegistrySnapshot {
    /// What stays and what may go, over all runs as they are now.
    ///
    /// - Parameters:
    ///   - keep: stands in for the runs' own numbers when given.
    ///   - now: Unix seconds.
    public func keepPlan(_ keep: KeepSpec? = nil, now: Double) throws -> KeepPlan {
        let policies = try runs().map { run in
            KeepPlan.Run(
                id: run.id,
                keep: keep ?? run.record?.spec.keep ?? KeepSpec(),
                monitor: run.record.flatMap { Monitor(rawValue: $0.spec.monitor) } ?? .valAccuracy,
                isActive: run.state.isActive || run.state == .interrupted,
                parent: run.parent?.checkpoint
            )
        }
        return KeepPlan(checkpoints: try checkpoints(), runs: policies, claims: try claims(), now: now)
    }

    private func claims() throws -> [Digest: [KeepReason]] {
        var claims: [Digest: [KeepReason]] = [:]
        var byLabel: [String: Digest] = [:]
        for version in try modelVersions() {
            claims[version.checkpoint, default: []].append(.version(version.label))
            byLabel[version.label] = version.checkpoint
        }
        for alias in try aliases() {
            guard let manifest = byLabel["\(alias.name)@\(alias.version)"] else { continue }
            claims[manifest, default: []].append(.alias("\(alias.name)@\(alias.alias)"))
        }
        let releases = try releases()
        for release in releases where !release.state.isFinal {
            claims[release.checkpoint, default: []].append(.deployed(host: release.host))
        }
        for host in Set(releases.map(\.host)).sorted() {
            guard let previous = try previousRelease(host: host) else { continue }
            claims[previous.checkpoint, default: []].append(.fallback(host: host))
        }
        return claims
    }
}
