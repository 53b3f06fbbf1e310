import Basics
import CoordTesting
import Foundation
import Testing
import Wire

@testable import Agent

/// Starts a program that was written a moment ago.
///
/// Another test may have forked while it was open for writing; the copy of its descriptor is gone when that child runs.
private func started<Value>(_ body: () throws -> Value) throws -> Value {
    while true {
        do {
            return try body()
        } catch let error as SpawnError where error.errno == ETXTBSY {
            continue
        }
    }
}

@Suite("What starts an agent after a reboot") struct BootEntryTests {
    private let entry = BootEntry(
        root: "/home/me/.coord/ab12",
        cluster: "ab12",
        program: "/home/me/.coord/ab12/bin/coord-worker-77"
    )

    @Test func theUnitStartsTheAgentAndLeavesItAlone() {
        #expect(entry.unitName == "coord-agent-ab12.service")
        #expect(
            entry.unit == """
                [Unit]
                Description=coord agent of cluster ab12

                [Service]
                Type=oneshot
                ExecStart="/home/me/.coord/ab12/bin/coord-worker-77" start --directory "/home/me/.coord/ab12" --cluster "ab12"
                KillMode=process
                OOMPolicy=continue

                [Install]
                WantedBy=default.target

                """
        )
    }

    @Test func wordsOfAUnitAreTakenAsTheyStand() {
        #expect(BootEntry.systemd(#"/a b/100%/$X/"q"\"#) == #""/a b/100%%/$$X/\"q\"\\""#)
    }

    @Test func theCrontabKeepsAllOtherLines() {
        let table = "MAILTO=me\n\n# coord agent of cluster ab12 is fine\n0 3 * * * backup\n"
        let added = entry.added(to: table)
        #expect(added == table + entry.cronLine + "\n")
        #expect(entry.added(to: added) == added)
        #expect(entry.removed(from: added) == table)
        #expect(entry.added(to: "x").hasPrefix("x\n@reboot "))
        let moved = BootEntry(root: entry.root, cluster: "ab12", program: "/other")
        #expect(moved.added(to: added) == table + moved.cronLine + "\n", "one line a cluster")
        #expect(BootEntry(root: "/o", cluster: "b12", program: "/p").removed(from: added) == added)
    }

    @Test func aCrontabLineQuotesForTheShellAndForCron() {
        let odd = BootEntry(root: "/a b/it's 5%", cluster: "c", program: "/p")
        #expect(
            odd.cronLine
                == #"@reboot '/p' start --directory '/a b/it'\''s 5\%' --cluster 'c' # coord agent of cluster c"#
        )
    }

    @Test(.enabled(if: Files.kind("/usr/bin/systemd-analyze") == .file, "needs systemd-analyze"))
    func systemdTakesTheUnit() throws {
        try withTemporaryDirectory { folder throws in
            // It also looks whether the program is there.
            let program = folder + "/coord worker"
            try Files.writeAtomically("#!/bin/sh\n", to: program, mode: 0o755)
            let real = BootEntry(root: folder, cluster: "ab12", program: program)
            let path = folder + "/" + real.unitName
            try Files.writeAtomically(real.unit, to: path)
            let result = try ChildProcess.run(["/usr/bin/systemd-analyze", "verify", "--man=no", path])
            let words = String(decoding: result.errors, as: UTF8.self)
            #expect(result.exit.isSuccess && !words.contains("coord-agent"), "\(words)")
        }
    }
}

