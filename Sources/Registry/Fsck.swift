public import Basics
internal import GRDB

/// Something that a check of the registry found.
public struct RegistryProblem: Hashable, Sendable, Codable {
    /// What kind, for programs.
    public enum Kind: String, Hashable, Sendable, Codable, CaseIterable {
        /// SQLite finds its own file damaged.
        case damagedFile
        /// A row names another that is not there.
        case danglingReference
        /// A model version stands on a checkpoint whose bytes are gone or in the trash.
        case promiseBroken
        /// A release and its model version name different checkpoints.
        case checkpointMismatch
        /// A checkpoint is called saved and too few verified copies are known.
        case tooFewCopies
        /// The store does not have what the registry says is at home.
        case notInStore
        /// Two workers of a run hold the same lane.
        case laneHeldTwice
        /// A finished run has no weights.
        case finishedWithoutWeights
    }

    /// What kind.
    public var kind: Kind
    /// What exactly, one line.
    public var message: String
}

extension RegistrySnapshot {
    /// Checks the registry against itself and, when asked, against the content store.
    ///
    /// - Parameter isInStore: whether the store has a manifest with all its chunks.
    /// - Returns: what is wrong; empty when all is well.
    /// - Cost: reads the whole file.
    public func problems(isInStore: ((Digest) throws -> Bool)? = nil) throws -> [RegistryProblem] {
        var problems: [RegistryProblem] = []
        func report(_ kind: RegistryProblem.Kind, _ message: String) {
            problems.append(RegistryProblem(kind: kind, message: message))
        }
        for row in try rows("PRAGMA integrity_check") {
            let words = try row.decode(String.self, atIndex: 0)
            if words != "ok" { report(.damagedFile, "\(path): \(words)") }
        }
        // A damaged file gives arbitrary rows: nothing that follows would mean anything.
        guard problems.isEmpty else { return problems }
        for row in try rows("PRAGMA foreign_key_check") {
            let table = try row.value("table", String.self)
            let target = try row.value("parent", String.self)
            report(.danglingReference, "a row of \(table) names a row of \(target) that is not there")
        }
        let checkpoints = try checkpoints()
        let versions = try modelVersions()
        try checkModels(versions, checkpoints, report)
        for checkpoint in checkpoints where checkpoint.state == .saved {
            let name = "checkpoint \(checkpoint.manifest.short) of run \(checkpoint.run)"
            if !checkpoint.isHome, checkpoint.hosts.count < 2 {
                report(.tooFewCopies, "\(name) is called saved, with \(checkpoint.hosts.count) known copies")
            }
            if checkpoint.isHome, let isInStore, try !isInStore(checkpoint.manifest) {
                report(.notInStore, "\(name) is not complete in the store")
            }
        }
        for run in try runs() {
            if run.state == .finished, run.weights == nil {
                report(.finishedWithoutWeights, "run \(run.id) is finished and has no weights")
            }
            guard run.state.isActive else { continue }
            var held = LaneSet()
            for worker in try workers(of: run.id) {
                let twice = LaneSet(bits: held.bits & worker.lanes.bits)
                if !twice.isEmpty { report(.laneHeldTwice, "lanes \(twice) of run \(run.id) are held twice") }
                held.bits |= worker.lanes.bits
            }
        }
        return problems
    }

    private func checkModels(
        _ versions: [ModelVersionRow],
        _ checkpoints: [CheckpointRow],
        _ report: (RegistryProblem.Kind, String) -> Void
    ) throws {
        let usable = Set(checkpoints.filter(\.isUsable).map(\.manifest))
        let byLabel = Dictionary(versions.map { ($0.label, $0) }, uniquingKeysWith: { first, _ in first })
        for version in versions where !usable.contains(version.checkpoint) {
            report(
                .promiseBroken,
                "model \(version.label) stands on checkpoint \(version.checkpoint.short), which is gone or in the trash"
            )
        }
        for release in try releases() {
            let label = "\(release.model)@\(release.version)"
            if let version = byLabel[label], version.checkpoint != release.checkpoint {
                report(
                    .checkpointMismatch,
                    "release \(release.id) names checkpoint \(release.checkpoint.short), \(label) another"
                )
            }
        }
    }
}
