internal import Basics
internal import Foundation
internal import Wire

/// What a command prints: data on stdout; progress, messages and logs on stderr.
struct Console: Sendable {
    /// Data as JSON lines.
    let isJSON: Bool
    /// stderr is a terminal that redraws its last line.
    let redraws: Bool

    init(isJSON: Bool) {
        self.isJSON = isJSON
        redraws = !isJSON && isatty(2) != 0 && Machine.environment("TERM") != "dumb"
    }

    /// One line of data.
    func print(_ line: String) {
        FileHandle.standardOutput.write(Data((ForeignText.forTerminal(line) + "\n").utf8))
    }

    /// One object of data; its keys in snake case, as scripts rely on them.
    func json(_ value: some Encodable) {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let bytes = try? encoder.encode(value) else { return }
        print(String(decoding: bytes, as: UTF8.self))
    }

    /// One object of data, where data is asked for as JSON.
    func json(ifAsked value: some Encodable) { if isJSON { json(value) } }

    /// One event as a flat object whose `type` is the case's name.
    func json(event: some Encodable) {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        guard let bytes = try? encoder.encode(event),
            let cases = try? JSONSerialization.jsonObject(with: bytes) as? [String: Any],
            let (name, payload) = cases.first, var object = payload as? [String: Any]
        else { return }
        // An enum's only payload is coded under `_0`: its keys are the event's own, a bare text is its `text`.
        if let inner = object.removeValue(forKey: "_0") {
            if let keys = inner as? [String: Any] {
                object.merge(keys) { $1 }
            } else {
                object["text"] = inner
            }
        }
        object["type"] = name
        let options: JSONSerialization.WritingOptions = [.sortedKeys, .withoutEscapingSlashes]
        guard let line = try? JSONSerialization.data(withJSONObject: object, options: options) else { return }
        print(String(decoding: line, as: UTF8.self))
    }

    /// One line for people; ends a progress line.
    func say(_ line: String = "") {
        write((redraws ? "\r\u{1B}[K" : "") + ForeignText.forTerminal(line) + "\n")
    }

    /// A line that the next one replaces; printed only where that works.
    func progress(_ line: String) {
        if redraws { write("\r\u{1B}[K" + ForeignText.line(line)) }
    }

    /// Asks; false without a terminal to answer at.
    func confirm(_ question: String) -> Bool {
        guard isatty(0) != 0 else { return false }
        write(ForeignText.forTerminal(question) + " [y/N] ")
        return readLine()?.lowercased().hasPrefix("y") ?? false
    }

    /// Asks for a word that is not shown; nil without a terminal, or for an empty answer.
    func secret(_ question: String) -> String? {
        var before = termios()
        guard isatty(0) != 0, tcgetattr(0, &before) == 0 else { return nil }
        var silent = before
        silent.c_lflag &= ~tcflag_t(ECHO)
        // Silent before it is asked: whoever answers at once is not shown, and not thrown away.
        tcsetattr(0, TCSAFLUSH, &silent)
        write(question + ": ")
        defer {
            tcsetattr(0, TCSADRAIN, &before)
            write("\n")
        }
        return readLine().flatMap { $0.isEmpty ? nil : $0 }
    }

    /// An error with its hint; with `--json` also the closing line that scripts read.
    func fail(_ code: ExitCode, _ message: String?, _ hint: String?) {
        if let message, !isJSON {
            say("coord: error: \(message)")
            if let hint { say("\nhint: \(hint)") }
        }
        exit(code, message, hint)
    }

    /// With `--json` the closing line on stderr.
    func exit(_ code: ExitCode, _ message: String? = nil, _ hint: String? = nil) {
        guard isJSON else { return }
        let line = ExitLine(type: "exit", code: code.rawValue, message: message, hint: hint)
        if let bytes = try? MessageCoding.encode(line) {
            write(String(decoding: bytes, as: UTF8.self) + "\n")
        }
    }

    /// A table with aligned columns; the first row is the head.
    func table(_ rows: [[String]]) {
        guard let columns = rows.first?.count, rows.count > 1 else { return }
        let widths = (0..<columns).map { column in rows.map { $0[column].count }.max() ?? 0 }
        for row in rows {
            let cells = zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }
            print(cells.joined(separator: "  ").trimmedEnd)
        }
    }

    /// Columns of the terminal at stderr; 80 when it does not tell.
    var columns: Int {
        var size = winsize()
        return ioctl(2, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
    }

    /// Text for people, as it is.
    func write(_ text: String) {
        FileHandle.standardError.write(Data(text.utf8))
    }

    private struct ExitLine: Encodable {
        var type: String
        var code: Int32
        var message: String?
        var hint: String?
    }
}

extension String {
    /// Without spaces at the end.
    fileprivate var trimmedEnd: String {
        var text = self
        while text.last == " " { text.removeLast() }
        return text
    }
}

extension Double {
    /// With so many digits behind the point.
    func digits(_ count: Int) -> String { String(format: "%.\(count)f", self) }
}

/// `1m 05s`.
func duration(_ seconds: Double) -> String {
    let whole = Int(max(0, seconds).rounded())
    if whole < 60 { return "\(whole)s" }
    if whole < 3600 { return String(format: "%dm %02ds", whole / 60, whole % 60) }
    return String(format: "%dh %02dm", whole / 3600, whole / 60 % 60)
}

/// `2026-11-21 10:15:02`, UTC.
func timeText(_ seconds: Double) -> String {
    let formatter = DateFormatter()
    formatter.locale = Locale(identifier: "en_US_POSIX")
    formatter.timeZone = TimeZone(secondsFromGMT: 0)
    formatter.dateFormat = "yyyy-MM-dd HH:mm:ss"
    return formatter.string(from: Date(timeIntervalSince1970: seconds))
}
