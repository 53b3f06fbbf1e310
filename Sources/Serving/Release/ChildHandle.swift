internal import Basics
internal import Dispatch
internal import Synchronization
internal import Wire

/// The router's side of one child: its process, and the conversation that carries requests to it.
///
/// Requests that arrive while the child computes wait and then go together, up to ``batchRows`` rows a call: a batch
/// forms by itself under load and an idle child adds no delay.
final class ChildHandle: Sendable {
    /// What a request gets.
    typealias Answer = Result<Prediction, ServingError>

    private struct Job: Sendable {
        var values: [Float]
        var rows: Int
        var completion: @Sendable (Answer) -> Void
    }

    private struct State {
        var jobs: [Job] = []
        /// Values that wait; bounds the memory.
        var waitingValues = 0
        var isOpen = true
    }

    /// Rows that one call of the model takes at most.
    static let batchRows = 32
    /// Requests that may wait for one child; more are answered 503.
    static let maximumWaiting = 512
    /// Values that may wait for one child, 512 MiB.
    static let maximumWaitingValues = 1 << 27
    /// How long one call may take before the child counts as stuck; unit: milliseconds.
    static let callMilliseconds: Int32 = 30_000

    let id: ChildID
    let placement: Placement
    private let process: ChildProcess
    private let channel: FrameChannel
    private let state = Mutex(State())
    private let wake = DispatchSemaphore(value: 0)
    private let heard = DispatchSemaphore(value: 0)
    private let loadedSignature = Mutex<ModelSignature?>(nil)

    /// Starts the process.
    ///
    /// The calling thread must live as long as the router: the child dies with it.
    ///
    /// - Parameters:
    ///   - memory: limit on the child's address space; unit: bytes.
    ///   - report: gets `.loaded` or `.failed` once, and `.exited` at the end; called on threads of this object.
    /// - Throws: ``ServingError`` `.failed` when it can't be started.
    init(
        _ id: ChildID,
        _ placement: Placement,
        memory: UInt64?,
        report: @escaping @Sendable (ReleaseMachine.Event) -> Void
    ) throws {
        self.id = id
        self.placement = placement
        let kernels = Machine.kernels
        // OpenBLAS chooses its kernels while it is loaded, so the choice must stand before exec.
        var environment = Machine.environment.filter {
            !$0.hasPrefix("OPENBLAS_") && !$0.hasPrefix("OMP_NUM_THREADS=")
        }
        environment.append("OPENBLAS_NUM_THREADS=1")
        if let kernels { environment.append("OPENBLAS_CORETYPE=\(kernels.openBLASCoreType)") }
        var arguments = [Machine.executable, "child", "--folder", placement.folder]
        if let kernels { arguments += ["--kernels", kernels.rawValue] }
        if let memory { arguments += ["--memory", "\(memory)"] }
        let (mine, theirs) = try LocalSocket.pair()
        channel = FrameChannel(socket: mine)
        do {
            defer { LocalSocket.close(theirs) }
            process = try ChildProcess(
                arguments,
                environment: environment,
                files: [-1, 2, 2, theirs],
                diesWithParent: true
            )
        } catch {
            throw ServingError(.failed, "\(error)")
        }
        OSThread.start(name: "serve") { [self] in converse(report) }
        OSThread.start(name: "serve") { [self] in
            let exit = process.wait()
            // Why it ended counts before that it ended.
            heard.wait()
            channel.close()
            shut()
            report(.exited(id, how: exit.description))
        }
    }

    /// The child's process id.
    var pid: Int32 { process.pid }
    /// What the model takes and gives; nil until it is loaded.
    var signature: ModelSignature? { loadedSignature.withLock(\.self) }

    /// Queues rows; `completion` is called exactly once, on this object's thread or at once.
    ///
    /// - Parameter values: `[rows, inputCount]`.
    func submit(_ values: [Float], rows: Int, completion: @escaping @Sendable (Answer) -> Void) {
        let refusal: ServingError? = state.withLock { state in
            guard state.isOpen else { return Self.gone }
            guard state.jobs.count < Self.maximumWaiting,
                state.waitingValues + values.count <= Self.maximumWaitingValues || state.jobs.isEmpty
            else {
                return ServingError(.notReady, "too many requests are waiting", hint: "try again in a moment")
            }
            state.jobs.append(Job(values: values, rows: rows, completion: completion))
            state.waitingValues += values.count
            return nil
        }
        if let refusal { completion(.failure(refusal)) } else { wake.signal() }
    }

    /// Queues rows and waits for the answer.
    ///
    /// - Throws: ``ServingError`` `.childGone`, `.notReady`, `.failed`.
    func predict(_ values: [Float], rows: Int) async throws -> Prediction {
        try await withCheckedContinuation { continuation in
            submit(values, rows: rows) { continuation.resume(returning: $0) }
        }.get()
    }

