public import Basics
internal import Hummingbird
internal import Logging
internal import NIOCore
internal import ServiceLifecycle
internal import Synchronization
internal import UnixSignals

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// The program `coord-serve`: a router, and itself again as the child that holds a version.
public enum ServeProgram {
    /// Runs until it is told to stop (SIGTERM, SIGINT or the admin socket).
    ///
    /// - Parameter arguments: the command line without the program's name.
    /// - Returns: how to end.
    public static func run(_ arguments: [String]) async -> ExitCode {
        do {
            switch try ServeOptions(arguments) {
            case .help:
                print(ServeOptions.usage)
                return .ok
            case .child(let options):
                return ChildProgram.run(options)
            case .router(let options):
                try await route(options)
                return .ok
            }
        } catch {
            let explained = error as? any ExplainedError
            complain("coord-serve: error: \(explained?.message ?? "\(error)")")
            if let hint = explained?.hint { complain("\nhint: \(hint)") }
            return explained?.exitCode ?? .failed
        }
    }

    private static func complain(_ text: String) {
        let bytes = Array("\(text)\n".utf8)
        _ = write(2, bytes, bytes.count)
    }

    private static func route(_ options: RouterOptions) async throws {
        let token = try options.token(environment: Machine.environment(_:))
        // A child or a client that dies is an error of `write`, not our end.
        signal(SIGPIPE, SIG_IGN)
        LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
        let logger = Logger(label: "coord-serve")
        let directory = options.directory
        try Files.createDirectory(directory, mode: 0o700)
        try Files.setMode(directory, 0o700)
        let lock = try FileLock("\(directory)/lock")

        let supervisor = Supervisor(
            statePath: "\(directory)/state.json",
            childMemory: options.childMemory,
            limits: ReleaseMachine.Limits(),
            logger: logger
        )
        let predictor = PredictionService(supervisor: supervisor)
        let holder = AddressHolder(text: options.listen.text)
        try supervisor.start()

        var quiet = logger
        quiet.logLevel = .warning
        let application = Application(
            responder: HTTPFront(
                supervisor: supervisor,
                predictor: predictor,
                token: token.map { BearerToken($0) }
            ),
            // A client that neither sends nor reads must not hold a connection for ever.
            server: .http1(configuration: .init(idleTimeout: .seconds(120))),
            configuration: ApplicationConfiguration(
                address: .hostname(options.listen.host, port: options.listen.port),
                serverName: "coord-serve"
            ),
            onServerRunning: { channel in
                guard let bound = channel.localAddress, let host = bound.ipAddress, let port = bound.port
                else {
                    return
                }
                let text = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
                holder.set(text)
                do {
                    try Files.writeAtomically("\(text)\n", to: "\(directory)/address", mode: 0o600)
                } catch {
                    logger.error("\(error)")
                }
                logger.notice("listening on \(text)")
                if let ready = options.readyDescriptor {
                    _ = write(ready, "r", 1)
                    close(ready)
                }
            },
            logger: quiet
        )
        let children = ChildrenService(supervisor: supervisor)
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [
                    .init(service: children),
                    .init(service: application, successTerminationBehavior: .gracefullyShutdownGroup),
                ],
                gracefulShutdownSignals: [.sigterm, .sigint],
                logger: quiet
            )
        )
        let admin = try AdminServer(
            path: "\(directory)/serve.sock",
            supervisor: supervisor,
            predictor: predictor,
            logger: logger,
            address: { holder.text },
            // A bridge from the thread of an admin client; the group outlives it.
            onStop: { Task { await group.triggerGracefulShutdown() } }
        )
        defer {
            admin.stop()
            try? Files.remove("\(directory)/address")
        }
        do {
            try await group.run()
        } catch {
            await supervisor.stop()
            throw ServingError(
                .badListener,
                "cannot serve on \(options.listen.text): \(error)",
                hint: "see whether another program listens there"
            )
        }
        logger.notice("stopped")
        withExtendedLifetime(lock) {}
    }
}

/// Where HTTP is spoken, once it is known.
private final class AddressHolder: Sendable {
    private let value: Mutex<String>
    init(text: String) { value = Mutex(text) }
    var text: String { value.withLock(\.self) }
    func set(_ text: String) { value.withLock { $0 = text } }
}

/// Ends the children when the server has finished.
///
/// Services stop in reverse order, so HTTP drains first.
private struct ChildrenService: Service {
    let supervisor: Supervisor

    func run() async throws {
        try? await gracefulShutdown()
        await supervisor.stop()
    }
}
