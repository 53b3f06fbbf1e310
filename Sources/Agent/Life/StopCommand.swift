internal import Basics
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// The command that stops a rented host.
enum StopCommand {
    /// A command that hangs is as good as one that failed; unit: milliseconds.
    private static let patience: Int32 = 120_000
    /// What people are told of its output; unit: bytes.
    private static let tail = 400

    /// Runs it by `/bin/sh` to its end.
    ///
    /// - Parameter log: gets its output.
    static func run(_ command: String, log path: String) -> StopResult {
        let log = coordOpenLog(path)
        defer { if log >= 0 { close(log) } }
        let before = (try? Files.size(path)) ?? 0
        do {
            let child = try ChildProcess(
                ["/bin/sh", "-c", command],
                environment: environment,
                files: [-1, log, log],
                startsSession: true
            )
            if let process = ProcessIdentity(pid: child.pid), !process.waitForEnd(milliseconds: patience) {
                // Its session is its own: what it started ends with it.
                kill(-child.pid, SIGKILL)
                _ = child.wait()
                return StopResult(isSuccess: false, text: "not done after \(patience / 1000) s")
            }
            let end = child.wait()
            let text = words(path, after: Int(before))
            return StopResult(isSuccess: end.isSuccess, text: "\(end)\(text.isEmpty ? "" : ": \(text)")")
        } catch {
            return StopResult(isSuccess: false, text: "\(error)")
        }
    }

    /// Why a command is likely to fail; nil when nothing is known against it.
    static func doubt(about command: String?) -> String? {
        guard let command else { return nil }
        let known = Set(environment.map { String($0.prefix { $0 != "=" }) })
        let missing = variables(in: command).filter { !known.contains($0) }
        guard !missing.isEmpty else { return nil }
        return "the stop command uses $\(missing.joined(separator: ", $")), not set on the host"
    }

    /// The variables that a command takes from its environment: `$NAME` and `${NAME}` outside single quotes.
    static func variables(in command: String) -> [String] {
        var names: [String] = []
        var rest = command[...]
        var isQuoted = false
        while let letter = rest.popFirst() {
            if letter == "\\", !isQuoted {
                _ = rest.popFirst()
            } else if letter == "'" {
                isQuoted.toggle()
            } else if letter == "$", !isQuoted {
                let hasBrace = rest.first == "{"
                if hasBrace { rest = rest.dropFirst() }
                let name = rest.prefix { $0 == "_" || ($0.isASCII && ($0.isLetter || $0.isNumber)) }
                rest = rest.dropFirst(name.count)
                // `${NAME:-x}` has a value without the variable; `$1` and `$$` are none.
                guard name.first?.isNumber == false, !hasBrace || rest.first == "}" else { continue }
                if !names.contains(String(name)) { names.append(String(name)) }
            }
        }
        return names
    }

    /// Ours, and what else the first process of the machine was given.
    ///
    /// A pod gets its id and token in the environment of its first process; a session of `sshd` there has neither.
    private static var environment: [String] {
        let own = Machine.environment
        let names = Set(own.map { String($0.prefix { $0 != "=" }) })
        let first = (try? Files.read("/proc/1/environ")) ?? []
        return own
            + first.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
            .filter { $0.contains("=") && !names.contains(String($0.prefix { $0 != "=" })) }
    }

    private static func words(_ path: String, after start: Int) -> String {
        guard let bytes = try? Files.read(path), bytes.count > start else { return "" }
        return String(decoding: bytes[start...].suffix(tail), as: UTF8.self)
            .split(whereSeparator: \.isNewline).suffix(3).joined(separator: "; ")
    }

    private static func coordOpenLog(_ path: String) -> Int32 {
        open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    }
}