@Suite("Installing it where the user wants it", .timeLimit(.minutes(5))) struct BootInstallerTests {
    /// Programs that write down what they are asked, and answer what the test says.
    private struct Lab {
        let folder: String
        let directory: AgentDirectory
        var installer: BootInstaller
        let entry: BootEntry

        init(_ folder: String, systemd: Bool, cron: Bool, scripts: [String: String]) throws {
            self.folder = folder
            for name in ["bin", "home", "systemd", "root"] { try Files.createDirectory(folder + "/" + name) }
            for (name, body) in scripts {
                let text = "#!/bin/sh\necho \(name) \"$@\" >> '\(folder)/asked'\n\(body)\n"
                let path = folder + "/bin/" + name
                try Files.writeAtomically(text, to: path, mode: 0o755)
                _ = try started { try ChildProcess.run([path]) }
            }
            try Files.remove(folder + "/asked")
            directory = AgentDirectory(root: folder + "/root")
            entry = BootEntry(root: directory.root, cluster: "ab12", program: "/p")
            installer = BootInstaller()
            installer.home = folder + "/home"
            installer.path = [folder + "/bin"]
            installer.systemdFolder = systemd ? folder + "/systemd" : folder + "/none"
            installer.isCronRunning = { cron }
        }

        func asked() throws -> [String] {
            guard Files.kind(folder + "/asked") == .file else { return [] }
            return try Files.readText(folder + "/asked").split(separator: "\n").map(String.init)
        }

        func keep(_ status: BootStatus) throws {
            try Files.writeAtomically(MessageCoding.encode(status), to: directory.boot)
        }

        var unitPath: String { folder + "/home/.config/systemd/user/coord-agent-ab12.service" }
    }

    @Test func withSystemdAUnitAndLingeringAndDownTakesBothAway() throws {
        try withTemporaryDirectory { folder throws in
            let lab = try Lab(
                folder,
                systemd: true,
                cron: true,
                scripts: ["systemctl": "exit 0", "loginctl": "echo Linger=no", "crontab": "exit 1"]
            )
            let status = lab.installer.install(lab.entry, before: nil)
            #expect(status == BootStatus(.unit, detail: "coord-agent-ab12.service", madeLinger: true))
            #expect(try Files.readText(lab.unitPath) == lab.entry.unit)
            let user = getuid()
            #expect(
                try lab.asked() == [
                    "systemctl --user show-environment", "systemctl --user daemon-reload",
                    "systemctl --user enable coord-agent-ab12.service",
                    "loginctl show-user \(user) -p Linger",
                    "loginctl enable-linger \(user)",
                ]
            )
            try lab.keep(status)
            let (removed, left) = lab.installer.remove(lab.directory, cluster: "ab12")
            #expect(removed == ["the unit coord-agent-ab12.service", "lingering"] && left.isEmpty)
            #expect(Files.kind(lab.unitPath) == nil && Files.kind(lab.directory.boot) == nil)
            #expect(try lab.asked().last == "loginctl disable-linger \(user)")
        }
    }

    @Test func lingeringThatWasThereBeforeStays() throws {
        try withTemporaryDirectory { folder throws in
            let lab = try Lab(
                folder,
                systemd: true,
                cron: false,
                scripts: ["systemctl": "exit 0", "loginctl": "echo Linger=yes"]
            )
            let status = lab.installer.install(lab.entry, before: nil)
            #expect(!status.madeLinger)
            try lab.keep(status)
            #expect(
                lab.installer.remove(lab.directory, cluster: "ab12").removed == [
                    "the unit coord-agent-ab12.service"
                ]
            )
            #expect(try !lab.asked().contains { $0.contains("linger") && $0.contains("able") })
        }
    }

    @Test func whereLingeringIsForbiddenCronDoesIt() throws {
        try withTemporaryDirectory { folder throws in
            let table = folder + "/table"
            try Files.writeAtomically("0 3 * * * backup\n", to: table)
            let lab = try Lab(
                folder,
                systemd: true,
                cron: true,
                scripts: [
                    "systemctl": "exit 0",
                    "loginctl": "case $1 in enable-linger) echo 'Access denied' >&2; exit 1;; esac",
                    "crontab": "case $1 in -l) cat '\(table)';; -) cat > '\(table)';; esac",
                ]
            )
            var installer = lab.installer
            installer.path.append("/bin")
            let status = installer.install(lab.entry, before: nil)
            #expect(status.starter == .cron)
            #expect(Files.kind(lab.unitPath) == nil, "a unit that does not work is not left behind")
            #expect(try Files.readText(table) == "0 3 * * * backup\n" + lab.entry.cronLine + "\n")
            try lab.keep(status)
            #expect(installer.remove(lab.directory, cluster: "ab12").removed == ["the crontab line @reboot"])
            #expect(try Files.readText(table) == "0 3 * * * backup\n")
        }
    }

    @Test func whereNothingIsAllowedItSaysWhy() throws {
        try withTemporaryDirectory { folder throws in
            let pod = try Lab(folder, systemd: false, cron: false, scripts: [:])
            #expect(
                pod.installer.install(pod.entry, before: nil)
                    == BootStatus(.nobody, detail: "no systemd; no cron runs")
            )
        }
        try withTemporaryDirectory { folder throws in
            let strict = try Lab(
                folder,
                systemd: true,
                cron: true,
                scripts: [
                    "systemctl": "echo 'Failed to connect to bus' >&2; exit 1",
                    "loginctl": "echo KillUserProcesses=yes",
                    "crontab": "echo 'You (me) are not allowed to use this program' >&2; exit 1",
                ]
            )
            let status = strict.installer.install(strict.entry, before: nil)
            #expect(status.starter == .nobody)
            #expect(
                status.detail == "no systemd of the user (Failed to connect to bus); "
                    + "crontab: You (me) are not allowed to use this program"
            )
            #expect(status.logout?.hasPrefix("logind ends it at logout") == true)
        }
    }

    @Test func withoutTheUsersWishNothingIsAskedButWhetherALogoutEndsIt() throws {
        try withTemporaryDirectory { folder throws in
            let lab = try Lab(
                folder,
                systemd: true,
                cron: true,
                scripts: ["loginctl": "echo KillUserProcesses=no"]
            )
            #expect(
                lab.installer.none(lab.directory, cluster: "ab12")
                    == BootStatus(.nobody, detail: "boot: none")
            )
            #expect(try lab.asked() == ["loginctl show-session -p KillUserProcesses"])
        }
    }

    @Test(
        .enabled(
            if: Files.kind("/usr/bin/crontab") == .file && getuid() == 0
                && Files.kind("/var/spool/cron/crontabs/root") == nil,
            "needs a crontab program, root, and no crontab of root's"
        )
    )
    func theRealCrontabTakesTheLine() throws {
        try withTemporaryDirectory { folder throws in
            var installer = BootInstaller()
            installer.systemdFolder = folder + "/none"
            installer.isCronRunning = { true }
            let directory = AgentDirectory(root: folder)
            let entry = BootEntry(root: folder, cluster: "test-ab12", program: "/bin/true")
            let status = installer.install(entry, before: nil)
            defer { _ = try? ChildProcess.run(["/usr/bin/crontab", "-r"]) }
            #expect(status.starter == .cron, "\(status.detail)")
            let table = try ChildProcess.run(["/usr/bin/crontab", "-l"])
            #expect(String(decoding: table.output, as: UTF8.self).contains(entry.cronLine))
            try Files.writeAtomically(MessageCoding.encode(status), to: directory.boot)
            #expect(installer.remove(directory, cluster: "test-ab12").left.isEmpty)
            #expect(try !ChildProcess.run(["/usr/bin/crontab", "-l"]).exit.isSuccess)
        }
    }
}

