public import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A pack that holds mostly what nobody needs.
public struct PackGarbage: Hashable, Sendable, Codable {
    /// The pack's name.
    public var pack: Digest
    /// How many of its chunks nobody needs.
    public var chunks: Int
}

extension ChunkStore {
    /// Every pack that can be opened, with what is in it; the problems of those that can't.
    func openPacks() throws -> (packs: [(pack: Pack, entries: [Pack.Entry])], problems: [StoreProblem]) {
        var found: [(Pack, [Pack.Entry])] = []
        var problems: [StoreProblem] = []
        for name in try Files.list(packs) {
            guard let digest = PackShelf.digest(fileName: name) else { continue }
            do {
                let pack = try Pack("\(packs)/\(name)", name: digest)
                found.append((pack, try pack.entries()))
            } catch {
                let text = (error as? any ExplainedError)?.message ?? "\(error)"
                let kind: StoreProblem.Kind = error is ContentError ? .damagedPack : .unreadable
                problems.append(StoreProblem(kind: kind, message: text))
            }
        }
        return (found, problems)
    }

    /// Packs of which less than half is needed, by bytes.
    ///
    /// - Returns: what each would lose, and how many bytes that frees.
    func packGarbage(needed: Set<Digest>, before: Int64) throws -> (packs: [PackGarbage], size: Int64) {
        var found: [PackGarbage] = []
        var size: Int64 = 0
        for (pack, entries) in try openPacks().packs {
            let waste = entries.filter { !needed.contains($0.chunk) }
            let wasted = waste.reduce(Int64(0)) { $0 + Int64($1.length) }
            let all = entries.reduce(Int64(0)) { $0 + Int64($1.length) }
            guard !waste.isEmpty, wasted * 2 > all || waste.count == entries.count,
                Self.modified(pack.path) < before
            else { continue }
            found.append(PackGarbage(pack: pack.name, chunks: waste.count))
            size += waste.count == entries.count ? try Files.size(pack.path) : wasted
        }
        return (found, size)
    }

    /// Writes what is needed of a pack into a new one, or into files, and removes the pack.
    ///
    /// The new one is on the disk before the old one goes. Under the exclusive lock.
    ///
    /// - Returns: bytes freed.
    func rewrite(_ name: Digest, keeping isKept: (Digest) -> Bool) throws -> Int64 {
        let path = "\(packs)/\(name.hex)\(Pack.ending)"
        guard Files.kind(path) == .file else { return 0 }
        let pack = try Pack(path, name: name)
        let entries = try pack.entries().sorted { $0.offset < $1.offset }
        let kept = entries.filter { isKept($0.chunk) }
        guard kept.count < entries.count else { return 0 }
        let size = try Files.size(path)
        if !kept.isEmpty {
            let builder = try PackBuilder(self)
            for entry in kept {
                let bytes = try pack.read(entry.offset, entry.length)
                try bytes.withUnsafeBytes { try builder.add(entry.chunk, entry.encoding, $0) }
            }
            try builder.publish()
        }
        try Files.remove(path)
        try Files.syncDirectory(packs)
        shelf.reload()
        return kept.isEmpty ? size : size - kept.reduce(0) { $0 + Int64($1.length) }
    }

    /// Takes a damaged chunk out of its pack; the whole old pack is kept aside.
    func setAsideInPack(_ chunk: Digest) throws -> String? {
        guard let slot = shelf.slot(chunk) else { return nil }
        let name = "\(slot.pack.name.hex)\(Pack.ending)"
        let target = "\(directory)/trash/damaged/\(name)"
        return try withLock(exclusive: true) {
            guard link("\(packs)/\(name)", target) == 0 || errno == EEXIST else {
                throw FileError(.write, target, errno: errno)
            }
            _ = try rewrite(slot.pack.name) { $0 != chunk }
            return target
        }
    }

    private static func modified(_ path: String) -> Int64 {
        var info = stat()
        return lstat(path, &info) == 0 ? Int64(info.st_mtim.tv_sec) : .max
    }
}
