internal import Basics
internal import CSSH
internal import Glibc

extension SSHSession {
    /// Proves who we are: the explicit key file, or the agent's keys and then the default files.
    ///
    /// - Throws: ``RemoteError`` `.keyRefused`, `.badIdentity`, `.timedOut`.
    func authenticate(deadline: Deadline) throws {
        let none = try perform(.authenticate, deadline: deadline) { ssh_userauth_none(handle, nil) }
        if none == Int32(SSH_AUTH_SUCCESS.rawValue) { return }
        guard none != Int32(SSH_AUTH_ERROR.rawValue) else { throw lost(.authenticate) }
        let methods = Self.methods(ssh_userauth_list(handle, nil))
        var tried: [String] = []
        guard methods.contains("publickey") else { throw refused(tried, methods) }
        if endpoint.hasExplicitIdentity, let path = endpoint.identities.first {
            if try offer(path, deadline: deadline, tried: &tried) { return }
        } else {
            if getenv("SSH_AUTH_SOCK") != nil {
                tried.append("the agent's keys")
                if try isAccepted(deadline: deadline, { ssh_userauth_agent(handle, nil) }) { return }
            }
            for path in endpoint.identities where Files.kind(path) == .file {
                do {
                    if try offer(path, deadline: deadline, tried: &tried) { return }
                } catch let error as RemoteError where error.code == .badIdentity {
                    tried.append("\(path) (not usable)")
                }
            }
        }
        throw refused(tried, methods)
    }

    private func isAccepted(deadline: Deadline, _ step: () -> Int32) throws -> Bool {
        try perform(.authenticate, deadline: deadline, step) == Int32(SSH_AUTH_SUCCESS.rawValue)
    }

    private func offer(_ path: String, deadline: Deadline, tried: inout [String]) throws -> Bool {
        try checkMode(path)
        var key: ssh_key?
        defer { ssh_key_free(key) }
        // No passphrase and no callback: an encrypted key is an error here, never a question on the terminal.
        guard ssh_pki_import_privkey_file(path, nil, nil, nil, &key) == SSH_OK else {
            throw badIdentity(
                "\(path) is not a private key that can be used without a passphrase",
                "load an encrypted key into the agent (`ssh-add \(ShellQuoting.quote(path))`) and leave `identity:` out"
            )
        }
        tried.append("\(path) (\(Self.fingerprint(key)))")
        return try isAccepted(deadline: deadline) { ssh_userauth_publickey(handle, nil, key) }
    }

    private func checkMode(_ path: String) throws {
        var info = stat()
        guard stat(path, &info) == 0 else {
            throw badIdentity(
                "cannot read the key \(path): \(SystemError.text(errno))",
                "create it with `coord keys bootstrap`, or correct `identity:` in the cluster file"
            )
        }
        guard info.st_mode & 0o077 == 0 else {
            throw badIdentity(
                "the key \(path) may be read by others (mode 0\(String(info.st_mode & 0o777, radix: 8)))",
                "run `chmod 600 \(ShellQuoting.quote(path))`"
            )
        }
    }

    private func badIdentity(_ message: String, _ hint: String) -> RemoteError {
        RemoteError(
            host: endpoint.name,
            phase: .authenticate,
            code: .badIdentity,
            message: "\(message) (for \(endpoint.name), \(endpoint.login))",
            hint: hint
        )
    }

    private func refused(_ tried: [String], _ methods: [String]) -> RemoteError {
        let keys = tried.isEmpty ? "no key was found to offer" : "refused " + tried.joined(separator: ", ")
        let accepts = methods.isEmpty ? "nothing" : methods.joined(separator: ", ")
        let broke = isBroken ? "; then it hung up: \(reason)" : ""
        return RemoteError(
            host: endpoint.name,
            phase: .authenticate,
            code: .keyRefused,
            message: "\(endpoint.name) does not let user \(endpoint.user) in at \(endpoint.place): \(keys); "
                + "it accepts \(accepts)\(broke)",
            hint: "check `user:` and `identity:`, or install the key with `coord keys bootstrap`"
        )
    }

    private static func fingerprint(_ key: ssh_key?) -> String {
        var text: UnsafeMutablePointer<CChar>?
        defer { ssh_string_free_char(text) }
        guard ssh_pki_export_pubkey_base64(key, &text) == SSH_OK, let text,
            let key = HostKey(base64: String(cString: text))
        else { return "unknown kind" }
        return key.fingerprint
    }

    private static func methods(_ bits: Int32) -> [String] {
        [
            ("publickey", SSH_AUTH_METHOD_PUBLICKEY), ("password", SSH_AUTH_METHOD_PASSWORD),
            ("keyboard-interactive", SSH_AUTH_METHOD_INTERACTIVE), ("hostbased", SSH_AUTH_METHOD_HOSTBASED),
            ("gssapi", SSH_AUTH_METHOD_GSSAPI_MIC),
        ].filter { UInt32(bitPattern: bits) & UInt32($0.1) != 0 }.map(\.0)
    }
}