@Suite("Processes of an agent's folder", .timeLimit(.minutes(5))) struct ProcessTableTests {
    /// A program that waits, and writes `r` when it does.
    private func start(_ arguments: [String], marker root: String?) throws -> ChildProcess {
        let (ours, theirs) = try UnixSocket.pair()
        defer {
            UnixSocket.close(ours)
            close(theirs)
        }
        let marked = root.map { ["\(ProcessTable.marker)=\($0)"] } ?? []
        let child = try ChildProcess(
            arguments,
            environment: Machine.environment + marked,
            files: [-1, theirs, -1]
        )
        var byte: UInt8 = 0
        #expect(read(ours, &byte, 1) == 1)
        return child
    }

    @Test func thoseBelowTheFolderAndThoseThatWereMarkedAreFoundAndEnded() throws {
        try withTemporaryDirectory { folder throws in
            let root = Files.resolved(folder)
            try Files.createDirectory(root + "/bin")
            try Files.writeAtomically(Files.read("/bin/sh"), to: root + "/bin/coord-worker-1", mode: 0o755)
            // A process that has stopped itself does not hear the polite signal.
            let wait = "echo r; kill -STOP $$"
            let below = try started { try start([root + "/bin/coord-worker-1", "-c", wait], marker: nil) }
            let stubborn = try start(["/bin/sh", "-c", wait], marker: root)
            let stranger = try start(["/bin/sh", "-c", "echo r; exec /bin/sleep 600"], marker: root + "x")
            defer {
                for child in [below, stubborn, stranger] {
                    child.signal(SIGKILL)
                    _ = child.wait()
                }
            }
            let found = ProcessTable.entries(of: folder)
            #expect(Set(found.map(\.process.pid)) == [below.pid, stubborn.pid])
            #expect(found.contains { $0.words == "pid \(stubborn.pid) sh" })
            #expect(ProcessTable.end(found, patience: 200).isEmpty)
            #expect(ProcessTable.entries(of: folder).isEmpty)
            #expect(ProcessIdentity(pid: stranger.pid) != nil)
        }
    }

    @Test func aTrainerIsTakenFirstWhenMemoryRunsOut() throws {
        let child = try start(["/bin/sh", "-c", "echo r; exec /bin/sleep 600"], marker: nil)
        defer {
            child.signal(SIGKILL)
            _ = child.wait()
        }
        #expect(ProcessTable.setMemoryPriority(child.pid, 800))
        #expect(try Files.readText("/proc/\(child.pid)/oom_score_adj") == "800\n")
        #expect(!ProcessTable.setMemoryPriority(0x7FFF_FFFF, 800))
    }

    @Test func cpuTimeIsThatOfAllThreads() {
        let before = ProcessTable.cpuTicks(getpid())
        var sum = 0.0
        while ProcessTable.cpuTicks(getpid()) < before + 2 { for i in 0..<100_000 { sum += Double(i) } }
        #expect(sum > 0 && ProcessTable.cpuTicks(0x7FFF_FFFF) == 0)
    }

    @Test func theSweepLeavesNoFileAndSaysSo() throws {
        try withTemporaryDirectory { folder throws in
            let root = folder + "/ab12"
            let directory = AgentDirectory(root: root)
            try directory.create()
            for path in [directory.socket, directory.identity, directory.terms] {
                try Files.writeAtomically("x", to: path)
            }
            let sweep = Sweep(directory, cluster: "ab12")
            #expect(sweep.finish(wipes: false) == SweepReport())
            #expect(try Files.list(root) == ["runs", "serve"])
            do {
                let lock = try FileLock(directory.lock)
                #expect(
                    sweep.finish(wipes: true).left.first?.contains("an agent was started meanwhile") == true
                )
                _ = consume lock
            }
            // A child that another test is just starting has our descriptors until its exec, and the lock with them.
            while (try? FileLock(directory.lock)) == nil { usleep(10_000) }
            #expect(sweep.finish(wipes: true) == SweepReport())
            #expect(Files.kind(root) == nil)
        }
    }
}
