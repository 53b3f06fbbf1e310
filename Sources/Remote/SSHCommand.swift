internal import Basics
internal import CSSH
internal import Glibc

/// What a command reads: fills the array with the next bytes; none = the end.
typealias CommandInput = (inout [UInt8]) throws -> Void

/// The text that goes to the host's login shell.
enum SSHCommand {
    /// Runs a command under `/bin/sh`, whatever the login shell is.
    static func plain(_ command: String) -> String { "exec /bin/sh -c " + ShellQuoting.quote(command) }

    /// The same, with a line on both outputs that says where the login shell's noise ends.
    static func marked(_ command: String, mark: String) -> String {
        plain("printf '%s\\n' \(mark); printf '%s\\n' \(mark) >&2\n\(command)")
    }

    /// What follows the mark; everything when there is none (a forced command runs something else than we asked for).
    static func unmarked(_ bytes: [UInt8], mark: String) -> [UInt8] {
        let needle = Array((mark + "\n").utf8)
        guard bytes.count >= needle.count else { return bytes }
        for start in 0...(bytes.count - needle.count)
        where bytes[start] == needle[0] && bytes[start..<start + needle.count].elementsEqual(needle) {
            return Array(bytes[(start + needle.count)...])
        }
        return bytes
    }
}

extension SSHSession {
    /// Runs a command to its end.
    ///
    /// - Parameters:
    ///   - open: when the command must have started.
    ///   - deadline: when all must be over.
    ///   - stall: when set, the deadline moves that far ahead whenever bytes move or the other side's system takes some.
    ///   - limit: the most that it may print on each of its two outputs; unit: bytes.
    ///   - started: called when the command runs; from then on it must not be tried again.
    func run(
        _ command: String,
        input: CommandInput,
        open: Deadline,
        deadline: Deadline,
        stall: Duration? = nil,
        limit: Int = CommandLimits.output,
        started: () -> Void = {}
    ) throws -> CommandResult {
        let phase: RemoteError.Phase = stall == nil ? .command : .upload
        let mark = "coord-" + Digest.hex(Sealing.randomBytes(8))
        let channel = try SSHChannel(
            self,
            .command(SSHCommand.marked(command, mark: mark)),
            deadline: open
        )
        started()
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: SSHChannel.window, alignment: 16)
        defer { buffer.deallocate() }
        var deadline = deadline
        var output: [UInt8] = []
        var errors: [UInt8] = []
        var pending: [UInt8] = []
        var sent = 0
        var acknowledged = self.acknowledged
        var wantsInput = true
        while true {
            var moved = 0
            let fromOutput = channel.read(into: buffer)
            if fromOutput > 0 { output += buffer[..<fromOutput] }
            let fromErrors = channel.read(into: buffer, errors: true)
            if fromErrors > 0 { errors += buffer[..<fromErrors] }
            moved += fromOutput + fromErrors
            guard output.count <= limit, errors.count <= limit else {
                throw RemoteError(
                    host: endpoint.host,
                    phase: phase,
                    code: .tooMuchOutput,
                    message: "a command on \(endpoint.name) printed more than \(ByteCount(limit))"
                )
            }
            if wantsInput, sent == pending.count {
                sent = 0
                pending.removeAll(keepingCapacity: true)
                try input(&pending)
                if pending.isEmpty {
                    channel.endInput()
                    wantsInput = false
                }
            }
            if wantsInput {
                let taken = pending.withUnsafeBytes {
                    channel.write(UnsafeRawBufferPointer(rebasing: $0.dropFirst(sent)))
                }
                // A command that reads no more is no error: its exit tells why.
                if let taken { sent += taken } else { wantsInput = false }
                moved += taken ?? 0
            }
            if moved > 0 {
                if let stall { deadline = Deadline(after: stall) }
                if deadline.hasPassed { throw late(channel, phase) }
                continue
            }
            // What was handed to the system may take long on a slow line, and the command's answer comes behind it.
            if let stall, self.acknowledged >= acknowledged + Self.worthNoting {
                acknowledged = self.acknowledged
                deadline = Deadline(after: stall)
            }
            if channel.isAtEnd { channel.takeEnd() }
            if channel.isAtEnd, let exit = channel.exit {
                return CommandResult(
                    exit: exit,
                    output: SSHCommand.unmarked(output, mark: mark),
                    errors: SSHCommand.unmarked(errors, mark: mark)
                )
            }
            if isBroken { throw lost(phase) }
            if channel.isClosed {
                throw lost(phase, "it closed the channel without saying how the command ended")
            }
            if deadline.hasPassed { throw late(channel, phase) }
            try wait(phase, deadline: deadline)
        }
    }

    /// More than what keeps an idle connection alive; unit: bytes.
    private static let worthNoting: UInt64 = 4096

    private func late(_ channel: SSHChannel, _ phase: RemoteError.Phase) -> RemoteError {
        var error = timedOut(phase)
        if channel.exit != nil {
            error.message += "; the command has ended, but something that it started keeps its output open"
            error.hint = "start background work with `setsid -f` and its outputs redirected"
        }
        return error
    }
}
