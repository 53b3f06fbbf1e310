public import Basics
internal import Glibc

extension SSHHost {
    /// How long an upload may stand still.
    private static let stall = Duration.seconds(60)

    /// Sends a file and checks that it arrived; see ``Host/upload(_:to:mode:progress:)``.
    ///
    /// The bytes go to a new file beside the target, whose SHA-256 the host tells; only then it takes the name.
    ///
    /// - Cost: one read of the file here, one write and one read there, two commands.
    @discardableResult
    public func upload(
        _ path: String,
        to remotePath: String,
        mode: UInt32,
        progress: (@Sendable (ByteCount) -> Void)?
    ) throws -> Digest {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw FileError(.read, path, errno: errno) }
        defer { systemClose(file) }
        let slash = remotePath.lastIndex(of: "/")
        let folder = slash.map { $0 == remotePath.startIndex ? "/" : String(remotePath[..<$0]) } ?? "."
        let tail = slash.map { String(remotePath[remotePath.index(after: $0)...]) } ?? remotePath
        let spot = "\(folder)/.\(tail.prefix(100)).coord-\(Digest.hex(Sealing.randomBytes(6)))"
        let target = ShellQuoting.path(remotePath)
        let temporary = ShellQuoting.path(spot)
        var digest = DigestBuilder()
        var sent: Int64 = 0
        do {
            // noclobber: whatever somebody put in the way is not followed and not overwritten.
            let received = try exchange(
                """
                umask 077; set -C
                if [ -d \(target) ]; then echo 'the target is a folder' >&2; exit 1; fi
                mkdir -p \(ShellQuoting.path(folder)) && cat > \(temporary) || exit 1
                sha256sum < \(temporary) || shasum -a 256 < \(temporary) || openssl dgst -sha256 -r < \(temporary)
                """,
                deadline: Deadline(after: Self.stall),
                stall: Self.stall
            ) { buffer in
                try Self.fill(&buffer, from: file, path: path)
                digest.update(buffer)
                sent += Int64(buffer.count)
                if !buffer.isEmpty { progress?(ByteCount(sent)) }
            }
            let ours = digest.finish()
            guard received.exit.isSuccess else {
                throw failure(.failed, path, remotePath, received.errorText)
            }
            guard let theirs = Digest(hex: received.text.prefix(64)), theirs == ours else {
                throw failure(
                    .digestMismatch,
                    path,
                    remotePath,
                    "it arrived as \(received.text.prefix(64)), not \(ours)"
                )
            }
            let moved = try run(
                """
                chmod \(String(mode & 0o7777, radix: 8)) \(temporary) || exit 1
                sync \(temporary) 2>/dev/null
                mv -f \(temporary) \(target)
                """
            )
            guard moved.exit.isSuccess else { throw failure(.failed, path, remotePath, moved.errorText) }
            return ours
        } catch {
            // Best effort: the host may be gone.
            _ = try? run("rm -f \(temporary)", input: [], timeout: .seconds(5))
            throw error
        }
    }

    private func failure(
        _ code: RemoteError.Code,
        _ path: String,
        _ target: String,
        _ why: String
    ) -> RemoteError {
        RemoteError(
            host: name,
            phase: .upload,
            code: code,
            message: "cannot send \(path) to \(name):\(target): \(SSHSession.printable(why))",
            hint: code == .failed ? "check the free space and the folder's mode on \(name)" : "try again"
        )
    }

    private static func fill(_ buffer: inout [UInt8], from file: Int32, path: String) throws {
        let size = 256 << 10
        buffer = try [UInt8](unsafeUninitializedCapacity: size) { target, count in
            while true {
                let n = systemRead(file, target.baseAddress, size)
                if n < 0, errno == EINTR { continue }
                guard n >= 0 else { throw FileError(.read, path, errno: errno) }
                count = n
                return
            }
        }
    }
}

// Inside the extension the names `close` and `read` are ours.
private func systemClose(_ descriptor: Int32) { close(descriptor) }
private func systemRead(_ descriptor: Int32, _ target: UnsafeMutableRawPointer?, _ count: Int) -> Int {
    read(descriptor, target, count)
}
