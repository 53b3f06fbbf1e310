/// What a request asks for, by method and path.
enum ServeRoute: Equatable, Sendable {
    case server
    case live
    case ready
    case repositoryIndex
    case model(String, version: Int?)
    case modelReady(String, version: Int?)
    case infer(String, version: Int?)
    case metrics

    /// True for what only holders of the token may do.
    var needsToken: Bool {
        switch self {
        case .infer, .metrics: true
        default: false
        }
    }

    /// Finds the route.
    ///
    /// - Throws: ``ServingError`` `.notFound`, `.methodNotAllowed`.
    init(method: String, path: String) throws {
        let unknown = ServingError(.notFound, "there is no path \(path)")
        let parts = path.split(separator: "/").map { Self.decoded($0) }
        let route: ServeRoute
        switch parts {
        case ["v2"]: route = .server
        case ["v2", "health", "live"]: route = .live
        case ["v2", "health", "ready"]: route = .ready
        case ["v2", "repository", "index"]: route = .repositoryIndex
        case ["metrics"]: route = .metrics
        default:
            guard parts.count >= 3, parts[0] == "v2", parts[1] == "models" else { throw unknown }
            var rest = parts[3...]
            var version: Int?
            if rest.first == "versions" {
                guard rest.count >= 2 else { throw unknown }
                guard let number = Int(rest[rest.startIndex + 1]) else {
                    throw ServingError(
                        .notFound,
                        "\(parts[2]) has no version \(JSON.quoted(rest[rest.startIndex + 1]))"
                    )
                }
                version = number
                rest = rest.dropFirst(2)
            }
            switch Array(rest) {
            case []: route = .model(parts[2], version: version)
            case ["ready"]: route = .modelReady(parts[2], version: version)
            case ["infer"]: route = .infer(parts[2], version: version)
            default: throw unknown
            }
        }
        let needed =
            switch route {
            case .infer, .repositoryIndex: "POST"
            default: "GET"
            }
        guard method == needed else {
            throw ServingError(.methodNotAllowed, "\(path) takes \(needed), not \(method)")
        }
        self = route
    }

    /// Undoes `%2F`; a stray percent sign stays.
    private static func decoded(_ part: Substring) -> String {
        guard part.contains("%") else { return String(part) }
        let bytes = Array(part.utf8)
        var out: [UInt8] = []
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "%"), index + 2 < bytes.count,
                let value = UInt8(String(decoding: bytes[index + 1...index + 2], as: UTF8.self), radix: 16)
            {
                out.append(value)
                index += 3
            } else {
                out.append(bytes[index])
                index += 1
            }
        }
        return String(decoding: out, as: UTF8.self)
    }
}
