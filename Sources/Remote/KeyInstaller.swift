internal import Basics
internal import Glibc

/// Puts our public key on a host through a login that works already.
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
    /// With a restriction, other lines of the same key go: one that allows everything would make it void. Without one, a
    /// line that restricts the key stays as it is.
    ///
    /// - Parameters:
    ///   - publicKey: one line, as in a `.pub` file.
    ///   - endpoint: the host.
    ///   - restriction: options in front of the key, as `restrict,command="…"`; nil = an ordinary login.
    ///   - login: the way in.
    /// - Throws: ``RemoteError`` `.keyRefused` when there is no login to use, `.missingTool`, `.badIdentity`.
    public static func install(
        _ publicKey: String,
        on endpoint: SSHEndpoint,
        restriction: String? = nil,
        login: KeyLogin
    ) throws -> Outcome {
        try check(publicKey)
        let line = restriction.map { "\($0) \(publicKey)" } ?? publicKey
        let result = try login.run(
            "line=\(ShellQuoting.quote(line)); only=\(restriction == nil ? "no" : "yes")\n" + script
        )
        if result.exit.isSuccess, result.text.hasSuffix("coord-key-installed") { return .installed }
        if result.exit.isSuccess, result.text.hasSuffix("coord-key-present") { return .present }
        throw RemoteError(
            host: endpoint.name,
            phase: .keys,
            code: .failed,
            message: "cannot install the key on \(endpoint.name): "
                + SSHSession.printable(result.errorText),
            hint: "check the mode and the owner of ~/.ssh there"
        )
    }

    /// Appends `line` when its key is not there; `umask` and `chmod` are what sshd's StrictModes asks.
    static let script = """
        umask 077
        key=$(printf '%s\\n' "$line" | sed -n 's/.*\\(ssh-[a-z0-9]* AAAA[A-Za-z0-9+\\/=]*\\).*/\\1/p')
        [ -n "$key" ] || exit 1
        mkdir -p "$HOME/.ssh" || exit 1
        file=$HOME/.ssh/authorized_keys
        if [ -f "$file" ] && grep -qF -- "$key" "$file"; then
            if [ "$only" = no ] || { grep -qxF -- "$line" "$file" && [ "$(grep -cF -- "$key" "$file")" = 1 ]; }; then
                echo coord-key-present; exit 0
            fi
            kept=$(grep -vF -- "$key" "$file")
            printf '%s\\n' "$kept" > "$file" || exit 1
        fi
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
