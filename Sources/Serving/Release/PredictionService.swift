internal import Basics
internal import Dispatch
internal import Synchronization
internal import Wire

/// Brings rows to the child that should answer, once more when that child dies meanwhile, and counts.
final class PredictionService: Sendable {
    private let supervisor: Supervisor

    init(supervisor: Supervisor) { self.supervisor = supervisor }

    /// Asks the child of a model.
    ///
    /// A prediction changes nothing, so a request whose child died is sent to the next one, once.
    ///
    /// - Parameter prepare: checks the request against a model and gives `[rows, inputCount]` values.
    /// - Returns: who answered, and what.
    /// - Throws: ``ServingError``.
    func predict<Request: Sendable>(
        model: String,
        version: Int?,
        prepare: (ServedVersion, ModelSignature) throws -> (request: Request, values: [Float], rows: Int)
    ) async throws -> (
        version: ServedVersion, signature: ModelSignature, request: Request, prediction: Prediction
    ) {
        var dead: ChildID?
        for attempt in 0... {
            let entry = try await supervisor.table.child(model: model, version: version, not: dead)
            guard let child = entry.child, let signature = child.signature else { break }
            let (request, values, rows) = try prepare(entry.version, signature)
            do {
                let prediction = try await child.predict(values, rows: rows)
                return (entry.version, signature, request, prediction)
            } catch let error as ServingError where error.code == .childGone && attempt == 0 {
                dead = child.id
            }
        }
        throw ServingError(.failed, "a child without a model stood in the table")
    }

    /// Asks the live version for one sample and blocks until it answers.
    ///
    /// - Parameter values: `[inputCount]`.
    /// - Throws: ``ServingError``.
    func predictOne(
        _ values: [Float]
    ) throws -> (version: ServedVersion, signature: ModelSignature, prediction: Prediction) {
        typealias Outcome = Result<
            (version: ServedVersion, signature: ModelSignature, request: Void, prediction: Prediction),
            any Error
        >
        guard let model = supervisor.table.live?.version.model else {
            throw ServingError(.notReady, "no version is live", hint: "release one with coord deploy")
        }
        let start = ContinuousClock.now
        let outcome = Mutex<Outcome?>(nil)
        let done = DispatchSemaphore(value: 0)
        // The bridge from a thread of the admin socket, which may block, to the asynchronous path of HTTP.
        Task {
            let result: Outcome
            do {
                result = .success(
                    try await predict(model: model, version: nil) { version, signature in
                        guard values.count == signature.inputCount else {
                            throw ServingError(
                                .badRequest,
                                "\(values.count) values, the model \(version.text) takes "
                                    + "\(signature.inputCount) (shape \(signature.inputShape))"
                            )
                        }
                        return ((), values, 1)
                    }
                )
            } catch {
                result = .failure(error)
            }
            outcome.withLock { $0 = result }
            done.signal()
        }
        done.wait()
        switch outcome.withLock(\.self) {
        case .success(let found):
            record(found.version, 200, since: start)
            return (found.version, found.signature, found.prediction)
        case .failure(let error):
            record(nil, (error as? ServingError)?.httpStatus ?? 500, since: start)
            throw error
        case nil: preconditionFailure("the semaphore is signalled after the outcome")
        }
    }

    /// Counts a request.
    func record(_ version: ServedVersion?, _ code: Int, since start: ContinuousClock.Instant) {
        let seconds = start.duration(to: .now) / Duration.seconds(1)
        supervisor.metrics.withLock { $0.record(version: version, code: code, seconds: seconds) }
    }
}
