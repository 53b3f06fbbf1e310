internal import Basics
internal import Remote
internal import Wire

/// Keys that let hosts reach another one where their links meet: made for one run, good for relayed streams alone.
struct HubKeys: Sendable {
    let run: RunID
    let attempt: Int
    let cluster: String

    /// Stands behind each key in `authorized_keys`, so that it is found again.
    ///
    /// The full stop keeps attempt 1 from matching attempt 10.
    private var comment: String { "coord-relay-\(cluster)-\(run)-\(attempt)." }

    /// Makes a key for `spoke` and lets it in on the hub.
    ///
    /// - Parameters:
    ///   - address: numeric, where the spoke's ssh dials the hub.
    /// - Throws: `RemoteError`, ``CoordinatorError``, `FileError`.
    func admit(
        _ spoke: String,
        to hub: HostSession,
        address: String,
        port: UInt16,
        hostKeys: [HostKey]
    ) throws -> HubAccess {
        let folder = try Files.makeTemporaryDirectory(prefix: "coord-hub")
        defer { try? Files.remove(folder) }
        let pair = try KeyPair.create(folder + "/key", comment: comment)
        let command = hub.relayCommand(peer: spoke)
            .replacing("\\", with: "\\\\").replacing("\"", with: "\\\"")
        let line = "restrict,command=\"\(command)\" \(pair.publicKey)\n"
        let result = try hub.command(Self.admission, input: Array(line.utf8))
        guard result.exit.isSuccess, let user = result.text.split(whereSeparator: \.isNewline).last else {
            throw CoordinatorError("\(hub.name): cannot let \(spoke) in: \(result.errorText)")
        }
        return HubAccess(
            hub: hub.name,
            address: address,
            port: port,
            user: String(user),
            hostKeys: hostKeys.map { "\($0.kind) \($0.base64)" },
            key: WireSecret(try Files.read(folder + "/key"))
        )
    }

    /// Takes the run's keys out of the hub's `authorized_keys`.
    func dismiss(from hub: HostSession) throws {
        _ = try hub.command(Self.dismissal, input: Array((comment + "\n").utf8))
    }

    /// Appends the line that comes on standard input, and prints the user's name; umask as sshd's StrictModes asks.
    private static let admission = """
        umask 077
        IFS= read -r line || exit 1
        mkdir -p "$HOME/.ssh" || exit 1
        file=$HOME/.ssh/authorized_keys
        if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >> "$file" || exit 1; fi
        printf '%s\\n' "$line" >> "$file" && chmod 600 "$file" && id -un
        """

    /// Removes the lines that end with the comment on standard input.
    ///
    /// The new text is complete before it takes the old one's place: a full disk must not lock anybody out.
    private static let dismissal = """
        umask 077
        IFS= read -r comment || exit 1
        file=$HOME/.ssh/authorized_keys
        [ -f "$file" ] || exit 0
        grep -qF -- " $comment" "$file" || exit 0
        grep -vF -- " $comment" "$file" > "$file.coord-new" || [ ! -s "$file.coord-new" ] || exit 1
        chmod 600 "$file.coord-new" && mv "$file.coord-new" "$file"
        """
}
