internal import Basics
internal import Glibc

/// Puts our public key on a host through a login that works already: the user's own keys, or a password once.
///
/// It runs the system's `ssh`, which asks for passwords on the terminal; we never see them.
public enum KeyInstaller {
    /// What became of the key.
    public enum Outcome: Sendable {
        /// It stands in `authorized_keys` now.
        case installed
        /// It stood there before.
        case present
    }

    /// Adds a public key to a host's `authorized_keys`, once.
    ///
    /// - Parameters:
    ///   - publicKey: one line, as in a `.pub` file.
    ///   - endpoint: the host; its `identity` is not used, since it is what's missing.
    ///   - restriction: options in front of the key, as `restrict,command="…"`; nil = an ordinary login.
    ///   - options: further arguments of `ssh`.
    ///   - client: the ssh program.
    /// - Throws: ``RemoteError`` `.keyRefused` when there is no login to use, `.missingTool`, `.badIdentity`.
    public static func install(
        _ publicKey: String,
        on endpoint: SSHEndpoint,
        restriction: String? = nil,
        options: [String] = [],
        client: String = "/usr/bin/ssh"
    ) throws -> Outcome {
        try check(publicKey)
        // A client that ends before it has read the key.
        PipeSignal.ignore()
        var arguments = [
            client, "-o", "UserKnownHostsFile=\(endpoint.knownHosts)", "-o", "StrictHostKeyChecking=yes",
        ]
        // Debian hides names in the file; ours stays readable.
        arguments += ["-o", "HashKnownHosts=no", "-o", "ConnectTimeout=20"]
        if let port = endpoint.port { arguments += ["-p", String(port)] }
        if let user = endpoint.user { arguments += ["-l", user] }
        arguments += options + ["--", endpoint.address, SSHCommand.plain(script)]
        let line = restriction.map { "\($0) \(publicKey)" } ?? publicKey
        let result: (exit: ProcessExit, output: [UInt8], errors: [UInt8])
        do {
            result = try ChildProcess.run(arguments, input: Array((line + "\n").utf8))
        } catch {
            throw RemoteError(
                host: endpoint.name,
                phase: .keys,
                code: .missingTool,
                message: "\(client) could not be started",
                hint: "install the OpenSSH client (`apt-get install openssh-client`)"
            )
        }
        let answer = String(decoding: result.output, as: UTF8.self)
        if result.exit.isSuccess, answer.contains("coord-key-installed") { return .installed }
        if result.exit.isSuccess, answer.contains("coord-key-present") { return .present }
        throw RemoteError(
            host: endpoint.name,
            phase: .keys,
            code: result.exit == .exited(255) ? .keyRefused : .failed,
            message: "cannot install the key on \(endpoint.name): "
                + SSHSession.printable(String(decoding: result.errors, as: UTF8.self)),
            hint:
                "log in once by hand with `ssh`, or add the line of the .pub file to ~/.ssh/authorized_keys there"
        )
    }

    /// Reads a line and appends it when its key is not there; `umask` and `chmod` are what sshd's StrictModes asks.
    static let script = """
        umask 077
        IFS= read -r line || exit 1
        key=$(printf '%s\\n' "$line" | sed -n 's/.*\\(ssh-[a-z0-9]* AAAA[A-Za-z0-9+\\/=]*\\).*/\\1/p')
        [ -n "$key" ] || exit 1
        mkdir -p "$HOME/.ssh" || exit 1
        file=$HOME/.ssh/authorized_keys
        if [ -f "$file" ] && grep -qF -- "$key" "$file"; then echo coord-key-present; exit 0; fi
        if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >> "$file" || exit 1; fi
        printf '%s\\n' "$line" >> "$file" && chmod 600 "$file" && echo coord-key-installed
        """

    /// Refuses what is no single public key: a line break would smuggle a second line in.
    static func check(_ publicKey: String) throws {
        let fields = publicKey.split(separator: " ")
        guard !publicKey.contains(where: \.isNewline), fields.count >= 2,
            let key = HostKey(base64: fields[1]),
            key.kind == fields[0]
        else {
            throw RemoteError(
                host: "this machine",
                phase: .keys,
                code: .badIdentity,
                message: "this is not a public key in one line: \(publicKey.prefix(30))…"
            )
        }
    }
}
