internal import Basics
internal import Logging
internal import Synchronization
internal import Wire

/// Answers ``ServeRequest`` messages on the admin socket; a thread for each client.
final class AdminServer: Sendable {
    private let path: String
    private let listener: Int32
    private let supervisor: Supervisor
    private let predictor: PredictionService
    private let address: @Sendable () -> String
    private let onStop: @Sendable () -> Void
    private let logger: Logger

    /// Starts to listen; the folder of `path` must be private.
    ///
    /// - Parameters:
    ///   - address: where HTTP is spoken.
    ///   - onStop: called when somebody asked for the end.
    /// - Throws: ``ServingError``, `FileError`.
    init(
        path: String,
        supervisor: Supervisor,
        predictor: PredictionService,
        logger: Logger,
        address: @escaping @Sendable () -> String,
        onStop: @escaping @Sendable () -> Void
    ) throws {
        self.path = path
        self.supervisor = supervisor
        self.predictor = predictor
        self.logger = logger
        self.address = address
        self.onStop = onStop
        listener = try LocalSocket.listen(path)
        OSThread.start(name: "serve") { [self] in
            while let client = LocalSocket.accept(listener) {
                OSThread.start(name: "serve") { [self] in converse(FrameChannel(socket: client)) }
            }
        }
    }

    /// Stops to listen and removes the socket.
    func stop() {
        LocalSocket.shut(listener)
        // Nobody can be helped when the folder is gone already.
        try? Files.remove(path)
    }

    private func converse(_ channel: FrameChannel) {
        do {
            while let frame = try channel.receive() {
                let reply = try answer(frame, channel)
                // Behind the reply: the process may be gone before another word gets out.
                defer { if reply == .stopping { onStop() } }
                try channel.send(reply)
            }
        } catch {
            logger.debug("an admin conversation broke off: \(error)")
        }
    }

    private func answer(_ frame: Frame, _ channel: FrameChannel) throws -> ServeReply {
        let request: ServeRequest
        do {
            guard frame.kind == .message else { throw FrameError.malformed("a message should come here") }
            request = try MessageCoding.decode(ServeRequest.self, from: frame.payload)
        } catch let error as DecodingError {
            return .refused(
                message: "coord-serve does not know this request: \(error)",
                hint: "coord up, then coord deploy: they bring the matching programs"
            )
        }
        switch request {
        case .release(let version, let folder):
            guard folder.hasPrefix("/") else {
                return .refused(message: "the folder '\(folder)' is no absolute path", hint: nil)
            }
            return supervisor.ask { .release(Placement(version: version, folder: folder), ticket: $0) }
        case .rollback:
            return supervisor.ask { .rollback(ticket: $0) }
        case .status:
            return .status(status)
        case .predict(let count):
            guard let values = try channel.receive(), values.kind == .bytes else {
                throw FrameError.malformed("bytes should follow a predict request")
            }
            return predict(count, values.payload)
        case .stop: return .stopping
        }
    }

    private var status: ServeStatus {
        let entries = supervisor.table.entries
        let live = supervisor.table.live?.version
        return supervisor.metrics.withLock { metrics in
            ServeStatus(
                listen: address(),
                live: live,
                previous: entries.dropFirst().first?.version,
                requests: metrics.requestCount,
                errors: metrics.errorCount,
                p95Milliseconds: metrics.p95 * 1000
            )
        }
    }

    private func predict(_ count: Int, _ bytes: [UInt8]) -> ServeReply {
        guard bytes.count == count * 4 else {
            return .refused(message: "\(count) values were announced, \(bytes.count) bytes came", hint: nil)
        }
        let values = RawValues.values(Float.self, bytes[...])
        do {
            let (version, signature, prediction) = try predictor.predictOne(values)
            return .prediction(
                version: version,
                classes: signature.classes,
                probabilities: prediction.probabilities
            )
        } catch {
            let explained = error as? any ExplainedError
            return .refused(message: explained?.message ?? "\(error)", hint: explained?.hint)
        }
    }
}
