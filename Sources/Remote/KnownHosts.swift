internal import Basics

/// One line of a `known_hosts` file.
public struct KnownHostsLine: Sendable, Equatable {
    /// What the line says about its key.
    public enum Marker: String, Sendable {
        /// The key is the host's.
        case none = ""
        /// The key must never be accepted.
        case revoked = "@revoked"
        /// The key signs hosts' certificates, which we can't check.
        case certAuthority = "@cert-authority"
    }

    /// What the line says about its key.
    public var marker: Marker
    /// Host patterns separated by commas, or one hashed name.
    public var patterns: String
    /// The key.
    public var key: HostKey
    /// Whatever follows the key.
    public var comment: String

    /// Reads a line; nil for comments, empty lines and what makes no sense.
    public init?(_ line: some StringProtocol) {
        var fields = line.split(whereSeparator: { $0 == " " || $0 == "\t" || $0 == "\r" })
        guard let first = fields.first, !first.hasPrefix("#") else { return nil }
        marker = .none
        if first.hasPrefix("@") {
            guard let marker = Marker(rawValue: String(first)) else { return nil }
            self.marker = marker
            fields.removeFirst()
        }
        guard fields.count >= 3, let key = HostKey(base64: String(fields[2])), key.kind == fields[1] else {
            return nil
        }
        patterns = String(fields[0])
        self.key = key
        comment = fields[3...].joined(separator: " ")
    }

    /// True when the line speaks of a host.
    ///
    /// - Parameter name: ``KnownHosts/name(address:port:)``.
    public func matches(_ name: String) -> Bool {
        if patterns.hasPrefix("|1|") {
            let parts = patterns.split(separator: "|")
            guard parts.count == 3, let salt = Base64.decode(parts[1]), let hash = Base64.decode(parts[2])
            else {
                return false
            }
            return Sealing.hostNameHash(name.lowercased(), salt: salt) == hash
        }
        var isMatch = false
        for pattern in patterns.split(separator: ",") {
            if pattern.hasPrefix("!") {
                if Self.glob(pattern.dropFirst(), name) { return false }
            } else if Self.glob(pattern, name) {
                isMatch = true
            }
        }
        return isMatch
    }

    /// `*` and `?` as the shell has them; letters in either case.
    private static func glob(_ pattern: some StringProtocol, _ text: String) -> Bool {
        let pattern = Array(pattern.lowercased().utf8)
        let text = Array(text.lowercased().utf8)
        var p = 0
        var t = 0
        var star = -1
        var mark = 0
        while t < text.count {
            if p < pattern.count, pattern[p] == 0x2A {
                star = p
                mark = t
                p += 1
            } else if p < pattern.count, pattern[p] == 0x3F || pattern[p] == text[t] {
                p += 1
                t += 1
            } else if star >= 0 {
                p = star + 1
                mark += 1
                t = mark
            } else {
                return false
            }
        }
        return pattern[p...].allSatisfy { $0 == 0x2A }
    }
}

/// What a `known_hosts` file says, as a value.
public struct KnownHosts: Sendable, Equatable {
    /// What the file says about a key that a host shows.
    public enum Verdict: Sendable, Equatable {
        /// The key is the host's.
        case known
        /// Nothing is known of the host; `hasAuthority` tells that only a certificate authority is.
        case unknown(hasAuthority: Bool)
        /// Other keys are known for the host.
        case changed([HostKey])
        /// The key must never be accepted.
        case revoked
    }

    /// The lines that make sense.
    public var lines: [KnownHostsLine]

    /// Reads a file's text.
    public init(text: String) {
        lines = text.split(whereSeparator: \.isNewline).compactMap { KnownHostsLine($0) }
    }

    /// How a host is called in the file: `address`, or `[address]:port` off port 22.
    public static func name(address: String, port: UInt16) -> String {
        port == 22 ? address : "[\(address)]:\(port)"
    }

    /// The keys that are known for a host and not revoked.
    public func keys(for name: String) -> [HostKey] {
        let revoked = Set(lines.filter { $0.marker == .revoked && $0.matches(name) }.map(\.key))
        return lines.filter { $0.marker == .none && $0.matches(name) && !revoked.contains($0.key) }.map(\.key)
    }

    /// Judges a key that a host shows.
    public func verdict(on key: HostKey, of name: String) -> Verdict {
        let matching = lines.filter { $0.matches(name) }
        if matching.contains(where: { $0.marker == .revoked && $0.key == key }) { return .revoked }
        let known = matching.filter { $0.marker == .none }.map(\.key)
        if known.contains(key) { return .known }
        guard known.isEmpty else { return .changed(known) }
        return .unknown(hasAuthority: matching.contains { $0.marker == .certAuthority })
    }
}
