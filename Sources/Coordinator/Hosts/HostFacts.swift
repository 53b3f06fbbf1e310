internal import Basics
internal import Remote

/// What a look at a host's machine found, before anything of ours is there.
struct HostFacts: Codable, Hashable, Sendable {
    /// One GPU, as `nvidia-smi` tells.
    struct GPU: Codable, Hashable, Sendable {
        /// Its name: `NVIDIA GeForce RTX 3090`.
        var name: String
        /// Its memory; unit: MiB.
        var memoryMiB: Int
        /// The driver's version.
        var driver: String
    }

    /// `Linux`, by `uname -s`.
    var system = ""
    /// `x86_64` or `aarch64`, by `uname -m`.
    var machine = ""
    /// The login's name there.
    var user = ""
    /// CPUs that a process of ours may use: fewer than the machine has, in a container with a quota.
    var cores = 0
    /// Memory that we may use, in a container its limit; unit: bytes.
    var memory: Int64 = 0
    /// Free space in the host's folder; unit: bytes.
    var freeSpace: Int64 = 0
    /// The kind of file system of the host's folder: `ext2/ext3`, `nfs`, `tmpfs`.
    var fileSystem = ""
    /// Why the host's folder cannot be used; nil when it can.
    var folderProblem: String?
    /// How far the host's clock is ahead of ours, nil when it does not tell; unit: seconds.
    var clockAhead: Double?
    /// How wrong ``clockAhead`` may be: half of the question's round trip; unit: seconds.
    var clockError = 0.0
    /// The two ends of the SSH connection as the host sees them: our address, its own.
    var route: Route?
    /// Worker programs in the host's folder, by file name.
    var workers: [String] = []
    /// Folders of agents of other clusters that live on the host.
    var otherAgents: [String] = []
    /// True when a service manager of the system runs there.
    var hasSystemd = false
    /// The GPUs; nil when not asked yet.
    var gpus: [GPU]?
    /// `3.11.2`; nil when there is none, or not asked yet.
    var python: String?
    /// PyTorch's version for that Python; nil when there is none, or not asked yet.
    var torch: String?

    /// The two ends of an SSH connection.
    struct Route: Codable, Hashable, Sendable {
        /// Where we come from.
        var client: String
        /// Where we arrive.
        var host: String
        /// The port of its sshd, as it is there; nil when it was not told.
        var port: UInt16?
    }

    /// The triple of the worker that runs there.
    var triple: String { "\(machine)-unknown-linux-gnu" }
}

// MARK: The questions

extension HostFacts {
    /// More than any honest machine prints; unit: bytes.
    static let outputLimit = 256 << 10

    /// Runs a question: a host that is up answers in a second, one that hangs or prints for ever is given up.
    ///
    /// - Throws: `RemoteError`.
    static func ask(
        _ command: String,
        on host: any Host,
        timeout: Duration = .seconds(20)
    ) throws -> CommandResult {
        try host.run(command, input: [], timeout: timeout, limit: outputLimit)
    }

    /// Asks what can be told at once, as one POSIX shell command that prints `word<TAB>value` lines.
    ///
    /// - Parameter root: the agent's folder as a shell word; it is made, mode 0700.
    static func quickCommand(root: String, cluster: String) -> String {
        """
        say() { printf '%s\\t%s\\n' "$1" "$2"; }
        say clock "$(date +%s.%N)"
        say system "$(uname -s)"; say machine "$(uname -m)"; say user "$(id -un)"
        say route "$SSH_CONNECTION"
        say cores "$(nproc 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
        say quota "$(cat /sys/fs/cgroup/cpu.max 2>/dev/null)"
        say memory "$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)"
        say limit "$(cat /sys/fs/cgroup/memory.max 2>/dev/null)"
        [ -d /run/systemd/system ] && say systemd yes
        root=\(root)
        umask 077
        if ! problem=$(mkdir -p "$root/bin" 2>&1); then say folder "$problem"
        else
            try=$root/bin/.try-$$
            if ! problem=$( { printf '#!/bin/sh\\nexit 0\\n' > "$try" && chmod 700 "$try"; } 2>&1); then
                say folder "$problem"
            elif ! "$try" >/dev/null 2>&1; then say folder noexec; fi
            rm -f "$try"
            say free "$(df -Pk "$root" | tail -n 1)"
            say filesystem "$(stat -f -c %T "$root" 2>/dev/null)"
            for file in "$root"/bin/coord-worker-*; do [ -x "$file" ] && say worker "${file##*/}"; done
        fi
        for file in "$HOME"/.coord/*/agent.json; do
            case $file in */\(cluster)/agent.json) ;; *) [ -f "$file" ] && say agent "${file%/agent.json}" ;; esac
        done
        :
        """
    }

    /// Asks what may take seconds: the driver of a GPU that sleeps, Python's packages.
    static func slowCommand(python: String) -> String {
        """
        say() { printf '%s\\t%s\\n' "$1" "$2"; }
        if command -v nvidia-smi >/dev/null 2>&1; then
            nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits 2>/dev/null |
                while IFS= read -r line; do say gpu "$line"; done
        fi
        \(python) - 2>/dev/null <<'EOF'
        import sys
        print("python\\t" + ".".join(map(str, sys.version_info[:3])))
        try:
            import importlib.metadata
            print("torch\\t" + importlib.metadata.version("torch"))
        except Exception:
            pass
        EOF
        say asked yes
        """
    }

