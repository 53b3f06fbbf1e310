public import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A manifest that was deleted and can still be restored.
public struct TrashedManifest: Hashable, Sendable, Codable {
    /// Its name.
    public var manifest: Digest
    /// Until when; unit: seconds since 1970.
    public var expiry: Int64

    var fileName: String { "\(manifest.hex).\(expiry)" }

    init(manifest: Digest, expiry: Int64) {
        self.manifest = manifest
        self.expiry = expiry
    }

    init?(fileName: String) {
        let parts = fileName.split(separator: ".")
        guard parts.count == 2, let manifest = Digest(hex: parts[0]), let expiry = Int64(parts[1]) else {
            return nil
        }
        self.init(manifest: manifest, expiry: expiry)
    }
}

/// What a garbage collection would delete: a value to show before anything is done.
public struct GarbagePlan: Hashable, Sendable, Codable {
    /// Manifests whose time in the trash is over.
    public var expired: [TrashedManifest]
    /// Chunks that no manifest refers to, neither a live one nor one in the trash.
    public var chunks: [Digest]
    /// Packs of which less than half is needed: what is needed of them is written anew.
    public var packs: [PackGarbage] = []
    /// What goes away on the disk.
    public var size: ByteCount
    /// Chunks used after this moment stay: their manifest may be about to come; unit: seconds since 1970.
    public var before: Int64

    /// True when there is nothing to delete.
    public var isEmpty: Bool { expired.isEmpty && chunks.isEmpty && packs.isEmpty }
}

extension ChunkStore {
    /// Deletes a manifest in a way that can be undone until `expiry`; its chunks stay as long.
    ///
    /// - Parameter expiry: seconds since 1970.
    /// - Throws: ``ContentError`` `.missing`.
    public func moveToTrash(_ manifest: Digest, expiry: Int64) throws {
        try withLock(exclusive: true) {
            guard hasManifest(manifest) else {
                throw ContentError(.missing, "manifest \(manifest.short) is not in \(directory)")
            }
            let entry = TrashedManifest(manifest: manifest, expiry: expiry)
            try Files.move(manifestPath(manifest), to: "\(directory)/trash/\(entry.fileName)")
            try Files.syncDirectory(directory + "/manifests")
        }
    }

    /// Takes a manifest out of the trash.
    ///
    /// - Throws: ``ContentError`` `.missing` when it is not in the trash.
    public func restore(_ manifest: Digest) throws {
        try withLock(exclusive: true) {
            guard let entry = try trash().last(where: { $0.manifest == manifest }) else {
                throw ContentError(
                    .missing,
                    "manifest \(manifest.short) is not in the trash of \(directory)",
                    hint: "its time in the trash is over, or it was never deleted here"
                )
            }
            try Files.move("\(directory)/trash/\(entry.fileName)", to: manifestPath(manifest))
            try Files.syncDirectory(directory + "/trash")
        }
    }

    /// What is in the trash, by name, then by expiry.
    public func trash() throws -> [TrashedManifest] {
        try Files.list(directory + "/trash").compactMap { TrashedManifest(fileName: $0) }
            .sorted { ($0.manifest, $0.expiry) < ($1.manifest, $1.expiry) }
    }

    /// Finds what nothing refers to any more; deletes nothing.
    ///
    /// - Parameters:
    ///   - now: seconds since 1970.
    ///   - grace: chunks written or used again in these last seconds stay: somebody may be about to name
    ///     them.
    /// - Throws: ``ContentError`` when a manifest cannot be read: what it needs is unknown, so nothing is
    ///   garbage.
    public func garbage(now: Int64, grace: Int64 = 3600) throws -> GarbagePlan {
        let expired = try trash().filter { $0.expiry <= now }
        let needed = try neededChunks(without: Set(expired))
        var plan = GarbagePlan(expired: expired, chunks: [], size: ByteCount(0), before: now - grace)
        for (chunk, path) in try chunkFiles() where !needed.contains(chunk) {
            guard let info = Self.info(path), Int64(info.st_mtim.tv_sec) < plan.before else { continue }
            plan.chunks.append(chunk)
            plan.size.bytes += Int64(info.st_blocks) * 512
        }
        let packs = try packGarbage(needed: needed, before: plan.before)
        plan.packs = packs.packs
        plan.size.bytes += packs.size
        return plan
    }

    /// Deletes what a plan names, as far as it is still garbage.
    ///
    /// - Returns: bytes freed on the disk.
    public func apply(_ plan: GarbagePlan) throws -> ByteCount {
        try withLock(exclusive: true) {
            // What was restored or added since the plan was made is needed again.
            let needed = try neededChunks(without: Set(plan.expired))
            for entry in plan.expired { try Files.remove("\(directory)/trash/\(entry.fileName)") }
            try Files.syncDirectory(directory + "/trash")
            var freed: Int64 = 0
            for chunk in plan.chunks where !needed.contains(chunk) {
                guard let (path, _) = location(of: chunk), let info = Self.info(path),
                    Int64(info.st_mtim.tv_sec) < plan.before
                else { continue }
                try Files.remove(path)
                freed += Int64(info.st_blocks) * 512
            }
            let packs = try packGarbage(needed: needed, before: plan.before).packs
            for pack in packs where plan.packs.contains(where: { $0.pack == pack.pack }) {
                freed += try rewrite(pack.pack) { needed.contains($0) }
            }
            return ByteCount(freed)
        }
    }

    /// Every chunk file, by name; what is not named like a chunk is left out.
    func chunkFiles() throws -> [(chunk: Digest, path: String)] {
        var found: [(Digest, String)] = []
        for folder in try Files.list(directory + "/chunks") {
            let path = "\(directory)/chunks/\(folder)"
            guard Files.kind(path) == .directory else { continue }
            for name in try Files.list(path) {
                let base = name.hasSuffix(".zst") ? name.dropLast(4) : name[...]
                if let chunk = Digest(hex: base) { found.append((chunk, "\(path)/\(name)")) }
            }
        }
        return found
    }

    private func neededChunks(without gone: Set<TrashedManifest>) throws -> Set<Digest> {
        var needed: Set<Digest> = []
        for name in try manifests() { needed.formUnion(try manifest(name).chunks) }
        for entry in try trash() where !gone.contains(entry) {
            let path = "\(directory)/trash/\(entry.fileName)"
            needed.formUnion(try Manifest(decoding: Self.verifiedManifestBytes(path, entry.manifest)).chunks)
        }
        return needed
    }

    private static func info(_ path: String) -> stat? {
        var info = stat()
        return lstat(path, &info) == 0 ? info : nil
    }
}
