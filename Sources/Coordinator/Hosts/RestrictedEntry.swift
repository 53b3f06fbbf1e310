internal import Basics
public import ClusterFile
public import Remote

/// What a login with a restricted key runs: `bin/coord-entry` in the agent's folder.
///
/// Whatever is asked for, the entry sees to it that the agent runs and joins the login to it, so a stream on such a
/// host begins with the bridge's sentinel. The one other word that it knows is ``versionWord``.
public struct RestrictedEntry: Sendable {
    /// The agent's folder as the host's shell sees it.
    public let root: String
    /// The worker's file name in `bin/`.
    let program: String
    /// The worker here.
    let worker: WorkerBinary

    /// Asked for in a command, it makes the entry say its version and the worker's name, and end.
    public static let versionWord = "coord-entry-version"
    /// What is said: this, a space, the worker's file name.
    public static let version = "coord-entry 1"

    /// The entry of a host whose machine is of a kind.
    ///
    /// - Throws: ``CoordinatorError`` when no worker was built for the kind.
    public init(_ spec: HostSpec, in workspace: Workspace, triple: String) throws {
        root = (spec.directory ?? "~/.coord") + "/" + workspace.clusterID
        worker = try workspace.worker(triple)
        program = "coord-worker-\(worker.digest.short)"
    }

    /// What stands before the key in `authorized_keys`: no shell, no terminal, no forwarding.
    ///
    /// sshd takes a backslash before a quotation mark away, and nothing else.
    public var restriction: String {
        let command = ShellQuoting.path("\(root)/bin/coord-entry").replacing("\"", with: "\\\"")
        return "restrict,command=\"\(command)\""
    }

    /// The entry's text, for any POSIX shell.
    public var script: String {
        """
        #!/bin/sh
        # Written by `coord keys bootstrap --restrict`. A login with the restricted key runs this, whatever it asks for.
        root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 69
        worker=$root/bin/\(program)
        case ${SSH_ORIGINAL_COMMAND-} in
        *\(Self.versionWord)*)
            echo '\(Self.version) \(program)'
            exit 0
            ;;
        esac
        "$worker" start --directory "$root" --cluster "$(basename -- "$root")" </dev/null >/dev/null || exit
        exec "$worker" bridge --directory "$root"

        """
    }

    /// Sends worker and entry through a login that works.
    ///
    /// - Returns: true when the worker had to be sent.
    /// - Throws: ``RemoteError``, ``FileError``.
    public func install(through login: KeyLogin) throws -> Bool {
        let sent = try login.send(worker.path, to: "\(root)/bin/\(program)", mode: 0o755)
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-entry")
        // What is left behind lies in the system's folder for temporary files.
        defer { try? Files.remove(folder) }
        try Files.writeAtomically(script, to: "\(folder)/coord-entry")
        try login.send("\(folder)/coord-entry", to: "\(root)/bin/coord-entry", mode: 0o755)
        return sent
    }
}
