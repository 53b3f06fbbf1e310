/// An HTTP reply, read from what `curl --include` prints.
struct HTTPReply: Equatable, Sendable {
    var status: Int
    /// By name in small letters; the last one of a name.
    var headers: [String: String] = [:]
    var body: [UInt8] = []

    init(status: Int, headers: [String: String] = [:], body: [UInt8] = []) {
        self.status = status
        self.headers = headers
        self.body = body
    }

    /// Headers may not take more than this; unit: bytes.
    private static let headerLimit = 64 << 10

    /// Reads a reply; nil for anything else.
    ///
    /// Interim ones (100 Continue, 103 Early Hints) before it are passed over.
    init?(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while true {
            guard rest.starts(with: Array("HTTP/".utf8)),
                let end = Self.endOfHeaders(rest.prefix(Self.headerLimit))
            else { return nil }
            let lines = String(decoding: rest[..<end], as: UTF8.self).split { $0.isNewline }
            let words = lines[0].split(separator: " ")
            guard words.count > 1, let status = Int(words[1]), (100..<600).contains(status) else {
                return nil
            }
            rest = rest[end...]
            if status < 200 { continue }
            self.init(status: status, body: Array(rest))
            for line in lines.dropFirst() {
                guard let colon = line.firstIndex(of: ":") else { continue }
                let value = line[line.index(after: colon)...].drop { $0 == " " || $0 == "\t" }
                headers[line[..<colon].lowercased()] = String(value)
            }
            return
        }
    }

    /// Where the empty line behind the headers ends.
    private static func endOfHeaders(_ bytes: ArraySlice<UInt8>) -> Int? {
        var isLineEmpty = false
        for (index, byte) in zip(bytes.indices, bytes) {
            if byte == 0x0A {
                if isLineEmpty { return index + 1 }
                isLineEmpty = true
            } else if byte != 0x0D {
                isLineEmpty = false
            }
        }
        return nil
    }
}
