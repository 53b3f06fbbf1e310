internal import Basics
internal import Glibc

/// The cluster's own key: `keys/coord_ed25519` and its `.pub`.
public struct KeyPair: Sendable {
    /// The private key's file.
    public let path: String
    /// The public key as one line, as it stands in `authorized_keys`.
    public let publicKey: String
    /// True when it was made just now.
    public let isNew: Bool

    /// Makes the key when there is none, with the system's `ssh-keygen`.
    ///
    /// - Parameters:
    ///   - path: the private key's file; its folder is made with mode 0700.
    ///   - comment: stands behind the public key.
    /// - Throws: ``RemoteError`` `.badIdentity` when others may read the file or git tracks it, `.missingTool`;
    ///   `FileError`.
    public static func create(_ path: String, comment: String = "coord") throws -> KeyPair {
        try refuseTracked(path)
        let isNew = Files.kind(path) == nil
        if isNew {
            try Files.createDirectory(Files.parent(path), mode: 0o700)
            let made = try run(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])
            guard made.exit.isSuccess else { throw failure("cannot create \(path)", made.errors) }
        }
        var info = stat()
        guard stat(path, &info) == 0 else { throw FileError(.read, path, errno: errno) }
        guard info.st_mode & 0o077 == 0 else {
            throw RemoteError(
                host: "this machine",
                phase: .keys,
                code: .badIdentity,
                message:
                    "the key \(path) may be read by others (mode 0\(String(info.st_mode & 0o777, radix: 8)))",
                hint: "run `chmod 600 \(ShellQuoting.quote(path))`; if others were here, make a new key"
            )
        }
        if Files.kind(path + ".pub") == nil {
            let derived = try run(["-y", "-P", "", "-f", path])
            guard derived.exit.isSuccess else { throw failure("cannot read \(path)", derived.errors) }
            try Files.writeAtomically(derived.output, to: path + ".pub")
        }
        let text = try Files.readText(path + ".pub", limit: 64 << 10)
        let line = text.split(whereSeparator: \.isNewline).first.map(String.init) ?? ""
        try KeyInstaller.check(line)
        return KeyPair(path: path, publicKey: line, isNew: isNew)
    }

    /// A key that was committed is everybody's.
    private static func refuseTracked(_ path: String) throws {
        let git = "/usr/bin/git"
        guard Files.kind(git) == .file, Files.kind(Files.parent(path)) == .directory,
            let answer = try? ChildProcess.run(
                [git, "ls-files", "--error-unmatch", "--", Files.name(path)],
                directory: Files.parent(path)
            ), answer.exit.isSuccess
        else { return }
        throw RemoteError(
            host: "this machine",
            phase: .keys,
            code: .badIdentity,
            message: "git tracks the private key \(path)",
            hint: "make a new key under another name; this one is known to all who have the repository"
        )
    }

    private static func run(
        _ arguments: [String]
    ) throws -> (exit: ProcessExit, output: [UInt8], errors: [UInt8]) {
        do {
            return try ChildProcess.run(["/usr/bin/ssh-keygen"] + arguments)
        } catch {
            throw RemoteError(
                host: "this machine",
                phase: .keys,
                code: .missingTool,
                message: "ssh-keygen could not be started",
                hint: "install the OpenSSH client (`apt-get install openssh-client`)"
            )
        }
    }

    private static func failure(_ what: String, _ errors: [UInt8]) -> RemoteError {
        RemoteError(
            host: "this machine",
            phase: .keys,
            code: .failed,
            message: "\(what): \(SSHSession.printable(String(decoding: errors, as: UTF8.self)))"
        )
    }
}
