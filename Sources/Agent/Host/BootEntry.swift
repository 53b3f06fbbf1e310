/// What starts an agent when its machine is started: a systemd user unit, or a crontab line.
///
/// A pure value: texts go in and come out.
struct BootEntry: Hashable, Sendable {
    /// The agent's folder, absolute.
    var root: String
    var cluster: String
    /// The worker program, absolute.
    var program: String

    var unitName: String { "coord-agent-\(cluster).service" }

    /// The unit.
    ///
    /// It runs `start`, which finds an agent that runs and leaves it alone: so a unit never fights with `coord up`
    /// about which build is to run. `KillMode=process` lets the agent outlive the unit that started it, and
    /// `OOMPolicy=continue` lets it outlive a trainer that the kernel killed for its memory.
    var unit: String {
        """
        [Unit]
        Description=coord agent of cluster \(cluster)

        [Service]
        Type=oneshot
        ExecStart=\(Self.systemd(program)) start --directory \(Self.systemd(root)) --cluster \(Self.systemd(cluster))
        KillMode=process
        OOMPolicy=continue

        [Install]
        WantedBy=default.target

        """
    }

    /// The crontab line.
    var cronLine: String {
        let command =
            "\(Self.shell(program)) start --directory \(Self.shell(root)) --cluster \(Self.shell(cluster))"
        return "@reboot \(command.replacing("%", with: "\\%")) \(cronMark)"
    }

    private var cronMark: String { "# coord agent of cluster \(cluster)" }

    /// A crontab with our line once; all other lines stay as they are.
    func added(to crontab: String) -> String {
        var text = removed(from: crontab)
        if !text.isEmpty, !text.hasSuffix("\n") { text += "\n" }
        return text + cronLine + "\n"
    }

    /// A crontab without our line.
    func removed(from crontab: String) -> String {
        crontab.split(separator: "\n", omittingEmptySubsequences: false)
            .filter { !($0.hasPrefix("@reboot ") && $0.hasSuffix(cronMark)) }
            .joined(separator: "\n")
    }

    /// A word of `ExecStart=`: quoted, its specifiers and variables taken as they stand.
    static func systemd(_ word: String) -> String {
        let escaped = word.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"")
            .replacing("%", with: "%%").replacing("$", with: "$$")
        return "\"\(escaped)\""
    }

    /// A word of a shell command.
    static func shell(_ word: String) -> String { "'" + word.replacing("'", with: "'\\''") + "'" }
}
