internal import Basics
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Which chunk lies where in the packs of a store: the folder's indexes in memory, read again when the folder changed.
///
/// About 80 bytes of memory a chunk, and one `stat` of the folder a question.
final class PackShelf: Sendable {
    /// Where a chunk lies.
    struct Slot: Sendable {
        var pack: Pack
        var offset: Int64
        var length: Int
        var encoding: ChunkEncoding
    }

    private struct Place {
        var pack: Int32
        var encoding: ChunkEncoding
        var length: Int32
        var offset: Int64
    }

    private struct State {
        var packs: [Pack?] = []
        var numbers: [Digest: Int32] = [:]
        var places: [Digest: Place] = [:]
        /// The folder's modification time when it was listed, and when that was; unit: nanoseconds.
        var modified: Int64 = -1
        var listed: Int64 = 0
        /// When each pack was last marked as used; unit: seconds since 1970.
        var touched: [Int32: Int64] = [:]
    }

    /// A folder that changed just before it was listed may change again within the same tick of its clock; unit:
    /// nanoseconds.
    private static let settled: Int64 = 1_000_000_000

    private let folder: String
    private let state = Mutex(State())

    init(folder: String) { self.folder = folder }

    /// Where the chunk lies; nil when it is in no pack.
    func slot(_ chunk: Digest) -> Slot? {
        state.withLock { state in
            refresh(&state)
            return slot(chunk, state)
        }
    }

    /// Those of `chunks` that are in no pack.
    func missing(from chunks: [Digest]) -> [Digest] {
        state.withLock { state in
            refresh(&state)
            return chunks.filter { state.places[$0] == nil }
        }
    }

    /// Marks the pack of a chunk as just used; false when it is in no pack.
    func freshen(_ chunk: Digest) -> Bool {
        state.withLock { state in
            refresh(&state)
            guard let place = state.places[chunk], let pack = state.packs[Int(place.pack)] else {
                return false
            }
            let now = Int64(time(nil))
            // A minute more or less is nothing to the hour that garbage waits.
            if now - state.touched[place.pack, default: 0] > 60 {
                _ = utimensat(AT_FDCWD, pack.path, nil, 0)
                state.touched[place.pack] = now
            }
            return true
        }
    }

    /// Looks at the folder again, whatever its time says.
    func reload() { state.withLock { $0.modified = -1 } }

    private func slot(_ chunk: Digest, _ state: State) -> Slot? {
        guard let place = state.places[chunk], let pack = state.packs[Int(place.pack)] else { return nil }
        return Slot(pack: pack, offset: place.offset, length: Int(place.length), encoding: place.encoding)
    }

    private func refresh(_ state: inout State) {
        var info = stat()
        guard stat(folder, &info) == 0 else { return }
        let modified = Int64(info.st_mtim.tv_sec) * 1_000_000_000 + Int64(info.st_mtim.tv_nsec)
        if modified == state.modified, state.listed - modified > Self.settled { return }
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        guard let names = try? Files.list(folder) else { return }
        state.modified = modified
        state.listed = Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec)
        var there: Set<Digest> = []
        for name in names {
            guard let digest = Self.digest(fileName: name) else { continue }
            if let number = state.numbers[digest], state.packs[Int(number)]?.isInPlace == true {
                there.insert(digest)
            } else if state.numbers[digest] == nil {
                there.insert(digest)
                load(digest, &state)
            }
        }
        guard !state.numbers.keys.allSatisfy({ there.contains($0) }) else { return }
        let gone = Set(state.numbers.filter { !there.contains($0.key) }.values)
        state.numbers = state.numbers.filter { there.contains($0.key) }
        for number in gone { state.packs[Int(number)] = nil }
        // A chunk of a pack that is gone may lie in another one too.
        state.places = [:]
        for number in state.numbers.values {
            if let pack = state.packs[Int(number)] { index(pack, number, &state) }
        }
        // Those in whose place another file is now.
        for name in names {
            if let digest = Self.digest(fileName: name), state.numbers[digest] == nil { load(digest, &state) }
        }
    }

    private func load(_ name: Digest, _ state: inout State) {
        // A pack that was removed meanwhile or can't be read: its chunks count as missing, fsck says why.
        guard let pack = try? Pack("\(folder)/\(name.hex)\(Pack.ending)", name: name) else { return }
        let number = Int32(state.packs.count)
        state.packs.append(pack)
        state.numbers[name] = number
        index(pack, number, &state)
    }

    private func index(_ pack: Pack, _ number: Int32, _ state: inout State) {
        guard let entries = try? pack.entries() else { return }
        state.places.reserveCapacity(state.places.count + entries.count)
        for entry in entries {
            state.places[entry.chunk] = Place(
                pack: number,
                encoding: entry.encoding,
                length: Int32(entry.length),
                offset: entry.offset
            )
        }
    }

    static func digest(fileName: String) -> Digest? {
        guard fileName.hasSuffix(Pack.ending) else { return nil }
        return Digest(hex: fileName.dropLast(Pack.ending.utf8.count))
    }
}
