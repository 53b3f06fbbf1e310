internal import Basics
internal import Wire

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// An address to listen on, by number: a static program can't ask for names.
struct ListenAddress: Equatable, Sendable {
    /// `127.0.0.1`, `::1`.
    var host: String
    /// 0 = any free port.
    var port: Int

    /// Reads `HOST:PORT` or `[HOST]:PORT`; `localhost` means 127.0.0.1.
    ///
    /// - Throws: ``ServingError`` `.badListener`.
    init(_ text: String) throws {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            throw ServingError(.badListener, "'\(text)' is no address", hint: "write it as 127.0.0.1:8000")
        }
        var host = String(text[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        if host == "localhost" { host = "127.0.0.1" }
        var room = [UInt8](repeating: 0, count: 16)
        guard inet_pton(AF_INET, host, &room) == 1 || inet_pton(AF_INET6, host, &room) == 1 else {
            throw ServingError(
                .badListener,
                "'\(host)' is no numeric address",
                hint: "listen on 127.0.0.1, or on the number of one of this host's addresses"
            )
        }
        self.host = host
        self.port = Int(port)
    }

    /// True for an address that only this host can reach.
    var isLoopback: Bool {
        var room = [UInt8](repeating: 0, count: 16)
        if inet_pton(AF_INET, host, &room) == 1 { return room[0] == 127 }
        guard inet_pton(AF_INET6, host, &room) == 1 else { return false }
        return room.dropLast().allSatisfy { $0 == 0 } && room[15] == 1
    }

    /// `127.0.0.1:8000`, `[::1]:8000`.
    var text: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// What the command line of `coord-serve` says.
enum ServeOptions: Equatable, Sendable {
    /// The process that speaks HTTP.
    case router(RouterOptions)
    /// The process that holds one loaded version; started by the router only.
    case child(ChildOptions)
    /// `--help`.
    case help

    static let usage = """
        usage: coord-serve --directory DIR --listen HOST:PORT [--token-env NAME] [--child-memory BYTES]

          --directory DIR       private folder for the admin socket and the state
          --listen HOST:PORT    where HTTP is spoken; port 0 = any free one (see DIR/address)
          --token-env NAME      environment variable with the token that clients must send
                                (Authorization: Bearer …); needed off loopback
          --child-memory BYTES  limit on the address space of a model's process
          --ready-fd N          descriptor that gets one byte once requests are answered

        example: coord-serve --directory /tmp/serve --listen 127.0.0.1:8000
        """

    /// Reads the arguments behind the program's name.
    ///
    /// - Throws: ``ServingError`` `.usage`, `.badListener`.
    init(_ arguments: [String]) throws {
        if arguments.contains("--help") || arguments.contains("-h") {
            self = .help
            return
        }
        let isChild = arguments.first == "child"
        let known: Set =
            isChild
            ? ["--folder", "--kernels", "--memory"]
            : ["--directory", "--listen", "--token-env", "--child-memory", "--ready-fd"]
        var values: [String: String] = [:]
        var rest = arguments.dropFirst(isChild ? 1 : 0)
        while let name = rest.popFirst() {
            guard known.contains(name) else {
                throw ServingError(.usage, "unknown option '\(name)'", hint: "see coord-serve --help")
            }
            guard let value = rest.popFirst() else {
                throw ServingError(.usage, "\(name) needs a value", hint: "see coord-serve --help")
            }
            values[name] = value
        }
        func required(_ name: String) throws -> String {
            guard let value = values[name], !value.isEmpty else {
                throw ServingError(.usage, "\(name) is missing", hint: "see coord-serve --help")
            }
            return value
        }
        func bytes(_ name: String) throws -> UInt64? {
            guard let text = values[name] else { return nil }
            guard let number = UInt64(text), number > 0 else {
                throw ServingError(.usage, "\(name) '\(text)' is no number of bytes")
            }
            return number
        }
        if isChild {
            let kernels = try values["--kernels"].map { text in
                guard let set = KernelSet(rawValue: text) else {
                    throw ServingError(.usage, "unknown kernel set '\(text)'")
                }
                return set
            }
            self = .child(
                ChildOptions(
                    folder: try required("--folder"),
                    kernels: kernels,
                    memory: try bytes("--memory")
                )
            )
        } else {
            self = .router(
                RouterOptions(
                    directory: try required("--directory"),
                    listen: try ListenAddress(try required("--listen")),
                    tokenVariable: values["--token-env"],
                    childMemory: try bytes("--child-memory"),
                    readyDescriptor: values["--ready-fd"].flatMap { Int32($0) }
                )
            )
        }
    }
}

/// How the router runs.
struct RouterOptions: Equatable, Sendable {
    /// The private folder.
    var directory: String
    /// Where HTTP is spoken.
    var listen: ListenAddress
    /// The name of the environment variable that holds the token.
    var tokenVariable: String?
    /// Limit on a child's address space; unit: bytes.
    var childMemory: UInt64?
    /// Gets one byte, and is closed, once requests are answered.
    var readyDescriptor: Int32?

    /// The token that clients must show; nil = none is asked for.
    ///
    /// - Throws: ``ServingError`` `.badListener` for a listener off loopback without one, or an empty variable.
    func token(environment: (String) -> String?) throws -> Redacted<String>? {
        guard let name = tokenVariable else {
            guard listen.isLoopback else {
                throw ServingError(
                    .badListener,
                    "refusing to listen on \(listen.text), which others can reach, without a token",
                    hint: "give --token-env NAME, or listen on 127.0.0.1"
                )
            }
            return nil
        }
        guard let value = environment(name), !value.isEmpty else {
            throw ServingError(
                .badListener,
                "the environment variable \(name) holds no token",
                hint: "set \(name) in the environment of coord-serve"
            )
        }
        return Redacted(value)
    }
}

/// How a child runs.
struct ChildOptions: Equatable, Sendable {
    /// The folder with the model.
    var folder: String
    /// The kernel set; nil = the machine's best.
    var kernels: KernelSet?
    /// Limit on the address space; unit: bytes.
    var memory: UInt64?
}
