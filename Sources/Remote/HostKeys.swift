internal import Basics
internal import Glibc
internal import Synchronization

/// The file of host keys that we trust, usually `keys/known_hosts`.
public enum HostKeys {
    // Hosts are connected to in parallel: one writer at a time in this process.
    private static let writing = Mutex(())

    /// What the file says; empty when there is none.
    ///
    /// - Throws: `FileError`.
    public static func list(_ file: String) throws -> KnownHosts {
        do {
            return KnownHosts(text: try Files.readText(file, limit: 16 << 20))
        } catch let error as FileError where error.isMissing {
            return KnownHosts(text: "")
        }
    }

    /// Trusts a host's key from now on, beside those already known.
    ///
    /// - Parameter name: ``KnownHosts/name(address:port:)``.
    /// - Throws: `FileError`.
    public static func add(_ key: HostKey, of name: String, to file: String) throws {
        try writing.withLock { _ in
            let old = try text(file)
            guard !KnownHosts(text: old).keys(for: name).contains(key) else { return }
            let line = "\(name) \(key.kind) \(key.base64)\n"
            // One write in append mode: whoever else appends, lines stay whole.
            let lead = old.isEmpty || old.utf8.last == 0x0A ? "" : "\n"
            try Files.createDirectory(Files.parent(file), mode: 0o700)
            try Files.append(Array((lead + line).utf8), to: file, mode: 0o600)
        }
    }

    /// Trusts a host's key instead of all others known for it.
    ///
    /// Other hosts on the same line keep their keys; lines with `@` and wildcards stay as they are.
    ///
    /// - Parameter name: ``KnownHosts/name(address:port:)``.
    /// - Returns: the keys that are no longer trusted.
    /// - Throws: `FileError`.
    @discardableResult
    public static func replace(_ key: HostKey, of name: String, in file: String) throws -> [HostKey] {
        try writing.withLock { _ in
            var dropped: [HostKey] = []
            var kept: [String] = []
            for text in try text(file).split(omittingEmptySubsequences: false, whereSeparator: \.isNewline) {
                guard let line = KnownHostsLine(text), line.marker == .none, line.matches(name),
                    line.key != key
                else {
                    kept.append(String(text))
                    continue
                }
                let others = line.patterns.split(separator: ",").filter {
                    $0.lowercased() != name.lowercased()
                }
                let isHashed = line.patterns.hasPrefix("|")
                dropped.append(line.key)
                if !isHashed, !others.isEmpty {
                    let comment = line.comment.isEmpty ? "" : " " + line.comment
                    let patterns = others.joined(separator: ",")
                    kept.append("\(patterns) \(line.key.kind) \(line.key.base64)\(comment)")
                }
            }
            while kept.last?.isEmpty == true { kept.removeLast() }
            if !KnownHosts(text: kept.joined(separator: "\n")).keys(for: name).contains(key) {
                kept.append("\(name) \(key.kind) \(key.base64)")
            }
            try Files.createDirectory(Files.parent(file), mode: 0o700)
            try Files.writeAtomically(kept.joined(separator: "\n") + "\n", to: file, mode: 0o600)
            return dropped
        }
    }

    private static func text(_ file: String) throws -> String {
        do {
            return try Files.readText(file, limit: 16 << 20)
        } catch let error as FileError where error.isMissing {
            return ""
        }
    }
}
