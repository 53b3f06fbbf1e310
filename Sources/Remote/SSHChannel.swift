internal import Basics
internal import CSSH
internal import Glibc

/// One command on a host, or one connection that it makes for us: input, outputs and how it ended.
///
/// Belongs to the thread that has the session.
final class SSHChannel {
    private let session: SSHSession
    private let handle: ssh_channel
    private let callbacks: UnsafeMutablePointer<ssh_channel_callbacks_struct>
    // The first read asks for the whole window: libssh begins with 64 KB a round trip.
    private var sinceGrowth = SSHChannel.window
    private var didEndInput = false
    private var isOpen = false

    /// How the command ended; nil while it runs.
    private(set) var exit: ProcessExit?

    /// How much may be on its way to us; more is faster over long distances and costs memory here.
    ///
    /// libssh's own window of 1.28 MB carries 25 MB/s at 50 ms. Unit: bytes.
    static let window = 8 << 20

    /// No packet is larger, with all that is around its bytes; unit: bytes.
    static let packet = 40 << 10

    /// What a channel is for.
    enum Purpose {
        /// A command for the login shell.
        case command(String)
        /// A TCP connection from there to an address.
        case forward(ResolvedEndpoint)
    }

    /// True when there is no command whose exit could be waited for.
    let isForward: Bool

    /// Starts a command or a connection.
    ///
    /// - Throws: ``RemoteError`` `.channelRefused`, `.connectionRefused`, `.connectionLost`, `.timedOut`.
    init(_ session: SSHSession, _ purpose: Purpose, deadline: Deadline) throws {
        guard let handle = ssh_channel_new(session.handle) else { throw session.lost(.open) }
        self.session = session
        self.handle = handle
        if case .forward = purpose { isForward = true } else { isForward = false }
        callbacks = .allocate(capacity: 1)
        callbacks.initialize(to: ssh_channel_callbacks_struct())
        callbacks.pointee.size = MemoryLayout<ssh_channel_callbacks_struct>.size
        callbacks.pointee.userdata = Unmanaged.passUnretained(self).toOpaque()
        callbacks.pointee.channel_exit_status_function = { _, _, status, context in
            guard let context else { return }
            Unmanaged<SSHChannel>.fromOpaque(context).takeUnretainedValue().exit = .exited(status)
        }
        callbacks.pointee.channel_exit_signal_function = { _, _, signal, _, _, _, context in
            guard let context, let signal else { return }
            let number = SSHChannel.signalNumber(String(cString: signal))
            Unmanaged<SSHChannel>.fromOpaque(context).takeUnretainedValue().exit = .signalled(number)
        }
        ssh_set_channel_callbacks(handle, callbacks)
        switch purpose {
        case .command(let command):
            try start(command, deadline: deadline)
        case .forward(let target):
            let opened = try session.perform(.open, deadline: deadline) {
                ssh_channel_open_forward(handle, target.address, Int32(target.port), "127.0.0.1", 0)
            }
            guard opened == SSH_OK else { throw refused(target) }
            isOpen = true
        }
    }

    private func start(_ command: String, deadline: Deadline) throws {
        for step in [
            { ssh_channel_open_session(self.handle) }, { ssh_channel_request_exec(self.handle, command) },
        ] {
            guard try session.perform(.open, deadline: deadline, step) == SSH_OK else {
                if session.isBroken { throw session.lost(.open) }
                throw RemoteError(
                    host: session.endpoint.host,
                    phase: .open,
                    code: .channelRefused,
                    message: "\(session.endpoint.name) does not start a command: \(session.reason)",
                    hint: "check MaxSessions and ForceCommand in its sshd_config"
                )
            }
            isOpen = true
        }
    }

