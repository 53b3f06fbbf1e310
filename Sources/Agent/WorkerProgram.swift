public import Basics
internal import Logging
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// The program that is pushed to every host; its first argument says which part it plays.
public enum WorkerProgram {
    private static let usage = """
        usage: coord-worker start  --directory DIR --cluster ID   make sure that an agent runs
                 --boot auto|none: whether it is to come back after a reboot
               coord-worker agent  --directory DIR --cluster ID   be the agent
               coord-worker sweep  --directory DIR --cluster ID   end what an agent left; --wipe: remove DIR
               coord-worker bridge --directory DIR                join stdin and stdout to the agent
               coord-worker relay  --directory DIR --cluster ID --peer NAME --host NAME
                                                              join them to its relay, for that peer
               coord-worker train  --directory DIR                be a trainer (started by the agent)
               coord-worker preflight --directory DIR             try two steps (started by the agent)
               coord-worker version                               print the version

        coord starts these over SSH; there is no need to do it by hand.
        """

    /// Runs one part to its end.
    ///
    /// - Parameter arguments: without the program's name.
    /// - Returns: the exit code.
    public static func run(_ arguments: [String]) -> ExitCode {
        var options: [String: String] = [:]
        var flags: Set<String> = []
        var rest = arguments.dropFirst()[...]
        while let name = rest.popFirst() {
            let words = ["--directory", "--cluster", "--boot", "--peer", "--host"]
            if words.contains(name), let value = rest.popFirst() {
                options[name] = value
            } else if ["--ready", "--wipe"].contains(name) {
                flags.insert(name)
            } else {
                return complain("unknown argument \(name)\n\(usage)", .usage)
            }
        }
        let directory = options["--directory"].map { AgentDirectory(root: expanded($0)) }
        do {
            switch (arguments.first, directory, options["--cluster"]) {
            case ("start", let directory?, let cluster?):
                let boot = options["--boot"]
                guard boot.map(["auto", "none"].contains) ?? true else { return complain(usage, .usage) }
                try Launcher.run(directory: directory, cluster: cluster, boot: boot)
            case ("sweep", let directory?, let cluster?):
                let report = Sweep(directory, cluster: cluster).finish(wipes: flags.contains("--wipe"))
                print(String(decoding: try MessageCoding.encode(report), as: UTF8.self))
                return report.left.isEmpty ? .ok : .failed
            case ("agent", let directory?, let cluster?):
                try AgentProgram.run(
                    directory: directory,
                    cluster: cluster,
                    ready: flags.contains("--ready") ? 3 : nil
                )
            case ("bridge", let directory?, _): try Bridge.run(directory: directory)
            case ("relay", let directory?, let cluster?):
                guard let peer = options["--peer"], let host = options["--host"] else { fallthrough }
                try RelayBridge.run(directory: directory, cluster: cluster, peer: peer, host: host)
            case ("train", let directory?, _): try TrainerProgram.run(directory: directory)
            case ("preflight", let directory?, _): try PreflightProgram.run(directory: directory)
            case ("version", _, _): print("coord-worker 0.1")
            default: return complain(usage, .usage)
            }
            return .ok
        } catch let error as any ExplainedError {
            return complain(error.message + (error.hint.map { "\n\nhint: \($0)" } ?? ""), error.exitCode)
        } catch {
            return complain("\(error)", .bug)
        }
    }

    private static func complain(_ text: String, _ code: ExitCode) -> ExitCode {
        let line = "coord-worker: error: \(text)\n"
        // Nothing is left to tell it to when standard error is closed.
        try? Array(line.utf8).withUnsafeBytes { try Files.writeAll($0, to: 2, path: "standard error") }
        return code
    }

    /// `~/x` → the home folder's `x`: the remote shell may have quoted it.
    private static func expanded(_ path: String) -> String {
        path.hasPrefix("~/") ? Machine.home + path.dropFirst() : path
    }
}
