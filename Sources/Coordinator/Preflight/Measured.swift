public import Basics
public import ClusterFile
internal import Wire

/// What the last preflight measured, for whoever plans an exchange: kept in a file of the workspace.
public struct Measured: Hashable, Sendable, Codable {
    /// The run that was tried.
    public var model: TypedSpec
    /// Its dataset's name.
    public var dataset: String
    /// When; Unix seconds.
    public var time: Double
    /// The measurements and the run's numbers.
    public var planner: ExchangePlanner

    /// All fields.
    public init(model: TypedSpec, dataset: String, time: Double, planner: ExchangePlanner) {
        self.model = model
        self.dataset = dataset
        self.time = time
        self.planner = planner
    }

    /// The file's numbers put in: what a change of batch, lanes or workers would mean is worked out from what was measured.
    ///
    /// - Returns: nil when the file trains another model, other data, or on a host that was not measured.
    public func planner(for file: ClusterFile) -> ExchangePlanner? {
        guard let run = file.run, run.model == model, file.dataset == dataset else { return nil }
        var planner = planner
        var hosts: [ExchangePlanner.Host] = []
        for spec in file.hosts where spec.trains {
            guard var known = planner.hosts.first(where: { $0.name == spec.name }) else { return nil }
            known.workers = spec.workers
            hosts.append(known)
        }
        planner.hosts = hosts
        let before = planner.batch
        (planner.batch, planner.lanes) = (run.batch, run.lanes)
        planner.stepsPerEpoch = max(1, (planner.stepsPerEpoch * before + run.batch - 1) / run.batch)
        return planner.unmeasured.isEmpty ? planner : nil
    }

    /// What was measured in a workspace; nil when nothing was, or it can't be read.
    public static func read(_ workspace: Workspace) -> Measured? {
        guard let bytes = try? Files.read(workspace.measuredPath, limit: 1 << 24) else { return nil }
        return try? MessageCoding.decode(Measured.self, from: bytes)
    }

    /// Keeps it.
    func write(_ workspace: Workspace) throws {
        try Files.writeAtomically(try MessageCoding.encode(self), to: workspace.measuredPath)
    }
}