    private func refused(_ target: ResolvedEndpoint) -> RemoteError {
        if session.isBroken { return session.lost(.connect) }
        let reason = session.reason
        let isForbidden = reason.contains("prohibited") || reason.contains("error (1)")
        let isRefused = reason.lowercased().contains("connection refused")
        return RemoteError(
            host: target.host,
            phase: .connect,
            code: isForbidden ? .channelRefused : isRefused ? .connectionRefused : .unreachable,
            message: "\(session.endpoint.name) (\(session.endpoint.login)) does not connect us to "
                + "\(target.name) (\(target.place)): \(reason)",
            hint: isForbidden
                ? "allow it in the jump's sshd_config: AllowTcpForwarding yes, and PermitOpen if it is set"
                : "check that \(target.place) can be reached from the jump"
        )
    }

    deinit {
        // ssh_free has freed the channels of a closed session.
        if !session.isClosed {
            ssh_remove_channel_callbacks(handle, callbacks)
            // One that was never opened has number 0 over there, which is another stream's.
            if isOpen { ssh_channel_close(handle) }
            ssh_channel_free(handle)
        }
        callbacks.deallocate()
    }

    /// Takes what has arrived, without waiting.
    ///
    /// - Parameters:
    ///   - buffer: at least ``window`` bytes, so that the other side may send that much.
    ///   - errors: standard error instead of standard output.
    ///   - hasPacket: a whole packet is known to be there. libssh reads 4 KB at a time and then comes back, unless it is
    ///     told to wait: it need not, or a millisecond when the packet is another channel's.
    /// - Returns: bytes taken; 0 = nothing now, or the end.
    func read(
        into buffer: UnsafeMutableRawBufferPointer,
        errors: Bool = false,
        hasPacket: Bool = false
    ) -> Int {
        // libssh asks for more whenever `count` exceeds what is buffered and allowed: with the full count on each
        // call it would send one adjustment a packet, so only each quarter of the window does.
        let grows = !errors && sinceGrowth >= Self.window / 4
        if grows { sinceGrowth = 0 }
        let count = grows ? buffer.count : min(buffer.count, errors ? 32 << 10 : 256 << 10)
        let wait: Int32 = hasPacket ? 1 : 0
        let n = ssh_channel_read_timeout(handle, buffer.baseAddress, UInt32(count), errors ? 1 : 0, wait)
        guard n > 0 else { return 0 }
        if !errors { sinceGrowth += Int(n) }
        return Int(n)
    }

    /// Sends as much as the other side takes now.
    ///
    /// - Returns: bytes taken; 0 = nothing now; nil = it takes no more for ever.
    func write(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard !didEndInput else { return nil }
        let n = ssh_channel_write(handle, bytes.baseAddress, UInt32(bytes.count))
        if n == SSH_AGAIN { return 0 }
        return n < 0 ? nil : Int(n)
    }

    /// Tells the command that its input is over.
    func endInput() {
        guard !didEndInput else { return }
        didEndInput = true
        ssh_channel_send_eof(handle)
    }

    /// Takes what arrives after the end of the output, without waiting: how the command ended, and the close.
    ///
    /// The exit is a message of its own, behind the end of the output and often in a later packet. libssh's reads look
    /// at the connection only while output can still come, so from then on they would never see it.
    func takeEnd() {
        // A session that does not block makes this handle what is there; the callbacks keep what it says.
        if exit == nil { _ = ssh_channel_get_exit_status(handle) }
    }

    /// True when all output was read and no more can come.
    var isAtEnd: Bool { ssh_channel_is_eof(handle) != 0 || isClosed }

    /// True when the other side has closed the channel, after having said how the command ended.
    var isClosed: Bool { ssh_channel_is_closed(handle) != 0 }

    private static func signalNumber(_ name: String) -> Int32 {
        let numbers: [String: Int32] = [
            "HUP": SIGHUP, "INT": SIGINT, "QUIT": SIGQUIT, "ILL": SIGILL, "ABRT": SIGABRT, "FPE": SIGFPE,
            "KILL": SIGKILL, "USR1": SIGUSR1, "SEGV": SIGSEGV, "USR2": SIGUSR2, "PIPE": SIGPIPE,
            "ALRM": SIGALRM,
            "TERM": SIGTERM,
        ]
        return numbers[name] ?? 0
    }
}
