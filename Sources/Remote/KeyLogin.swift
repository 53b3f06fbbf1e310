internal import Basics
internal import Glibc

/// A login to a host by the system's `ssh`: the person's own keys, or a password that `ssh` asks for on the terminal.
///
/// For installing our key, when there is no other way in yet. All commands share one login (ControlMaster), so a password
/// is asked for once; we never see it. Not for use by several threads.
public final class KeyLogin {
    private let endpoint: SSHEndpoint
    private let directory: String
    private let arguments: [String]
    private let client: String

    /// Prepares a login; the first command makes it.
    ///
    /// - Parameters:
    ///   - endpoint: the host; its `identity` is not used, since it is what's missing.
    ///   - options: further arguments of `ssh`.
    ///   - client: the ssh program.
    /// - Throws: `FileError`, ``RemoteError`` when `~/.ssh/config` can't be read.
    public init(_ endpoint: SSHEndpoint, options: [String] = [], client: String = "/usr/bin/ssh") throws {
        self.endpoint = endpoint
        self.client = client
        // The host's key counts as known where it counts for us: in our file, or in the person's own.
        let route = try SSHRoute.resolve(endpoint)
        let files = [endpoint.knownHosts] + route.target.knownHostsElsewhere
        // A client that ends before it has read its input.
        PipeSignal.ignore()
        directory = try Files.makeTemporaryDirectory(prefix: "coord-login")
        var words = [
            "-o", "UserKnownHostsFile=" + files.map { "\"\($0)\"" }.joined(separator: " "),
            "-o", "StrictHostKeyChecking=yes", "-o", "HashKnownHosts=no", "-o", "ConnectTimeout=20",
            "-o", "ControlMaster=auto", "-o", "ControlPath=\(directory)/master", "-o", "ControlPersist=yes",
        ]
        if let file = endpoint.configFile { words += ["-F", file] }
        if let port = endpoint.port { words += ["-p", String(port)] }
        if let user = endpoint.user { words += ["-l", user] }
        arguments = words + options
    }

    deinit { close() }

    /// Runs a command there under `/bin/sh`.
    ///
    /// - Parameters:
    ///   - input: a file here that becomes its standard input; nil = none.
    /// - Throws: ``RemoteError`` `.keyRefused` when there is no login to use, `.missingTool`; `FileError`.
    public func run(_ command: String, input: String? = nil) throws -> CommandResult {
        let output = "\(directory)/output"
        let errors = "\(directory)/errors"
        // Files, not pipes: the login that stays behind for the next command may keep our descriptors open.
        for file in [output, errors] { try Files.writeAtomically("", to: file, mode: 0o600) }
        let descriptors = [
            input.map { open($0, O_RDONLY | O_CLOEXEC) } ?? -1, open(output, O_WRONLY | O_CLOEXEC),
            open(errors, O_WRONLY | O_CLOEXEC),
        ]
        defer { for descriptor in descriptors where descriptor >= 0 { systemClose(descriptor) } }
        if let input, descriptors[0] < 0 { throw FileError(.read, input, errno: errno) }
        let exit: ProcessExit
        do {
            let words = [client] + arguments + ["--", endpoint.address, SSHCommand.plain(command)]
            exit = try ChildProcess(words, files: descriptors).wait()
        } catch {
            throw RemoteError(
                host: endpoint.name,
                phase: .keys,
                code: .missingTool,
                message: "\(client) could not be started",
                hint: "install the OpenSSH client (`apt-get install openssh-client`)"
            )
        }
        let result = CommandResult(
            exit: exit,
            output: try Files.read(output, limit: 1 << 20),
            errors: try Files.read(errors, limit: 1 << 20)
        )
        guard exit != .exited(255) else {
            throw RemoteError(
                host: endpoint.name,
                phase: .keys,
                code: .keyRefused,
                message: "there is no login on \(endpoint.name) to install the key with: "
                    + SSHSession.printable(result.errorText),
                hint: "log in once by hand with `ssh`, or add the line of the .pub file to "
                    + "~/.ssh/authorized_keys there"
            )
        }
        return result
    }

    /// Sends a file, unless one with that content is there.
    ///
    /// - Parameters:
    ///   - path: the file here.
    ///   - target: where it goes; `~/` at the start is the home folder there.
    ///   - mode: permission bits there.
    /// - Returns: true when it was sent.
    /// - Throws: ``RemoteError``, `FileError`.
    @discardableResult
    public func send(_ path: String, to target: String, mode: UInt32) throws -> Bool {
        let digest = Digest(of: try Files.read(path)).hex
        let there = ShellQuoting.path(target)
        let bits = String(mode & 0o7777, radix: 8)
        let check = "[ \"$(sha256sum < \(there) | cut -c 1-64)\" = \(digest) ]"
        let present = try run("[ -f \(there) ] && \(check) && chmod \(bits) \(there)")
        if present.exit.isSuccess { return false }
        let folder = ShellQuoting.path(Files.parent(target))
        let spot = ShellQuoting.path("\(target).new-\(Digest.hex(Sealing.randomBytes(6)))")
        // noclobber: whatever somebody put in the way is not followed and not overwritten.
        let sent = try run(
            """
            umask 077; set -C
            mkdir -p \(folder) && cat > \(spot) || exit 1
            [ "$(sha256sum < \(spot) | cut -c 1-64)" = \(digest) ] && chmod \(bits) \(spot) && mv -f \(spot) \(there) ||
                { rm -f \(spot); exit 1; }
            """,
            input: path
        )
        guard sent.exit.isSuccess else {
            throw RemoteError(
                host: endpoint.name,
                phase: .upload,
                code: .failed,
                message: "cannot send \(path) to \(endpoint.name):\(target): "
                    + SSHSession.printable(sent.errorText),
                hint: "check the free space and the folder's mode on \(endpoint.name)"
            )
        }
        return true
    }

    /// Ends the login.
    public func close() {
        if Files.kind("\(directory)/master") != nil {
            _ = try? ChildProcess(
                [client] + arguments + ["-O", "exit", "--", endpoint.address],
                files: [-1, -1, -1]
            ).wait()
        }
        // What is left behind lies in the system's folder for temporary files.
        try? Files.remove(directory)
    }
}

// Inside the class the name `close` is ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
