/// Turns arguments into words of a shell command.
public enum ShellQuoting {
    /// One word that means exactly `text` to `sh`, `bash`, `dash`, `zsh` and `fish`.
    ///
    /// Backslashes stand outside the single quotes, since fish reads them inside.
    public static func quote(_ text: String) -> String {
        if !text.isEmpty, text.utf8.allSatisfy(isPlain) { return text }
        var quoted = "'"
        for character in text.unicodeScalars {
            switch character {
            case "'": quoted += "'\\''"
            case "\\": quoted += "'\\\\'"
            default: quoted.unicodeScalars.append(character)
            }
        }
        return quoted + "'"
    }

    /// Several words, separated by spaces.
    public static func quote(_ words: [String]) -> String { words.map { quote($0) }.joined(separator: " ") }

    /// One word for a path, in which `~/` at the start still means the home folder.
    public static func path(_ path: String) -> String {
        if path == "~" { return "\"$HOME\"" }
        guard path.hasPrefix("~/") else { return quote(path) }
        return "\"$HOME\"/" + quote(String(path.dropFirst(2)))
    }

    private static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2F, 0x2E, 0x5F, 0x2D, 0x3A, 0x2C, 0x40: true
        default: false
        }
    }
}
