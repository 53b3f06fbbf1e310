internal import Basics
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// What a child says once, before it takes requests.
enum ChildReport: Codable, Sendable {
    /// The model is loaded; `difference` is the largest one over the golden examples, nil when it is no number.
    case ready(signature: ModelSignature, difference: Double?)
    /// The model can't be served.
    case failed(message: String, hint: String?)
}

/// The process that holds one loaded version: reads rows on descriptor 3, answers logits and probabilities.
///
/// A request is a bytes frame of float32 values `[n, inputCount]`; the answer a bytes frame of `[n, K]` float32 logits
/// followed by `[n, K]` float64 probabilities, or a message frame with ``ChildReport/failed(message:hint:)``.
/// Ends when the router closes the conversation or dies.
enum ChildProgram {
    /// The descriptor of the conversation.
    static let descriptor: Int32 = 3

    /// Runs until the router is gone.
    static func run(_ options: ChildOptions) -> ExitCode {
        signal(SIGPIPE, SIG_IGN)
        // A Ctrl-C or a stop of the group is the router's business: it lets children finish first.
        signal(SIGINT, SIG_IGN)
        signal(SIGTERM, SIG_IGN)
        if let memory = options.memory { limitMemory(memory) }
        let channel = FrameChannel(socket: descriptor)
        let model: any Predicting
        do {
            let folder = ModelFolder(path: options.folder)
            model = try folder.load(kernels: options.kernels ?? Machine.kernels)
            let difference = try folder.goldenDifference(model)
            try channel.send(
                ChildReport.ready(
                    signature: model.signature,
                    difference: difference.isFinite ? difference : nil
                )
            )
        } catch {
            let explained = error as? any ExplainedError
            // When the router is gone too there is nobody to tell.
            try? channel.send(
                ChildReport.failed(message: explained?.message ?? "\(error)", hint: explained?.hint)
            )
            return explained?.exitCode ?? .failed
        }
        return serve(model, channel)
    }

    private static func serve(_ model: any Predicting, _ channel: FrameChannel) -> ExitCode {
        let size = model.signature.inputCount
        do {
            while let frame = try channel.receive() {
                let inputs = RawValues.values(Float.self, frame.payload[...])
                let answer: Frame
                do {
                    let prediction = try model.predict(inputs, count: inputs.count / size)
                    answer = Frame(
                        .bytes,
                        RawValues.bytes(prediction.logits) + RawValues.bytes(prediction.probabilities)
                    )
                } catch {
                    let message = (error as? any ExplainedError)?.message ?? "\(error)"
                    answer = Frame(
                        .message,
                        try MessageCoding.encode(ChildReport.failed(message: message, hint: nil))
                    )
                }
                try channel.send(answer)
            }
            return .ok
        } catch {
            // The router died in the middle of a frame.
            return .failed
        }
    }

    private static func limitMemory(_ bytes: UInt64) {
        var limit = rlimit(rlim_cur: rlim_t(bytes), rlim_max: rlim_t(bytes))
        setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
    }
}
