internal import Basics
internal import ClusterFile
internal import Remote
internal import Synchronization

/// The account at RunPod that the pods of the cluster belong to; it is read, never changed.
///
/// Asked over REST by the `curl` program. The key goes there on its standard input, and nowhere else.
public final class PodAccount: Sendable {
    /// Names the environment variable that holds the API key.
    public static let keyVariable = "RUNPOD_API_KEY"
    /// Names the one with another base URL than RunPod's, for tests and proxies.
    public static let baseVariable = "RUNPOD_API_BASE"

    /// How long a question may take: to connect, and in all; unit: seconds.
    private static let patience = (connect: 5, total: 10)

    private struct State {
        var key: Redacted<String>?
        /// The provider asked for peace until then.
        var silentUntil: ContinuousClock.Instant?
        /// Where pods were when the provider last said so.
        var places: [String: Pod.Place] = [:]
    }

    private let state: Mutex<State>
    private let base: String?

    /// The account of the key in the environment.
    public init() {
        state = Mutex(State(key: Self.environmentKey.map { Redacted($0) }))
        base = Machine.environment(Self.baseVariable)
    }

    /// The key in this process's environment; nil without one.
    public static var environmentKey: String? {
        Machine.environment(keyVariable).map { String($0.drop(while: \.isWhitespace)) }.flatMap {
            var key = $0
            while key.last?.isWhitespace == true { key.removeLast() }
            return key.isEmpty ? nil : key
        }
    }

    /// True when the provider can be asked.
    public var hasKey: Bool { state.withLock { $0.key != nil } }

    /// Takes a key that somebody brought later.
    func use(_ key: String) { state.withLock { $0.key = Redacted(key) } }

    // MARK: Questions

    /// All pods of the account; blocks.
    ///
    /// - Throws: ``PodError``.
    /// - Cost: one request, 10 s at most.
    public func pods() throws -> PodList {
        let body = try ask(nil)
        guard let list = PodList(reply: body) else { throw Self.nonsense("a list of pods", body) }
        state.withLock { state in
            for pod in list.pods { state.places[pod.id] = pod.place }
        }
        return list
    }

    /// One pod, as it is now; blocks.
    ///
    /// - Throws: ``PodError`` `.gone` when there is none any more.
    /// - Cost: one request, 10 s at most.
    public func pod(_ id: String) throws -> Pod {
        let body = try ask(id)
        guard let pod = Pod(reply: body), pod.id == id else { throw Self.nonsense("pod \(id)", body) }
        state.withLock { $0.places[id] = pod.place }
        return pod
    }

    /// Where a host's pod answers SSH now; blocks.
    ///
    /// While the provider does not answer, where it was last, or what the cluster file says: its key tells whether it is there.
    ///
    /// - Returns: nil when the cluster file alone decides: no pod, or no key to ask with.
    /// - Throws: ``PodError``, with the host's name.
    func place(of spec: HostSpec) throws -> Pod.Place? {
        guard let id = spec.pod else { return nil }
        guard hasKey else {
            if !spec.address.isEmpty { return nil }
            throw PodError(
                .noKey,
                "\(spec.name): nobody can tell where pod \(id) is: the cluster file has no `address:`, and "
                    + "\(Self.keyVariable) is not set",
                hint: "put an API key of RunPod into \(Self.keyVariable), or write `address:` and `port:`"
            )
        }
        do {
            return try Self.place(of: try pod(id))
        } catch var error as PodError {
            if error.isTheirs {
                if let last = state.withLock({ $0.places[id] }) { return last }
                if !spec.address.isEmpty { return nil }
            }
            error.message = "\(spec.name): \(error.message)"
            throw error
        }
    }

    /// Where a pod answers SSH.
    ///
    /// - Throws: ``PodError`` `.gone`, `.notReady` when it answers none.
    static func place(of pod: Pod) throws -> Pod.Place {
        if pod.status == .terminated {
            throw PodError(
                .gone,
                "pod \(pod.id) was deleted (\(pod.status.word))",
                hint: "rent another one and write its id as `pod:`, or take the host out of the cluster file"
            )
        }
        if pod.status == .exited || pod.status == .error {
            throw PodError(
                .notReady,
                "pod \(pod.id) is stopped (\(pod.status.word))",
                hint: "runpodctl pod start \(pod.id)"
            )
        }
        guard let place = pod.place else {
            throw PodError(
                .notReady,
                "pod \(pod.id) is \(pod.status.word) and has no public port for SSH"
                    + (pod.status == .running ? "" : " yet"),
                hint: pod.status == .running
                    ? "expose TCP port 22 of it at console.runpod.io (Edit Pod)" : "try again when it runs"
            )
        }
        return place
    }

    private static func nonsense(_ what: String, _ body: [UInt8]) -> PodError {
        let begin = ForeignText.line(String(decoding: body.prefix(80), as: UTF8.self))
        return PodError(
            .nonsense,
            "RunPod was asked for \(what) and answered something else: \(begin)",
            hint: "look at \(baseVariable), and for a proxy on the way"
        )
    }

