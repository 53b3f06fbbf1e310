internal import Basics

/// Reads `defaults:` and `hosts:`.
struct HostReader {
    /// The folder of the cluster file, which paths in it start from.
    let folder: String

    /// All hosts, in file order.
    func read(_ file: Section) -> [HostSpec] {
        let defaults = file.section("defaults")
        if let defaults {
            _ = fields(defaults, into: HostSpec(name: "defaults", address: ""))
            defaults.reportUnknownKeys()
        }
        guard let value = file.required("hosts"), let section = file.section(value) else { return [] }
        if section.keys.isEmpty { section.bad(value, "must name at least one host", .missingKey) }
        var hosts: [HostSpec] = []
        for key in section.keys {
            checkName(key.name, at: key.place, in: section)
            guard let entry = section.value(key.name),
                let host = section.section(entry, fallback: defaults)
            else { continue }
            let spec = self.host(key.name, host)
            host.reportUnknownKeys()
            if let twin = hosts.first(where: { $0.isSamePlace(as: spec) }) {
                section.reading.report(
                    .badValue,
                    key.place,
                    "host `\(spec.name)` is the same place as host `\(twin.name)`; give it a `dir` of its own"
                )
            }
            hosts.append(spec)
        }
        return hosts
    }

    private func host(_ name: String, _ section: Section) -> HostSpec {
        var spec = HostSpec(name: name, address: "")
        spec.pod = pod(section)
        // A provider that is asked by the pod's id tells where the pod is.
        let place = spec.pod == nil ? section.required("address") : section.value("address")
        if let value = place, let address = section.text(value) {
            spec.address = address
            if address.contains("@") {
                section.bad(value, "must not hold a user; write it under `user`")
            } else if !Self.isPlainWord(address) {
                section.bad(value, "must be `local`, a host name or an address, not `\(address)`")
            }
        }
        if spec.isLocal, spec.pod != nil, let value = section.value("pod") {
            section.bad(value, "must not stand at this machine")
        }
        spec = fields(section, into: spec)
        if !section.has("workers"), !spec.roles.contains(.train) { spec.workers = 0 }
        if spec.workers > 0, !spec.roles.contains(.train), let value = section.value("workers") {
            section.bad(value, "must be 0 on a host without the role `train`")
        }
        guard spec.rented, let value = section.value("rented") else { return spec }
        if spec.isLocal {
            section.bad(value, "must be false for this machine, which is never stopped")
        } else if spec.stop == nil {
            section.bad(value, "needs `stop`, the command that stops the host", .missingKey)
        }
        return spec
    }

    private func fields(_ section: Section, into start: HostSpec) -> HostSpec {
        var spec = start
        spec.port = section.integer("port", in: 1...65535)
        spec.user = word("user", section)
        spec.identity = section.text("identity").map(path)
        spec.directory = section.text("dir")
        if let names = section.names("roles") {
            spec.roles = Set(
                names.compactMap { value in
                    section.text(value)
                        .flatMap { section.choice(value, $0, among: HostRole.allCases.map(\.rawValue)) }
                        .flatMap(HostRole.init(rawValue:))
                }
            )
        }
        if let workers = section.integer("workers", in: 0...1024) { spec.workers = workers }
        spec.threads = section.integer("threads", in: 1...4096)
        spec.gpus = section.integer("gpus", in: 0...1024)
        if let rented = section.boolean("rented") { spec.rented = rented }
        spec.stop = section.text("stop")
        if let time = section.duration("idle_stop", in: .seconds(1) ... .seconds(7 * 86_400)) {
            spec.idleStop = time
        }
        if let stops = section.boolean("stop_unsaved") { spec.stopsUnsaved = stops }
        if let time = section.duration("lease", in: .seconds(1) ... .seconds(365 * 86_400)) {
            spec.lease = time
        }
        if let boot = section.choice("boot", BootChoice.self) { spec.boot = boot }
        spec.pricePerHour = section.number("price_per_hour", .notNegative)
        spec.watts = section.number("watts", .notNegative)
        spec.hostKey = hostKey(section)
        spec.listen = listen(section)
        if let value = section.value("peer"), let peer = section.text(value) {
            spec.peer = peer
            if Endpoint(peer) == nil { section.bad(value, "must be `address:port`, not `\(peer)`") }
        }
        spec.python = section.text("python")
        return spec
    }

