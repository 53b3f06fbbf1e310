internal import Basics
internal import Wire

/// Takes away what an agent leaves behind: processes, and what was changed outside its folder.
struct Sweep: Sendable {
    let directory: AgentDirectory
    let cluster: String
    let boot: BootInstaller

    init(_ directory: AgentDirectory, cluster: String, boot: BootInstaller = BootInstaller()) {
        self.directory = directory
        self.cluster = cluster
        self.boot = boot
    }

    /// Ends the children of an agent that is gone: trainers, `coord-serve` and its children.
    func endOrphans() -> SweepReport {
        end { !["agent", "bridge", "start", "sweep"].contains($0.part) }
    }

    /// Ends what runs from the folder, and takes unit and crontab line away.
    ///
    /// - Parameter includesAgent: false when the agent itself asks: it, and the bridges to it, end right after.
    func run(includesAgent: Bool) -> SweepReport {
        var report = end {
            includesAgent ? !["start", "sweep"].contains($0.part) : !["agent", "bridge"].contains($0.part)
        }
        let (removed, left) = boot.remove(directory, cluster: cluster)
        report.removed += removed
        report.left += left
        return report
    }

    /// `coord-worker sweep`, behind an agent that has ended: proves that nothing is left, and removes the rest.
    func finish(wipes: Bool) -> SweepReport {
        var report = run(includesAgent: true)
        var paths = [
            directory.socket, directory.bridges, directory.identity, directory.terms, directory.boot,
        ]
        // Whoever holds the lock is an agent that was started meanwhile: its files are its own.
        guard let lock = try? FileLock(directory.lock) else {
            report.left.append("\(directory.lock) is held: an agent was started meanwhile")
            return report
        }
        paths.append(directory.lock)
        if wipes { paths = [directory.root] }
        for path in paths {
            do {
                try Files.remove(path)
            } catch {
                report.left.append("\(error)")
            }
        }
        _ = consume lock
        return report
    }

    private func end(_ isWanted: (ProcessTable.Entry) -> Bool) -> SweepReport {
        let found = ProcessTable.entries(of: directory.root).filter(isWanted)
        let left = ProcessTable.end(found)
        return SweepReport(
            ended: found.map(\.words).filter { words in !left.contains { $0.words == words } },
            left: left.map(\.words)
        )
    }
}
