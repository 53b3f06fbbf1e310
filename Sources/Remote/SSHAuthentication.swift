public import Basics
internal import CSSH
internal import Glibc

/// What somebody is asked about an encrypted key.
public struct PassphraseQuestion: Sendable, Equatable {
    /// The host's name in the cluster file.
    public var host: String
    /// The key's file.
    public var path: String
    /// 1 at first; more when the words before did not fit.
    public var attempt: Int

    /// All fields.
    public init(host: String, path: String, attempt: Int) {
        self.host = host
        self.path = path
        self.attempt = attempt
    }
}

/// Asks for a passphrase; nil = nobody knows it.
///
/// Called after the host has said that it would accept the key, on the thread that connects.
public typealias PassphraseSource = @Sendable (PassphraseQuestion) -> Redacted<String>?

extension SSHSession {
    /// Proves who we are, with the keys of ``IdentityPlan``.
    ///
    /// - Parameters:
    ///   - passphrase: asked for encrypted keys.
    ///   - timeout: begins anew when somebody has said a passphrase.
    /// - Throws: ``RemoteError`` `.keyRefused`, `.badIdentity`, `.passphraseNeeded`, `.timedOut`.
    func authenticate(passphrase: PassphraseSource?, timeout: Duration, deadline: Deadline) throws {
        let none = try perform(.authenticate, deadline: deadline) { ssh_userauth_none(handle, nil) }
        if none == Int32(SSH_AUTH_SUCCESS.rawValue) { return }
        guard none != Int32(SSH_AUTH_ERROR.rawValue) else { throw lost(.authenticate) }
        let methods = Self.methods(ssh_userauth_list(handle, nil))
        var tried: [String] = []
        guard methods.contains("publickey") else { throw refused(tried, methods) }
        var files: [IdentityPlan.KeyFile] = []
        for path in endpoint.identities {
            do {
                if let file = try keyFile(path) { files.append(file) }
            } catch let error as RemoteError where !endpoint.hasExplicitIdentity {
                tried.append("\(path) (not usable: \(error.message))")
            }
        }
        let needsAgent = !endpoint.hasExplicitIdentity || files.contains { $0.half != .plain }
        let agent =
            needsAgent
            ? endpoint.agentSocket.flatMap {
                KeyAgent(socket: $0, deadline: deadline.limited(to: .seconds(5)))
            }
            : nil
        defer { agent?.close() }
        let offers = IdentityPlan.offers(
            files: files,
            agent: agent?.keys ?? [],
            isExplicit: endpoint.hasExplicitIdentity,
            identitiesOnly: endpoint.identitiesOnly
        )
        if offers.isEmpty, let file = files.first(where: { $0.half == .missing }) {
            throw badIdentity(
                "\(file.path) is a public key, and no agent has its private half",
                "load the private key into the agent with `ssh-add`"
            )
        }
        if offers.contains(where: { if case .agent = $0 { true } else { false } }),
            let window = agent?.serve(deadline: deadline)
        {
            ssh_set_agent_socket(handle, window)
        }
        for offer in offers where !isBroken {
            let result: Int32
            switch offer {
            case .agent(let key):
                agent?.show(key)
                tried.append("the agent's key \(key.fingerprint)")
                result = try perform(.authenticate, deadline: deadline) { ssh_userauth_agent(handle, nil) }
            case .file(let path):
                result = try offerFile(path, deadline, &tried)
            case .locked(let path, let key):
                if let key, try !wouldAccept(key, deadline) {
                    tried.append("\(path) (\(key.fingerprint))")
                    continue
                }
                let own = try unlock(path, asking: passphrase)
                defer { ssh_key_free(own) }
                result = try present(own, path, Deadline(after: timeout), &tried)
            }
            if result == Int32(SSH_AUTH_SUCCESS.rawValue) { return }
            if result == Int32(SSH_AUTH_PARTIAL.rawValue) {
                tried.append("nothing, but wants a second proof beside the key, which is not supported")
                break
            }
        }
        throw refused(tried, methods)
    }

    /// What a key file tells before it is used; nil for one of ssh's default names that is not there.
    private func keyFile(_ path: String) throws -> IdentityPlan.KeyFile? {
        let beside = PrivateKeyFile.publicKey(beside: path)
        guard Files.kind(path) != nil else {
            if beside != nil { return IdentityPlan.KeyFile(path: path, publicKey: beside, half: .missing) }
            guard endpoint.hasExplicitIdentity else { return nil }
            throw badIdentity(
                "cannot read the key \(path): \(SystemError.text(ENOENT))",
                "create it with `coord keys bootstrap`, or correct `identity:` in the cluster file"
            )
        }
        let text: String
        do {
            text = try Files.readText(path, limit: 1 << 20)
        } catch {
            throw badIdentity(
                "cannot read the key \(path)",
                "check its owner and mode, or correct `identity:` in the cluster file"
            )
        }
        guard let file = PrivateKeyFile(text: text) else {
            if let key = PrivateKeyFile.publicKey(text: text) {
                return IdentityPlan.KeyFile(path: path, publicKey: key, half: .missing)
            }
            throw badIdentity(
                "\(path) is not a private key in OpenSSH's format or PEM",
                "correct `identity:` in the cluster file, or make a key with `coord keys bootstrap`"
            )
        }
        try checkMode(path)
        return IdentityPlan.KeyFile(
            path: path,
            publicKey: file.publicKey ?? beside,
            half: file.isEncrypted ? .encrypted : .plain
        )
    }