    private func pod(_ section: Section) -> String? {
        guard let value = section.value("pod"), let id = section.text(value) else { return nil }
        // It becomes part of a URL, and of a name in files of known hosts.
        let isID = id.utf8.allSatisfy {
            (0x61...0x7A).contains($0) || (0x41...0x5A).contains($0) || (0x30...0x39).contains($0)
                || $0 == 0x2D
        }
        if !isID || id.isEmpty || id.utf8.count > 64 || id.hasPrefix("-") {
            section.bad(value, "must be RunPod's id of the pod: letters, digits and `-`, not `\(id)`")
        }
        return id
    }

    private func hostKey(_ section: Section) -> String? {
        guard let value = section.value("host_key"), let key = section.text(value) else { return nil }
        // A SHA-256 in base64 without padding has 43 digits.
        let isFingerprint = key.hasPrefix("SHA256:") && key.utf8.count == 7 + 43
        let words = key.split(separator: " ")
        let isLine = words.count >= 2 && words[1].hasPrefix("AAAA")
        if !isFingerprint, !isLine {
            section.bad(value, "must be `SHA256:` and 43 letters, or a line such as `ssh-ed25519 AAAA…`")
        }
        return key
    }

    private func listen(_ section: Section) -> String? {
        guard let value = section.value("listen"), let listen = section.text(value) else { return nil }
        if !Self.isPlainWord(listen)
            || listen.contains(":") && Endpoint(listen) == nil && !Self.isIPv6(listen)
        {
            section.bad(value, "must be an address or `address:port`, not `\(listen)`")
        }
        return listen
    }

    private func word(_ key: String, _ section: Section) -> String? {
        guard let value = section.value(key), let text = section.text(value) else { return nil }
        if !Self.isPlainWord(text) { section.bad(value, "must be one word that does not begin with `-`") }
        return text
    }

    private func path(_ text: String) -> String {
        if text.hasPrefix("/") { return text }
        if text.hasPrefix("~/") { return Machine.home + text.dropFirst() }
        return folder == "." ? text : folder + "/" + text
    }

    private func checkName(_ name: String, at place: Place, in section: Section) {
        let isAllowed = name.utf8.allSatisfy {
            (0x61...0x7A).contains($0) || (0x41...0x5A).contains($0) || (0x30...0x39).contains($0)
                || $0 == 0x2D || $0 == 0x5F || $0 == 0x2E
        }
        guard !isAllowed || name.isEmpty || name.utf8.count > 64 || name.hasPrefix("-") || name.hasPrefix(".")
        else { return }
        section.reading.report(
            .badValue,
            place,
            "host name `\(name)` must be at most 64 letters, digits, `-`, `_` or `.`, and begin with a letter or digit"
        )
    }

    // Programs such as `ssh` read a word that begins with `-` as an option.
    private static func isPlainWord(_ text: String) -> Bool {
        !text.isEmpty && !text.hasPrefix("-") && !text.contains { $0.isWhitespace || $0.isNewline }
    }

    private static func isIPv6(_ text: String) -> Bool {
        text.utf8.allSatisfy { $0 == 0x3A || Character(Unicode.Scalar($0)).isHexDigit || $0 == 0x2E }
    }
}

extension HostSpec {
    /// True when an agent of one host would be the agent of the other.
    fileprivate func isSamePlace(as other: HostSpec) -> Bool {
        guard directory == other.directory else { return false }
        if let pod, pod == other.pod { return true }
        return !address.isEmpty && address == other.address
            && (isLocal || (port == other.port && user == other.user))
    }
}
