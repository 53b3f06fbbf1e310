internal import Basics
internal import Coordinator

/// Hosts on their way into the cluster, a line each, redrawn in place on a terminal.
final class HostTable {
    private let console: Console
    private var rows: [HostEvent] = []
    /// Lines of the table that stand on the terminal, the cursor below them.
    private var drawn = 0

    init(console: Console) { self.console = console }

    /// Takes a host's news and shows it.
    func update(_ event: HostEvent) {
        guard console.redraws else {
            // Without a terminal only what lasts is worth a line.
            switch event.phase {
            case .ready, .failed, .lost, .down:
                console.say(Self.line(event))
                sayNotes(of: event)
            default: break
            }
            return
        }
        if let index = rows.firstIndex(where: { $0.host == event.host }) {
            rows[index] = event
        } else {
            rows.append(event)
        }
        redraw()
    }

    /// Lets what was drawn stand; whatever is printed next comes below it.
    func leave() {
        let left = rows
        drawn = 0
        rows = []
        left.forEach(sayNotes)
    }

    private func sayNotes(of event: HostEvent) {
        for note in event.notes { console.say("    \(event.host): \(note)") }
    }

    private func redraw() {
        let width = rows.map(\.host.count).max() ?? 0
        var text = drawn > 0 ? "\r\u{1B}[\(drawn)A" : "\r"
        for row in rows {
            text += "\u{1B}[K" + Self.line(row, width: width, limit: console.columns) + "\n"
        }
        console.write(text)
        drawn = rows.count
    }

    private static func line(_ event: HostEvent, width: Int = 0, limit: Int = .max) -> String {
        let name = event.host + String(repeating: " ", count: max(0, width - event.host.count))
        // What the host said of itself is in it.
        let detail = ForeignText.line(event.detail, limit: 1000)
        let text = "  \(name)  \(event.phase.rawValue)" + (detail.isEmpty ? "" : "  \(detail)")
        // A line that wraps would throw the redrawing off.
        return text.count < limit ? text : String(text.prefix(max(1, limit - 2))) + "…"
    }
}
