internal import Basics
internal import FoundationEssentials

/// A rented machine, as its provider describes it.
public struct Pod: Hashable, Sendable {
    /// What a pod is doing, in RunPod's words.
    public enum Status: Hashable, Sendable {
        case provisioning, starting, running
        /// Stopped: its disk is kept and billed, its container is gone.
        case exited
        case error
        /// Deleted, with all that was on it.
        case terminated
        /// A word that is newer than this program.
        case other(String)

        init(_ word: String) {
            switch word.uppercased() {
            case "PROVISIONING", "CREATED": self = .provisioning
            case "STARTING", "RESTARTING": self = .starting
            case "RUNNING": self = .running
            case "EXITED": self = .exited
            case "ERROR": self = .error
            case "TERMINATED": self = .terminated
            default: self = .other(word)
            }
        }

        /// RunPod's word for it.
        var word: String {
            switch self {
            case .provisioning: "PROVISIONING"
            case .starting: "STARTING"
            case .running: "RUNNING"
            case .exited: "EXITED"
            case .error: "ERROR"
            case .terminated: "TERMINATED"
            case .other(let word): word
            }
        }
    }

    /// Where a pod answers SSH.
    public struct Place: Hashable, Sendable {
        var address: String
        var port: UInt16
        var user: String?
    }

    /// RunPod's id.
    public var id: String
    /// The name that somebody gave it.
    public var name: String
    /// What it is doing.
    public var status: Status
    /// What an hour costs now; unit: USD; nil when it was not told.
    public var pricePerHour: Double?
    /// Where port 22 is mapped to; nil until it is.
    public var place: Place?

    /// True while it costs more than its disk.
    var bills: Bool {
        switch status {
        case .terminated, .exited: false
        case .provisioning, .starting, .running: pricePerHour.map { $0 > 0 } ?? true
        case .error, .other: pricePerHour.map { $0 > 0 } ?? false
        }
    }
}

/// The pods of an account, as far as the reply made sense.
public struct PodList: Hashable, Sendable {
    /// Those with an id.
    public var pods: [Pod]
    /// Entries that could not be read.
    public var unreadable = 0

    /// Reads the reply to a listing: `{"pods": […]}` of version 2, or the bare array of version 1.
    ///
    /// - Returns: nil for anything else.
    init?(reply: [UInt8]) {
        let value = JSONValue(reply)
        guard let entries = value?.array ?? value?["pods"]?.array else { return nil }
        pods = entries.compactMap(Pod.init)
        unreadable = entries.count - pods.count
    }

    /// Pods that are known.
    init(pods: [Pod]) { self.pods = pods }
}

extension Pod {
    /// Reads the reply about one pod; nil when it describes none.
    init?(reply: [UInt8]) {
        guard let value = JSONValue(reply) else { return nil }
        self.init(value["pod"] ?? value)
    }

    /// Reads a pod of either version; whatever is missing or odd is left out, only the id must be one.
    init?(_ value: JSONValue) {
        guard let id = value["id"]?.text, Self.isID(id) else { return nil }
        self.id = id
        name = ForeignText.line(value["name"]?.text ?? "", limit: 80)
        let word = value["status"]?.text ?? value["desiredStatus"]?.text ?? "unknown"
        status = Status(ForeignText.line(word, limit: 40))
        let price = value["cost"] ?? value["adjustedCostPerHr"] ?? value["costPerHr"]
        pricePerHour = price?.number.flatMap { $0 >= 0 && $0.isFinite ? $0 : nil }
        place = Self.place(value)
    }

    private static func place(_ value: JSONValue) -> Place? {
        if let direct = value["ssh"]?["direct"] {
            if let place = place(direct["host"], direct["port"], direct["username"]) { return place }
        }
        for port in value["runtime"]?["ports"]?.array ?? [] where port["private"]?.number == 22 {
            if port["type"]?.text ?? "tcp" == "tcp", let place = place(port["ip"], port["public"], nil) {
                return place
            }
        }
        return place(value["publicIp"], value["portMappings"]?["22"], nil)
    }

    private static func place(_ host: JSONValue?, _ port: JSONValue?, _ user: JSONValue?) -> Place? {
        guard let address = host?.text, isAddress(address), let number = port?.number,
            let port = UInt16(exactly: number), port > 0
        else { return nil }
        return Place(address: address, port: port, user: user?.text.flatMap { isWord($0) ? $0 : nil })
    }

    /// An id goes into URLs and files of known hosts.
    static func isID(_ text: String) -> Bool { isWord(text) && text.utf8.count <= 64 }

    // A host name or an address of either version; nothing that a program could read as an option or as two words.
    private static func isAddress(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.count <= 253 && !text.hasPrefix("-")
            && text.utf8.allSatisfy { isLetterOrDigit($0) || $0 == 0x2D || $0 == 0x2E || $0 == 0x3A }
    }

    private static func isWord(_ text: String) -> Bool {
        !text.isEmpty && !text.hasPrefix("-")
            && text.utf8.allSatisfy { isLetterOrDigit($0) || $0 == 0x2D || $0 == 0x5F }
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        (0x61...0x7A).contains(byte) || (0x41...0x5A).contains(byte) || (0x30...0x39).contains(byte)
    }
}

/// Any JSON, for replies whose fields may be missing or of another kind than promised.
enum JSONValue: Decodable {
    case object([String: JSONValue])
    case list([JSONValue])
    case string(String)
    case decimal(Double)
    case bool(Bool)
    case null

    /// Parses; nil for what is no JSON.
    init?(_ bytes: [UInt8]) {
        guard let value = try? JSONDecoder().decode(JSONValue.self, from: Data(bytes)) else { return nil }
        self = value
    }

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Double.self) {
            self = .decimal(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .list(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }

    /// A field of an object; nil for all else, and for `null`.
    subscript(_ key: String) -> JSONValue? {
        guard case .object(let fields) = self, let value = fields[key] else { return nil }
        if case .null = value { return nil }
        return value
    }

    var array: [JSONValue]? { if case .list(let values) = self { values } else { nil } }
    var text: String? { if case .string(let text) = self { text } else { nil } }
    /// Version 1 wrote some numbers as text.
    var number: Double? {
        switch self {
        case .decimal(let value): value
        case .string(let text): Double(text)
        default: nil
        }
    }
}
