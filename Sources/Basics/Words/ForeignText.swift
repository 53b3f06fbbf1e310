/// Text that somebody else wrote (a host, its login shell, a server), made fit for our messages.
public enum ForeignText {
    /// One line without control characters, so that nobody's text moves the cursor or looks like a line of ours.
    ///
    /// - Parameter limit: at most so many Unicode scalars are kept.
    public static func line(_ text: some StringProtocol, limit: Int = 300) -> String {
        var clean = String.UnicodeScalarView()
        for scalar in text.unicodeScalars.prefix(limit) { clean.append(isControl(scalar) ? " " : scalar) }
        return String(clean)
    }

    /// The same text without control characters but ends of lines and tabs, for a terminal.
    public static func forTerminal(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { isControl($0) && $0 != "\n" && $0 != "\t" }) else {
            return text
        }
        var clean = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            clean.append(isControl(scalar) && scalar != "\n" && scalar != "\t" ? " " : scalar)
        }
        return String(clean)
    }

    /// C0, delete and C1 controls, and the marks that turn the direction of writing.
    private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0..<0x20, 0x7F..<0xA0, 0x200E...0x200F, 0x2028...0x202E, 0x2066...0x2069: true
        default: false
        }
    }
}
