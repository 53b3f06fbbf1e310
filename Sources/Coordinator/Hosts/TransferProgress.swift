internal import Basics
internal import ContentStore
internal import Synchronization

/// How far a transfer is.
package struct TransferState: Sendable, Equatable {
    /// The file that is on its way.
    package var file = ""
    /// Files of which nothing is missing any more, and all.
    package var filesDone = 0
    package var files = 0
    /// Content that arrived, and what there is to send in all; unit: bytes.
    package var sent: Int64 = 0
    package var total: Int64 = 0
    /// What it took on the line; unit: bytes.
    package var onTheLine: Int64 = 0
    /// Connections that it used in the end.
    package var connections = 1
    /// Recent speed; unit: bytes of content a second.
    package var bytesPerSecond = 0.0

    /// nil until a speed is known.
    package var secondsLeft: Double? {
        bytesPerSecond > 0 ? Double(total - sent) / bytesPerSecond : nil
    }
}

/// Counts what arrives of a manifest's wanted chunks, and tells it a few times a second.
final class TransferProgress: Sendable {
    /// Told at most so often; unit: seconds.
    private static let interval = 0.2

    private struct Item {
        var weight: Int64
        var file: Int32
    }

    private struct Counts {
        var state: TransferState
        var items: [Digest: Item]
        var left: [Int32]
        var told = 0.0
        /// Where the speed is measured from.
        var markTime: Double
        var markSent: Int64 = 0
    }

    private let names: [String]
    private let counts: Mutex<Counts>
    private let tell: @Sendable (TransferState) -> Void

    init(_ manifest: Manifest, wanted: [Digest], tell: @escaping @Sendable (TransferState) -> Void) {
        self.tell = tell
        names = manifest.files.map(\.name)
        let wanted = Set(wanted)
        var items: [Digest: Item] = [:]
        items.reserveCapacity(wanted.count)
        var left = [Int32](repeating: 0, count: names.count)
        var state = TransferState(files: names.count)
        for (number, file) in manifest.files.enumerated() {
            let count = Int64(file.chunks.count)
            for (place, chunk) in file.chunks.enumerated()
            where wanted.contains(chunk) && items[chunk] == nil {
                // A chunk's own size is not in the manifest: each is counted as its file's average.
                let weight = file.size * Int64(place + 1) / count - file.size * Int64(place) / count
                items[chunk] = Item(weight: weight, file: Int32(number))
                left[number] += 1
                state.total += weight
            }
        }
        state.filesDone = left.count { $0 == 0 }
        counts = Mutex(Counts(state: state, items: items, left: left, markTime: Machine.monotonicSeconds))
        tell(state)
    }

    /// These chunks arrived.
    func arrived(_ chunks: [Digest], onTheLine: Int) {
        let news = counts.withLock { counts -> TransferState? in
            for chunk in chunks {
                guard let item = counts.items.removeValue(forKey: chunk) else { continue }
                counts.state.sent += item.weight
                counts.state.file = names[Int(item.file)]
                counts.left[Int(item.file)] -= 1
                if counts.left[Int(item.file)] == 0 { counts.state.filesDone += 1 }
            }
            counts.state.onTheLine += Int64(onTheLine)
            let now = Machine.monotonicSeconds
            guard now - counts.told >= Self.interval || counts.items.isEmpty else { return nil }
            counts.told = now
            let seconds = now - counts.markTime
            if seconds > 0.5 {
                let rate = Double(counts.state.sent - counts.markSent) / seconds
                let old = counts.state.bytesPerSecond
                counts.state.bytesPerSecond = old == 0 ? rate : 0.7 * old + 0.3 * rate
                counts.markTime = now
                counts.markSent = counts.state.sent
            }
            return counts.state
        }
        if let news { tell(news) }
    }

    /// What it came to, over so many connections.
    func state(connections: Int) -> TransferState {
        counts.withLock { counts in
            counts.state.connections = connections
            return counts.state
        }
    }
}
