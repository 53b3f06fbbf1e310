public import Basics

/// Something in a store that is not as it must be.
public struct StoreProblem: Hashable, Sendable, Codable, CustomStringConvertible {
    /// The kind of a problem.
    public enum Kind: String, Hashable, Sendable, Codable {
        /// The content does not have the SHA-256 in its name.
        case damagedChunk
        /// A manifest needs it, and it is not there.
        case missingChunk
        /// A pack's end or index is not what its name says; its chunks count as missing.
        case damagedPack
        /// A manifest does not have the SHA-256 in its name, or is none.
        case damagedManifest
        /// A file's chunks are right, yet together they are not that file.
        case wrongFile
        /// A file that does not belong here.
        case stranger
        /// The system did not let us read it.
        case unreadable
    }

    /// The kind.
    public var kind: Kind
    /// The chunk, where it is about one.
    public var chunk: Digest?
    /// The manifest, where it is about one.
    public var manifest: Digest?
    /// What is wrong, naming the file.
    public var message: String

    /// The message.
    public var description: String { message }
}

extension ChunkStore {
    /// Checks everything that one manifest needs.
    ///
    /// - Returns: all problems, not only the first; empty when all is well.
    /// - Cost: reads and hashes every byte twice.
    public func verify(_ name: Digest) -> [StoreProblem] {
        do {
            return problems(in: try manifest(name), name)
        } catch {
            return [StoreProblem(kind: .damagedManifest, manifest: name, message: "\(error)")]
        }
    }

    /// Checks everything that the manifest needs, whether or not it is stored here.
    public func verify(_ manifest: Manifest) -> [StoreProblem] { problems(in: manifest, nil) }

    private func problems(in manifest: Manifest, _ name: Digest?) -> [StoreProblem] {
        var found: [StoreProblem] = []
        var seen: Set<Digest> = []
        for file in manifest.files {
            var whole = DigestBuilder()
            var size: Int64 = 0
            var isReadable = true
            for chunk in file.chunks {
                do {
                    let content = try get(chunk)
                    whole.update(content)
                    size += Int64(content.count)
                } catch {
                    isReadable = false
                    guard seen.insert(chunk).inserted else { continue }
                    let kind: StoreProblem.Kind =
                        switch (error as? ContentError)?.code {
                        case .missing?: .missingChunk
                        case nil: .unreadable
                        default: .damagedChunk
                        }
                    let text = (error as? any ExplainedError)?.message ?? "\(error)"
                    found.append(
                        StoreProblem(
                            kind: kind,
                            chunk: chunk,
                            manifest: name,
                            message: "\(text) (needed by '\(file.name)' of \(manifest.kind) "
                                + "\(name?.short ?? "not stored"))"
                        )
                    )
                }
            }
            guard isReadable else { continue }
            do {
                try Self.check(file, size: size, sha256: whole.finish())
            } catch {
                found.append(StoreProblem(kind: .wrongFile, manifest: name, message: "\(error)"))
            }
        }
        return found
    }

    /// Checks the whole store: every chunk, every manifest, the trash, and that nothing else lies there.
    ///
    /// - Parameter progress: called with (chunks checked, chunks in all).
    /// - Returns: all problems; empty when all is well.
    /// - Cost: reads and hashes every byte twice.
    public func fsck(progress: (Int, Int) -> Void = { _, _ in }) throws -> [StoreProblem] {
        var found: [StoreProblem] = []
        let chunks = try chunkFiles()
        let packs = try openPacks()
        found += packs.problems
        let all = chunks.map(\.chunk) + packs.packs.flatMap { $0.entries.map(\.chunk) }
        var damaged: [Digest: StoreProblem] = [:]
        for (index, chunk) in all.enumerated() {
            progress(index, all.count)
            do {
                _ = try get(chunk)
            } catch {
                let text = (error as? any ExplainedError)?.message ?? "\(error)"
                let kind: StoreProblem.Kind = error is ContentError ? .damagedChunk : .unreadable
                damaged[chunk] = StoreProblem(kind: kind, chunk: chunk, message: text)
            }
        }
        progress(all.count, all.count)
        for name in try Files.list(directory + "/manifests") {
            guard let digest = Digest(hex: name) else {
                found.append(stranger("manifests/\(name)"))
                continue
            }
            found += verify(digest)
        }
        for entry in try trash() {
            let path = "\(directory)/trash/\(entry.fileName)"
            do {
                let bytes = try Self.verifiedManifestBytes(path, entry.manifest)
                found += problems(in: try Manifest(decoding: bytes), entry.manifest)
            } catch {
                let text = (error as? any ExplainedError)?.message ?? "\(error)"
                found.append(
                    StoreProblem(kind: .damagedManifest, manifest: entry.manifest, message: text)
                )
            }
        }
        // A damaged chunk that a manifest needs was named with it.
        for problem in found { problem.chunk.map { damaged[$0] = nil } }
        found += damaged.values.sorted { $0.message < $1.message }
        return found + (try strangers(among: chunks.map(\.path)))
    }

    private func strangers(among chunkPaths: [String]) throws -> [StoreProblem] {
        var found: [StoreProblem] = []
        let known = Set(Self.folders + ["FORMAT", "lock"])
        for name in try Files.list(directory) where !known.contains(name) { found.append(stranger(name)) }
        for name in try Files.list(self.packs) where PackShelf.digest(fileName: name) == nil {
            found.append(stranger("packs/\(name)"))
        }
        let expected = Set(chunkPaths)
        for folder in try Files.list(directory + "/chunks") {
            let path = "\(directory)/chunks/\(folder)"
            guard Files.kind(path) == .directory else {
                found.append(stranger("chunks/\(folder)"))
                continue
            }
            for name in try Files.list(path) {
                let isInPlace = name.hasPrefix(folder) && folder.utf8.count == 2
                if !expected.contains("\(path)/\(name)") || !isInPlace {
                    found.append(stranger("chunks/\(folder)/\(name)"))
                }
            }
        }
        return found
    }

    private func stranger(_ path: String) -> StoreProblem {
        StoreProblem(kind: .stranger, message: "\(directory)/\(path) does not belong into a content store")
    }

    /// How many chunks and manifests there are, and what the chunks take on the disk.
    public func usage() throws -> (chunks: Int, manifests: Int, size: ByteCount) {
        let files = try chunkFiles()
        let packs = try openPacks().packs
        let size =
            try files.reduce(Int64(0)) { $0 + (try Files.size($1.path)) }
            + packs.reduce(Int64(0)) { $0 + (try Files.size($1.pack.path)) }
        let count = files.count + packs.reduce(0) { $0 + $1.entries.count }
        return (count, try manifests().count, ByteCount(size))
    }
}
