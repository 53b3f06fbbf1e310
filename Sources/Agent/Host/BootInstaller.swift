internal import Basics
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Sees to it that an agent comes back after a reboot, where the user wants it and the host allows it.
///
/// A systemd user unit with lingering, else a crontab line `@reboot`, else nothing, with the reason.
struct BootInstaller: Sendable {
    var home = Machine.home
    /// Folders of programs.
    var path =
        (Machine.environment("PATH") ?? "").split(separator: ":").map(String.init) + [
            "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin",
        ]
    /// There when systemd is the machine's first process.
    var systemdFolder = "/run/systemd/system"
    /// Where the user's systemd listens.
    var runtimeFolder = "/run/user/\(getuid())"
    /// True when somebody reads crontabs.
    var isCronRunning: @Sendable () -> Bool = { BootInstaller.findCron() }

    private var unitFolder: String { home + "/.config/systemd/user" }

    // MARK: Installing

    /// Makes the entry, or finds it made.
    func install(_ entry: BootEntry, before: BootStatus?) -> BootStatus {
        let unit = installUnit(entry, madeLingerBefore: before?.madeLinger ?? false)
        if case .success(var status) = unit {
            // It is started by the unit from then on, and the session's end is none of its business.
            status.logout = nil
            return status
        }
        let cron = installCron(entry)
        let logout = logoutReason()
        guard case .failure(let noUnit) = unit, case .failure(let noCron) = cron else {
            return BootStatus(.cron, detail: "a crontab line @reboot", logout: logout)
        }
        return BootStatus(.nobody, detail: "\(noUnit.text); \(noCron.text)", logout: logout)
    }

    /// Nothing is wanted: what was made is taken away.
    func none(_ directory: AgentDirectory, cluster: String) -> BootStatus {
        _ = remove(directory, cluster: cluster)
        return BootStatus(.nobody, detail: "boot: none", logout: logoutReason())
    }

    /// Takes away what was made for an agent.
    ///
    /// - Returns: what was removed, and what could not be.
    func remove(_ directory: AgentDirectory, cluster: String) -> (removed: [String], left: [String]) {
        guard let bytes = try? Files.read(directory.boot),
            let status = try? MessageCoding.decode(BootStatus.self, from: bytes)
        else { return ([], []) }
        let entry = BootEntry(root: directory.root, cluster: cluster, program: "")
        defer { try? Files.remove(directory.boot) }
        switch status.starter {
        case .nobody: return ([], [])
        case .unit: return removeUnit(entry, madeLinger: status.madeLinger)
        case .cron:
            do {
                let table = try readCrontab().get()
                try writeCrontab(entry.removed(from: table)).get()
                return (["the crontab line @reboot"], [])
            } catch {
                return ([], ["the crontab line @reboot: \(error.text)"])
            }
        }
    }

    /// Asks the user's systemd to run the entry's unit now: what it starts belongs to no session.
    func startUnit(_ entry: BootEntry) -> Bool { user("start", entry.unitName).isSuccess }

    // MARK: systemd

    private struct Refusal: Error {
        var text: String
    }

    private func installUnit(_ entry: BootEntry, madeLingerBefore: Bool) -> Result<BootStatus, Refusal> {
        guard Files.kind(systemdFolder) == .directory else { return .failure(Refusal(text: "no systemd")) }
        let manager = user("show-environment")
        guard manager.isSuccess else {
            return .failure(Refusal(text: "no systemd of the user (\(manager.text))"))
        }
        do {
            try Files.createDirectory(unitFolder)
            try Files.writeAtomically(entry.unit, to: unitFolder + "/" + entry.unitName)
        } catch {
            return .failure(Refusal(text: "no unit can be written (\(error))"))
        }
        let steps = [["daemon-reload"], ["enable", entry.unitName]]
        for step in steps {
            let result = user(step)
            guard result.isSuccess else {
                _ = removeUnit(entry, madeLinger: false)
                return .failure(Refusal(text: "systemctl --user \(step[0]): \(result.text)"))
            }
        }
        let lingers = run("loginctl", ["show-user", "\(getuid())", "-p", "Linger"]).text.contains(
            "Linger=yes"
        )
        if !lingers {
            let made = run("loginctl", ["enable-linger", "\(getuid())"])
            guard made.isSuccess else {
                _ = removeUnit(entry, madeLinger: false)
                return .failure(Refusal(text: "lingering is not allowed (\(made.text))"))
            }
        }
        return .success(
            BootStatus(.unit, detail: entry.unitName, madeLinger: !lingers || madeLingerBefore)
        )
    }