    /// Asks whether a key would do, without using it.
    private func wouldAccept(_ key: HostKey, _ deadline: Deadline) throws -> Bool {
        var known: ssh_key?
        defer { ssh_key_free(known) }
        let kind = ssh_key_type_from_name(key.kind)
        // A key that libssh can't read here may still be one that it reads from the file.
        guard ssh_pki_import_pubkey_base64(key.base64, kind, &known) == SSH_OK else { return true }
        let result = try perform(.authenticate, deadline: deadline) {
            ssh_userauth_try_publickey(handle, nil, known)
        }
        return result == Int32(SSH_AUTH_SUCCESS.rawValue)
    }

    private func offerFile(_ path: String, _ deadline: Deadline, _ tried: inout [String]) throws -> Int32 {
        guard let key = Self.readKey(path, nil) else {
            throw badIdentity(
                "\(path) is damaged, or a kind of key that is not supported",
                "make a key with `coord keys bootstrap` (ed25519), or use one of the kinds ed25519, ecdsa, rsa"
            )
        }
        defer { ssh_key_free(key) }
        return try present(key, path, deadline, &tried)
    }

    private func present(
        _ key: ssh_key,
        _ path: String,
        _ deadline: Deadline,
        _ tried: inout [String]
    ) throws -> Int32 {
        tried.append("\(path) (\(Self.fingerprint(key)))")
        return try perform(.authenticate, deadline: deadline) { ssh_userauth_publickey(handle, nil, key) }
    }

    /// Asks for the passphrase of a key until it fits, three times at most; the caller frees the key.
    private func unlock(_ path: String, asking passphrase: PassphraseSource?) throws -> ssh_key {
        for attempt in 1...3 {
            let question = PassphraseQuestion(host: endpoint.host, path: path, attempt: attempt)
            guard let words = passphrase?(question) else {
                let what =
                    attempt == 1
                    ? "the key \(path) needs its passphrase" : "the passphrase does not fit the key \(path)"
                throw passphraseNeeded(what, path)
            }
            if let key = Self.readKey(path, words) { return key }
        }
        throw passphraseNeeded("the passphrase does not fit the key \(path)", path)
    }

    /// A private key of a file; nil when it can't be read so.
    private static func readKey(_ path: String, _ passphrase: Redacted<String>?) -> ssh_key? {
        var key: ssh_key?
        // Without a callback OpenSSL would ask on the terminal.
        let silent: ssh_auth_callback = { _, _, _, _, _, _ in -1 }
        guard ssh_pki_import_privkey_file(path, passphrase?.value, silent, nil, &key) == SSH_OK else {
            return nil
        }
        return key
    }

    private func checkMode(_ path: String) throws {
        var info = stat()
        guard stat(path, &info) == 0, info.st_mode & 0o077 != 0 else { return }
        throw badIdentity(
            "the key \(path) may be read by others (mode 0\(String(info.st_mode & 0o777, radix: 8)))",
            "run `chmod 600 \(ShellQuoting.quote(path))`"
        )
    }

    private func badIdentity(_ message: String, _ hint: String) -> RemoteError {
        RemoteError(
            host: endpoint.host,
            phase: .authenticate,
            code: .badIdentity,
            message: "\(message) (for \(endpoint.name), \(endpoint.login))",
            hint: hint
        )
    }

    private func passphraseNeeded(_ message: String, _ path: String) -> RemoteError {
        RemoteError(
            host: endpoint.host,
            phase: .authenticate,
            code: .passphraseNeeded,
            message: "\(message) (for \(endpoint.name), \(endpoint.login))",
            hint: "load it into the agent with `ssh-add \(ShellQuoting.quote(path))`, "
                + "or run `coord up` at a terminal, which asks for it"
        )
    }

    private func refused(_ tried: [String], _ methods: [String]) -> RemoteError {
        let keys =
            !methods.contains("publickey")
            ? "it takes no keys"
            : tried.isEmpty ? "no key was found to offer" : "it refused " + tried.joined(separator: ", ")
        let accepts = methods.isEmpty ? "nothing" : methods.joined(separator: ", ")
        let broke = isBroken ? "; then it hung up: \(reason)" : ""
        return RemoteError(
            host: endpoint.host,
            phase: .authenticate,
            code: .keyRefused,
            message: "\(endpoint.name) does not let user \(endpoint.user) in at \(endpoint.place): \(keys); "
                + "it accepts \(accepts)\(broke)",
            hint: isBroken && tried.count > 1
                ? "it hangs up after a few wrong keys (MaxAuthTries): name the right one with `identity:`"
                : "check `user:` and `identity:`, or install the key with `coord keys bootstrap`"
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