    /// Takes no more requests, answers those that wait, then ends the child.
    func end() {
        state.withLock { $0.isOpen = false }
        wake.signal()
    }

    /// Ends the child now; what it has is answered with `.childGone`.
    ///
    /// To be called before ``ReleaseMachine/Event/exited(_:how:)`` only: afterwards the number may be somebody else's.
    func kill() {
        shut()
        process.signal(9)
    }

    private static let gone = ServingError(
        .childGone,
        "the model's process ended while it had the request",
        hint: "send the request again"
    )

    /// Closes the queue and answers what is in it.
    private func shut() {
        let jobs = state.withLock { state in
            state.isOpen = false
            state.waitingValues = 0
            defer { state.jobs = [] }
            return state.jobs
        }
        for job in jobs { job.completion(.failure(Self.gone)) }
        wake.signal()
    }

    /// Waits for the child's report, then carries batches until the queue is closed.
    private func converse(_ report: @Sendable (ReleaseMachine.Event) -> Void) {
        let signature = hear(report)
        heard.signal()
        if let signature { while let batch = nextBatch() { carry(batch, signature) } }
        // The end of the conversation is the child's sign to end.
        channel.close()
    }

    /// Takes the child's first word: the model's signature, or nil when it could not be loaded.
    private func hear(_ report: (ReleaseMachine.Event) -> Void) -> ModelSignature? {
        do {
            guard let frame = try channel.receive() else { return nil }
            switch try MessageCoding.decode(ChildReport.self, from: frame.payload) {
            case .ready(let signature, let difference):
                loadedSignature.withLock { $0 = signature }
                report(.loaded(id, difference: difference ?? .nan))
                return signature
            case .failed(let message, let hint):
                report(.failed(id, message: message, hint: hint))
            }
        } catch {
            report(.failed(id, message: "it speaks in riddles: \(error)", hint: nil))
        }
        return nil
    }

    private func nextBatch() -> [Job]? {
        while true {
            let (batch, isOpen) = state.withLock { state -> ([Job], Bool) in
                var count = 0
                var rows = 0
                for job in state.jobs where count == 0 || rows + job.rows <= Self.batchRows {
                    rows += job.rows
                    count += 1
                    if rows >= Self.batchRows { break }
                }
                let batch = Array(state.jobs.prefix(count))
                state.jobs.removeFirst(count)
                state.waitingValues -= batch.reduce(0) { $0 + $1.values.count }
                return (batch, state.isOpen)
            }
            if !batch.isEmpty { return batch }
            guard isOpen else { return nil }
            wake.wait()
        }
    }

    private func carry(_ batch: [Job], _ signature: ModelSignature) {
        let answer: Answer
        do {
            answer = .success(
                try call(batch.count == 1 ? batch[0].values : batch.flatMap(\.values), signature)
            )
        } catch let error as ServingError {
            answer = .failure(error)
        } catch {
            // The conversation is out of step or the child is stuck: it can't be used any more.
            process.signal(9)
            answer = .failure(Self.gone)
        }
        var first = 0
        for job in batch {
            let range = first * signature.classes.count..<(first + job.rows) * signature.classes.count
            first += job.rows
            job.completion(
                answer.map {
                    Prediction(logits: Array($0.logits[range]), probabilities: Array($0.probabilities[range]))
                }
            )
        }
    }

    /// Sends rows in frames of at most ``batchRows`` rows.
    private func call(_ values: [Float], _ signature: ModelSignature) throws -> Prediction {
        var result = Prediction(logits: [], probabilities: [])
        let size = signature.inputCount
        let step = max(1, min(Self.batchRows, (FrameChannel.maximumPayload / 4) / size)) * size
        for start in stride(from: 0, to: values.count, by: step) {
            let part = Array(values[start..<min(start + step, values.count)])
            try channel.send(Frame(.bytes, RawValues.bytes(part)))
            guard let frame = try channel.receive(timeoutMilliseconds: Self.callMilliseconds) else {
                throw FrameError.truncated
            }
            guard frame.kind == .bytes else {
                guard
                    case .failed(let message, let hint) = try MessageCoding.decode(
                        ChildReport.self,
                        from: frame.payload
                    )
                else { throw FrameError.malformed("a report instead of an answer") }
                throw ServingError(.failed, message, hint: hint)
            }
            let count = part.count / size * signature.classes.count
            guard frame.payload.count == count * 12 else { throw FrameError.malformed("size of an answer") }
            result.logits += RawValues.values(Float.self, frame.payload[..<(count * 4)])
            result.probabilities += RawValues.values(Double.self, frame.payload[(count * 4)...])
        }
        return result
    }
}
