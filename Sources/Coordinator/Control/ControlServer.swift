public import Basics
internal import Synchronization
internal import Wire

/// A command that is connected and hears events.
final class ControlPeer: Sendable {
    /// More waiting events than this and the command is taken for dead; unit: events.
    private static let maximumWaiting = 20_000

    private enum Item: Sendable {
        case event(ControlEvent)
        case end(@Sendable () -> Void)
    }

    /// How many events wait; shared with the writing thread.
    private final class Backlog: Sendable {
        let count = Atomic<Int>(0)
    }

    private let channel: FrameChannel
    private let outbox = Mailbox<Item>()
    private let backlog = Backlog()

    init(channel: FrameChannel) {
        self.channel = channel
        // A command that does not read must not hold the coordinator up, so a thread of its own writes.
        OSThread.start(name: "control-out") { [channel, outbox, backlog] in
            while true {
                switch outbox.take() {
                case .event(let event):
                    backlog.count.subtract(1, ordering: .relaxed)
                    // Whoever asked may be gone; what comes behind is for nobody then.
                    try? channel.send(event)
                case .end(let then):
                    then()
                    return channel.close()
                }
            }
        }
    }

    /// Queues an event.
    func send(_ event: ControlEvent) {
        guard backlog.count.add(1, ordering: .relaxed).newValue < Self.maximumWaiting else {
            return channel.close()
        }
        outbox.put(.event(event))
    }

    /// Queues the last event and closes behind it.
    ///
    /// - Parameter then: called when the last event is out, before the connection closes.
    func finish(_ error: (any ExplainedError)? = nil, then: @escaping @Sendable () -> Void = {}) {
        send(
            .done(
                exitCode: error?.exitCode.rawValue ?? 0,
                message: error?.message,
                hint: error?.hint
            )
        )
        outbox.put(.end(then))
    }
}

/// Listens for commands on the coordinator's unix socket.
struct ControlServer: Sendable {
    let workspace: Workspace

    /// Binds and answers on threads of its own.
    ///
    /// - Parameter received: called for each request.
    func start(received: @escaping @Sendable (ControlRequest, ControlPeer) -> Void) throws {
        try Files.createDirectory(Files.parent(workspace.socketPath), mode: 0o700)
        try workspace.checkSocketFolder()
        let listener = try UnixSocket.listen(workspace.socketPath)
        OSThread.start(name: "control") {
            while let socket = UnixSocket.accept(listener) {
                OSThread.start(name: "control-in") {
                    let channel = FrameChannel(socket: socket)
                    guard let frame = try? channel.receive(timeoutMilliseconds: 10_000),
                        let request = try? MessageCoding.decode(ControlRequest.self, from: frame.payload)
                    else { return channel.close() }
                    received(request, ControlPeer(channel: channel))
                }
            }
        }
    }
}

/// A command's side of the conversation.
public struct CoordinatorClient: Sendable {
    private let channel: FrameChannel

    /// Connects to the coordinator of a workspace.
    ///
    /// - Throws: ``FileError`` when none listens.
    init(_ workspace: Workspace) throws {
        if Files.kind(Files.parent(workspace.socketPath)) != nil { try workspace.checkSocketFolder() }
        channel = FrameChannel(socket: try UnixSocket.connect(workspace.socketPath))
    }

    /// Asks, and hands every event to `received` until the last.
    ///
    /// - Returns: the last event's code, message and hint.
    public func ask(
        _ request: ControlRequest,
        received: (ControlEvent) throws -> Void
    ) throws -> (
        exitCode: ExitCode, message: String?, hint: String?
    ) {
        do {
            try channel.send(request)
            while let frame = try channel.receive() {
                let event = try MessageCoding.decode(ControlEvent.self, from: frame.payload)
                if case .done(let code, let message, let hint) = event {
                    // `down` is over when the process is gone, which closes the connection.
                    while (try? channel.receive()) != nil {}
                    return (ExitCode(rawValue: code), message, hint)
                }
                try received(event)
            }
        } catch is FrameError {
            // Told below: the coordinator went away in the middle.
        }
        throw CoordinatorError(
            "the coordinator ended in the middle of this",
            hint: "run coord up again: it goes on where it was; the hosts kept working",
            exitCode: .failed
        )
    }
}