    // MARK: HTTP

    /// Asks version 2, and version 1 where there is no version 2.
    private func ask(_ pod: String?) throws -> [UInt8] {
        let (key, wait) = state.withLock { ($0.key, $0.silentUntil.map { $0 - .now }) }
        guard let key else { throw PodError(.noKey, "\(Self.keyVariable) is not set") }
        if let wait, wait > .zero {
            throw PodError(
                .tooMany,
                "RunPod asked for peace for another \(wait.components.seconds + 1) s (429)"
            )
        }
        for url in try Self.urls(base: base, pod: pod) {
            let reply = try fetch(url, key.value)
            switch PodAnswer(reply, pod: pod, secret: key.value) {
            case .body(let body): return body
            case .otherVersion: continue
            case .refused(let code, let message, let hint, let wait):
                if let wait { state.withLock { $0.silentUntil = .now + wait } }
                throw PodError(code, message, hint: hint)
            }
        }
        throw PodError(
            .nonsense,
            "there is no API of RunPod's at \(base ?? "api.runpod.io"): neither version 2 nor version 1",
            hint: "look at \(Self.baseVariable), and for a newer coord"
        )
    }

    /// What to ask, the newest version first.
    ///
    /// - Throws: ``PodError`` `.badSetting` for a base that is no URL, or would send the key in clear over a network.
    static func urls(base: String?, pod: String?) throws -> [String] {
        let end = pod.map { "/\($0)" } ?? ""
        guard let base else {
            return ["https://api.runpod.io/v2/pods\(end)", "https://rest.runpod.io/v1/pods\(end)"]
        }
        let isPlain = base.utf8.allSatisfy { (0x21...0x7E).contains($0) && $0 != 0x22 && $0 != 0x5C }
        let isLocal = ["127.0.0.1", "localhost", "[::1]"].contains {
            base.hasPrefix("http://\($0):") || base == "http://\($0)" || base.hasPrefix("http://\($0)/")
        }
        guard isPlain, !base.contains("@"), base.hasPrefix("https://") || isLocal else {
            throw PodError(
                .badSetting,
                "\(baseVariable) must be a URL that begins with https://, or with http:// on this machine",
                hint: "unset \(baseVariable): it is https://api.runpod.io then"
            )
        }
        let trimmed = base.hasSuffix("/") ? String(base.dropLast()) : base
        return ["\(trimmed)/v2/pods\(end)", "\(trimmed)/v1/pods\(end)"]
    }

    /// What curl reads from its standard input: other users see a program's arguments.
    ///
    /// - Throws: ``PodError`` `.badSetting` for a key that is none.
    static func configuration(url: String, key: String) throws -> String {
        guard key.utf8.allSatisfy({ (0x21...0x7E).contains($0) && $0 != 0x22 && $0 != 0x5C }) else {
            throw PodError(
                .badSetting,
                "\(keyVariable) holds characters that no key has",
                hint: "copy the key anew"
            )
        }
        return """
            url = "\(url)"
            header = "Authorization: Bearer \(key)"
            header = "Accept: application/json"
            user-agent = "coord"
            proto = "=http,https"
            include
            suppress-connect-headers
            silent
            show-error
            compressed
            connect-timeout = \(patience.connect)
            max-time = \(patience.total)
            max-filesize = \(PodAnswer.sizeLimit)

            """
    }

    private func fetch(_ url: String, _ key: String) throws -> HTTPReply {
        let input = Array(try Self.configuration(url: url, key: key).utf8)
        let result: CommandResult
        do {
            // -q: no configuration of the person's own.
            result = try LocalHost(name: "curl").run(
                "exec curl -q -K -",
                input: input,
                timeout: .seconds(Self.patience.total + 5)
            )
        } catch let error as RemoteError {
            throw PodError(.unreachable, "RunPod could not be asked: \(error.message)", hint: error.hint)
        }
        guard result.exit.isSuccess else {
            throw Self.failure(result.exit, String(decoding: result.errors, as: UTF8.self))
        }
        guard let reply = HTTPReply(result.output) else {
            throw PodError(
                .nonsense,
                "what answered for RunPod is no web server",
                hint: "look at \(Self.baseVariable)"
            )
        }
        return reply
    }

    /// Why curl had no reply.
    static func failure(_ exit: ProcessExit, _ errors: String) -> PodError {
        if exit == .exited(127) {
            return PodError(
                .missingTool,
                "curl is missing, by which RunPod is asked",
                hint: "install it (`apt-get install curl`), or write `address:` and `port:`"
            )
        }
        if exit == .exited(63) {
            return PodError(.nonsense, "RunPod's reply is larger than \(ByteCount(PodAnswer.sizeLimit))")
        }
        let words = ForeignText.line(errors.split(separator: "\n").last ?? "\(exit)")
        return PodError(
            .unreachable,
            "RunPod could not be asked: \(words.isEmpty ? exit.description : words)",
            hint: "look at the network, and at https_proxy; `address:` and `port:` do without"
        )
    }
}
