internal import Basics
internal import Synchronization

/// Which checkpoints in the host's store the coordinator has not yet called its own.
///
/// `checkpoints.log`: `+DIGEST` when one was written here, `-DIGEST` when the coordinator has it, a line each. The file
/// outlives the agent; a half-written last line is dropped.
final class CheckpointLedger: Sendable {
    private struct State {
        var unsaved: [Digest] = []
        var saved: Set<Digest> = []
    }

    private let path: String
    private let state: Mutex<State>

    /// - Throws: ``FileError``.
    init(directory: String) throws {
        path = directory + "/checkpoints.log"
        var state = State()
        let text = Files.kind(path) == .file ? try Files.readText(path) : ""
        for line in text.split(separator: "\n") {
            guard let digest = Digest(hex: line.dropFirst()) else { continue }
            Self.apply(line.first == "+", digest, to: &state)
        }
        // What is over is left out; what is saved is remembered, as its making may be told again.
        let lines =
            state.saved.map(\.hex).sorted().map { "-\($0)\n" } + state.unsaved.map { "+\($0.hex)\n" }
        if !text.isEmpty { try Files.writeAtomically(lines.joined(), to: path, mode: 0o600) }
        self.state = Mutex(state)
    }

    /// Those that, as far as is known here, nobody else has; in the order of their making.
    var unsaved: [Digest] { state.withLock { $0.unsaved } }

    /// One was written here.
    ///
    /// - Throws: ``FileError`` when that can't be kept; it holds all the same until the agent ends.
    func made(_ digest: Digest) throws { try note(true, [digest]) }

    /// The coordinator has these.
    ///
    /// - Throws: ``FileError``; see ``made(_:)``.
    func saved(_ digests: [Digest]) throws { try note(false, digests) }

    private func note(_ isMade: Bool, _ digests: [Digest]) throws {
        try state.withLock { state in
            let new = digests.filter { digest in
                isMade
                    ? !state.unsaved.contains(digest) && !state.saved.contains(digest)
                    : !state.saved.contains(digest)
            }
            guard !new.isEmpty else { return }
            for digest in new { Self.apply(isMade, digest, to: &state) }
            let lines = new.map { "\(isMade ? "+" : "-")\($0.hex)\n" }.joined()
            try Files.append(Array(lines.utf8), to: path, mode: 0o600)
        }
    }

    private static func apply(_ isMade: Bool, _ digest: Digest, to state: inout State) {
        if isMade {
            if !state.saved.contains(digest), !state.unsaved.contains(digest) { state.unsaved.append(digest) }
        } else {
            state.saved.insert(digest)
            state.unsaved.removeAll { $0 == digest }
        }
    }
}