    private func removeUnit(_ entry: BootEntry, madeLinger: Bool) -> (removed: [String], left: [String]) {
        var removed: [String] = []
        var left: [String] = []
        // One that was never enabled says so; the file is what counts.
        _ = user("disable", entry.unitName)
        do {
            try Files.remove(unitFolder + "/" + entry.unitName)
            removed.append("the unit \(entry.unitName)")
        } catch {
            left.append("\(error)")
        }
        _ = user("daemon-reload")
        let others = ((try? Files.list(unitFolder)) ?? []).contains { $0.hasPrefix("coord-agent-") }
        if madeLinger, !others {
            if run("loginctl", ["disable-linger", "\(getuid())"]).isSuccess {
                removed.append("lingering")
            } else {
                left.append("lingering")
            }
        }
        return (removed, left)
    }

    /// Why the agent ends with the session that started it; nil when it does not.
    func logoutReason() -> String? {
        guard Files.kind(systemdFolder) == .directory else { return nil }
        let answer = run("loginctl", ["show-session", "-p", "KillUserProcesses"])
        return answer.text.contains("KillUserProcesses=yes")
            ? "logind ends it at logout (KillUserProcesses=yes); boot: auto helps" : nil
    }

    // MARK: cron

    private func installCron(_ entry: BootEntry) -> Result<Void, Refusal> {
        guard isCronRunning() else { return .failure(Refusal(text: "no cron runs")) }
        return readCrontab().flatMap { table in
            let wanted = entry.added(to: table)
            return wanted == table ? .success(()) : writeCrontab(wanted)
        }
    }

    private func readCrontab() -> Result<String, Refusal> {
        let table = run("crontab", ["-l"])
        if table.isSuccess { return .success(table.output) }
        // "no crontab for me": an empty one.
        return table.text.contains("no crontab")
            ? .success("") : .failure(Refusal(text: "crontab: \(table.text)"))
    }

    private func writeCrontab(_ text: String) -> Result<Void, Refusal> {
        let result = text.isEmpty ? run("crontab", ["-r"]) : run("crontab", ["-"], input: text)
        return result.isSuccess ? .success(()) : .failure(Refusal(text: "crontab: \(result.text)"))
    }

    private static func findCron() -> Bool {
        ((try? Files.list("/proc")) ?? []).contains { pid in
            pid.first?.isNumber == true
                && ["cron", "crond", "fcron", "dcron"].contains(
                    ((try? Files.readText("/proc/\(pid)/comm")) ?? "").filter { !$0.isNewline }
                )
        }
    }

    // MARK: Programs

    private struct Answer {
        var isSuccess: Bool
        var output: String
        /// One line of what it said.
        var text: String
    }

    private func user(_ arguments: String...) -> Answer { user(arguments) }

    private func user(_ arguments: [String]) -> Answer { run("systemctl", ["--user"] + arguments) }

    private func run(_ program: String, _ arguments: [String], input: String = "") -> Answer {
        let places: [String] = path.map { $0 + "/" + program }
        guard let found = places.first(where: { Files.kind($0) == .file && access($0, X_OK) == 0 }) else {
            return Answer(isSuccess: false, output: "", text: "no \(program)")
        }
        // A session of sshd that runs one command has not been told where its systemd listens.
        let environment =
            Machine.environment.filter {
                !$0.hasPrefix("XDG_RUNTIME_DIR=") && !$0.hasPrefix("DBUS_SESSION_BUS_ADDRESS=")
            } + [
                "XDG_RUNTIME_DIR=\(runtimeFolder)", "DBUS_SESSION_BUS_ADDRESS=unix:path=\(runtimeFolder)/bus",
            ]
        do {
            let result = try ChildProcess.run(
                [found] + arguments,
                environment: environment,
                input: Array(input.utf8)
            )
            let output = String(decoding: result.output, as: UTF8.self)
            let words = String(decoding: result.errors, as: UTF8.self).split(separator: "\n").first ?? ""
            return Answer(
                isSuccess: result.exit.isSuccess,
                output: output,
                text: String(words.isEmpty ? output.split(separator: "\n").first ?? "\(result.exit)" : words)
            )
        } catch {
            return Answer(isSuccess: false, output: "", text: "\(error)")
        }
    }
}
