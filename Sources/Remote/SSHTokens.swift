internal import Basics

/// The `%` tokens and `${VARIABLES}` of ssh's configuration.
struct SSHTokens: Sendable {
    /// The name as it was asked for: `%n`.
    var alias: String
    /// `%h`.
    var address: String
    /// `%p`.
    var port: UInt16
    /// `%r`.
    var user: String
    /// `%k`.
    var hostKeyAlias: String?

    /// A path with `~/` at home; an unknown token stays as it stands.
    func path(_ text: String) -> String {
        Self.home(Self.variables(expand(text)))
    }

    /// `~/…` under the home folder.
    static func home(_ path: String) -> String {
        path.hasPrefix("~/") ? Machine.home + path.dropFirst() : path
    }

    /// A command for `/bin/sh`.
    ///
    /// - Returns: nil when a name in it could be read as more than a name by the shell.
    func command(_ text: String) -> String? {
        let names = [alias, address, user, hostKeyAlias ?? ""]
        guard names.allSatisfy({ $0.unicodeScalars.allSatisfy(Self.isHarmless) && !$0.hasPrefix("-") }) else {
            return nil
        }
        return expand(text)
    }

    private static func isHarmless(_ scalar: Unicode.Scalar) -> Bool {
        !"'`\"$\\;&<>|(){}*?!#~".unicodeScalars.contains(scalar) && scalar.value > 0x20
            && scalar.value != 0x7F
    }

    private func expand(_ text: String) -> String {
        var result = ""
        var rest = text[...]
        while let percent = rest.firstIndex(of: "%") {
            result += rest[..<percent]
            let next = rest.index(after: percent)
            guard next < rest.endIndex else { return result + "%" }
            result += value(rest[next]) ?? "%\(rest[next])"
            rest = rest[rest.index(after: next)...]
        }
        return result + rest
    }

    private func value(_ token: Character) -> String? {
        switch token {
        case "%": "%"
        case "h": address
        case "n": alias
        case "p": String(port)
        case "r": user
        case "k": hostKeyAlias ?? alias
        case "d": Machine.home
        case "u": ResolvedEndpoint.ownName
        case "l": Machine.hostName
        case "L": Machine.hostName.split(separator: ".").first.map(String.init)
        default: nil
        }
    }

    private static func variables(_ text: String) -> String {
        var result = ""
        var rest = text[...]
        while let start = rest.firstRange(of: "${") {
            result += rest[..<start.lowerBound]
            rest = rest[start.upperBound...]
            guard let end = rest.firstIndex(of: "}") else { return result + "${" + rest }
            result += Machine.environment(String(rest[..<end])) ?? ""
            rest = rest[rest.index(after: end)...]
        }
        return result + rest
    }
}