    /// Takes what a host printed; lines that make no sense are left out.
    ///
    /// - Parameters:
    ///   - begin: when the command was sent, on our clock; unit: seconds since 1970.
    ///   - end: when its output was there.
    mutating func take(_ text: String, begin: Double, end: Double) {
        var kilobytes: Int64 = 0
        for line in text.split(whereSeparator: \.isNewline) {
            let parts = line.split(separator: "\t", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, !parts[1].isEmpty else { continue }
            let value = String(parts[1].prefix(400))
            switch parts[0] {
            case "clock":
                clockError = (end - begin) / 2
                // A `date` without nanoseconds prints the letters as they are.
                clockAhead = Double(value.prefix { $0.isNumber || $0 == "." }).map { $0 - (begin + end) / 2 }
            case "system": system = value
            case "machine": machine = value
            case "user": user = value
            case "route":
                let words = value.split(separator: " ").map(String.init)
                if words.count == 4 {
                    route = Route(client: words[0], host: words[2], port: UInt16(words[3]))
                }
            case "cores": cores = max(cores, Int(value) ?? 0)
            case "quota":
                let words = value.split(separator: " ").compactMap { Double($0) }
                if words.count == 2, words[1] > 0 {
                    cores = max(1, min(cores, Int((words[0] / words[1]).rounded(.up))))
                }
            case "memory":
                kilobytes = Int64(value) ?? 0
                memory = kilobytes.multipliedReportingOverflow(by: 1024).partialValue
            case "limit": if let limit = Int64(value), limit > 0 { memory = min(memory, limit) }
            case "systemd": hasSystemd = true
            case "folder": folderProblem = value
            case "free":
                let words = value.split(separator: " ")
                if words.count >= 4, let free = Int64(words[3]) {
                    freeSpace = free.multipliedReportingOverflow(by: 1024).partialValue
                }
            case "filesystem": fileSystem = value
            case "worker": workers.append(value)
            case "agent": otherAgents.append(value)
            case "gpu":
                let words = value.split(separator: ",").map { $0.drop { $0 == " " } }
                guard words.count == 3, let size = Int(words[1]) else { continue }
                gpus = (gpus ?? []) + [GPU(name: String(words[0]), memoryMiB: size, driver: String(words[2]))]
            case "python": python = value
            case "torch": torch = value
            case "asked": gpus = gpus ?? []
            default: continue
            }
        }
    }
}

// MARK: What follows from them

extension HostFacts {
    /// Why no worker can run there; nil when one can.
    ///
    /// - Parameter root: the agent's folder, for the message.
    func obstacle(host: String, root: String) -> CoordinatorError? {
        guard system == "Linux", !machine.isEmpty else {
            return CoordinatorError(
                "\(host): not a Linux machine that answers uname (\(system.isEmpty ? "it said nothing" : system))",
                hint: "look at what `ssh` prints for this login; a restricted shell cannot run a worker",
                exitCode: .unreachable
            )
        }
        guard let folderProblem else { return nil }
        let isNoExec = folderProblem == "noexec"
        return CoordinatorError(
            isNoExec
                ? "\(host): programs in \(root) cannot be started; the file system is mounted noexec"
                : "\(host): cannot use \(root): \(folderProblem)",
            hint: "set dir: of the host to a folder that can be written"
                + (isNoExec ? " and that programs may run from" : ""),
            exitCode: .cannotWrite
        )
    }

    /// True for a folder on another machine's disk, by the words of `stat -f`.
    var isOnNetwork: Bool {
        let kinds: Set = [
            "nfs", "nfs4", "cifs", "smb", "smb2", "afs", "coda", "ceph", "lustre", "gpfs", "panfs", "v9fs",
            "9p",
            "fuse.sshfs", "beegfs", "acfs", "gfs/gfs2",
        ]
        return kinds.contains(fileSystem)
    }

    /// What people should know, in one line each; nothing of it keeps the host from working.
    var remarks: [String] {
        var remarks: [String] = []
        if let ahead = clockAhead, abs(ahead) > clockError + 2 {
            let seconds = Int(abs(ahead).rounded())
            remarks.append("its clock is \(seconds) s \(ahead > 0 ? "ahead of" : "behind") ours")
        }
        if freeSpace > 0, freeSpace < 1 << 30 { remarks.append("only \(ByteCount(freeSpace)) free") }
        if isOnNetwork {
            // The agent's lock, its socket and the chunks' renames are sure on a disk of the host's own alone.
            remarks.append(
                "its folder is on \(fileSystem), where locks are unsure and hosts that share it meet; "
                    + "set dir: to a local disk"
            )
        }
        if let gpu = gpus?.first {
            let count = gpus?.count ?? 1
            remarks.append(
                "\(count == 1 ? gpu.name : "\(count) x \(gpu.name)"), which the native engine does not use"
            )
        }
        if !otherAgents.isEmpty {
            remarks.append(
                "shared with \(otherAgents.count) other cluster\(otherAgents.count == 1 ? "" : "s")"
            )
        }
        return remarks
    }
}
