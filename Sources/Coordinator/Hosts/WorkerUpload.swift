internal import Basics
internal import Remote

/// Brings the worker program to a host by nothing but its shell, before anything of ours runs there.
///
/// It goes in parts, each with its SHA-256, into a file beside the program; after a cut, also of an earlier try, what is
/// there and right is not sent again. Only the whole, verified file takes the program's name.
struct WorkerUpload {
    /// Sent at a time, and what a cut costs at most; unit: bytes.
    static let partSize = 4 << 20
    /// So often in a row a connection may break without anything having arrived.
    private static let patience = 4
    /// How long not a byte may get on before a connection counts as broken, however slow it is.
    private static let silence = Duration.seconds(60)

    let host: any Host
    let worker: WorkerBinary
    /// Where it goes, as the host's shell sees it.
    let program: String

    private var part: String { ShellQuoting.path(program + ".part") }
    private var target: String { ShellQuoting.path(program) }

    /// What a shell knows to hash its input with.
    private static let hash = """
        hash() { sha256sum 2>/dev/null || shasum -a 256 2>/dev/null || openssl dgst -sha256 -r; }
        """

    /// - Parameter progress: told what is there whenever that was looked at and has become more.
    /// - Throws: ``CoordinatorError``, `RemoteError`, `FileError`.
    func run(progress: (ByteCount) -> Void) throws {
        let bytes = try Files.read(worker.path)
        guard Digest(of: bytes) == worker.digest else {
            throw CoordinatorError(
                "\(worker.path) was built again while it was being sent",
                hint: "run coord up again"
            )
        }
        var failures = 0
        var most = 0
        while true {
            var arrived = false
            do {
                return try send(bytes) { count in
                    // Also what was cut off within a part is there when the next try looks.
                    guard count > most else { return }
                    arrived = true
                    most = count
                    progress(ByteCount(count))
                }
            } catch let error as RemoteError where error.exitCode == .unreachable {
                failures = arrived ? 1 : failures + 1
                guard failures < Self.patience else { throw error }
                OSThread.pause(seconds: 0.1 * Double(1 << (2 * (failures - 1))))
            }
        }
    }

    private func send(_ bytes: [UInt8], arrived: (Int) -> Void) throws {
        var offset = try resume(bytes)
        if offset > 0 { arrived(offset) }
        while offset < bytes.count {
            let piece = Array(bytes[offset..<min(offset + Self.partSize, bytes.count)])
            // The count is checked there: what an older connection still wrote must not be written behind.
            let result = try host.run(
                """
                \(Self.hash)
                [ "$(wc -c < \(part))" -eq \(offset) ] || { echo 'the file has another size' >&2; exit 1; }
                cat >> \(part) && tail -c +\(offset + 1) \(part) | hash
                """,
                input: piece,
                silence: Self.silence
            )
            guard result.exit.isSuccess else { throw failure(result.errorText) }
            guard Digest(hex: result.text.prefix(64)) == Digest(of: piece) else {
                _ = try host.run("rm -f \(part)")
                throw failure("a part arrived with another SHA-256")
            }
            offset += piece.count
            arrived(offset)
        }
        let moved = try host.run(
            """
            \(Self.hash)
            h=$(hash < \(part)) || exit 1
            [ "${h%% *}" = \(worker.digest) ] || { rm -f \(part); echo 'the whole has another SHA-256' >&2; exit 1; }
            chmod 755 \(part) && { sync \(part) 2>/dev/null || :; } && mv -f \(part) \(target)
            """
        )
        guard moved.exit.isSuccess else { throw failure(moved.errorText) }
    }

    /// Where to go on: behind what is there and right.
    private func resume(_ bytes: [UInt8]) throws -> Int {
        let folder = ShellQuoting.path(Files.parent(program))
        let result = try host.run(
            """
            \(Self.hash)
            umask 077
            if [ -d \(target) ]; then echo 'the target is a folder' >&2; exit 1; fi
            mkdir -p \(folder) || exit 1
            if [ -L \(part) ] || [ ! -f \(part) ]; then rm -rf \(part); : > \(part) || exit 1; fi
            echo $(($(wc -c < \(part)))); hash < \(part)
            """
        )
        let words = result.text.split(whereSeparator: \.isWhitespace)
        guard result.exit.isSuccess else { throw failure(result.errorText) }
        guard words.count >= 2, let size = Int(words[0]) else {
            throw failure("its shell cannot say what arrived (\(ForeignText.line(result.text, limit: 60)))")
        }
        if size <= bytes.count, Digest(hex: words[1]) == Digest(of: Array(bytes[..<size])) { return size }
        let emptied = try host.run(": > \(part)")
        guard emptied.exit.isSuccess else { throw failure(emptied.errorText) }
        return 0
    }

    private func failure(_ why: String) -> CoordinatorError {
        CoordinatorError(
            "\(host.name): the worker cannot be sent to \(program): \(why)",
            hint: "check the free space and the folder's mode on \(host.name), then run coord up again",
            exitCode: .cannotWrite
        )
    }
}
