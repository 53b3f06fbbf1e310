public import Basics
internal import Dispatch
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Files where they lie, cut and hashed but not copied into a store: to be sent from there.
///
/// They must not change until that is done: a file that did is an error, and what was sent of it is refused by
/// whoever takes it.
public final class FileTree: ChunkSource {
    private struct Place {
        var file: Int32
        var length: Int32
        var offset: Int64
    }

    /// What a file was when it was read.
    private struct Mark: Equatable {
        var size: Int64
        var modified: Int64
        var inode: UInt64

        init(_ info: stat) {
            size = Int64(info.st_size)
            modified = Int64(info.st_mtim.tv_sec) * 1_000_000_000 + Int64(info.st_mtim.tv_nsec)
            inode = UInt64(info.st_ino)
        }
    }

    /// A small file's part of the whole; each is written by one thread, and read when all are done.
    private struct Scanned {
        var file: Manifest.File
        var mark: Mark
    }

    /// What is known so far.
    private struct Known {
        var places: [Digest: Place] = [:]
        var marks: [Mark?]
        var manifest: Manifest?
    }

    private let kind: String
    private let root: String
    private let names: [(name: String, size: Int64)]
    private let known: Mutex<Known>
    /// One for each caller at a time; so many at most wait for use.
    private let codecs = Mutex<[Handle]>([])

    /// A compressor and the file that was read last: the next chunk is mostly of the same.
    private final class Handle: @unchecked Sendable {
        // Safety: taken out of the list under its lock, so one thread has it at a time.
        let codec = ChunkCodec()
        var file: Int32 = -1
        var descriptor: Int32 = -1
        var buffer = [UInt8](repeating: 0, count: Chunker.standard.maximum)
        deinit { if descriptor >= 0 { close(descriptor) } }
    }

    /// Cuts and hashes a file, or a folder with all that is in it; see ``init(listing:kind:)`` and ``scan(found:)``.
    public convenience init(_ path: String, kind: String) throws {
        try self.init(listing: path, kind: kind)
        try scan()
    }

    /// Lists a file, or a folder with all that is in it; reads nothing yet.
    ///
    /// - Parameters:
    ///   - path: the file or folder. Links in a folder are refused: what they point to may be anything.
    ///   - kind: the manifest's kind.
    /// - Throws: ``ContentError`` `.badName`, `.linkInTheWay`; `FileError`.
    public init(listing path: String, kind: String) throws {
        let isFolder = Files.kind(path) == .directory
        self.kind = kind
        root = isFolder ? path : Files.parent(path)
        var names: [(name: String, size: Int64)] = []
        if isFolder {
            try Self.list(path, "", into: &names)
        } else {
            names = [(Files.name(path), try Files.size(path))]
        }
        self.names = names
        known = Mutex(Known(marks: Array(repeating: nil, count: names.count)))
    }

    /// What the files are together.
    ///
    /// - Precondition: they were scanned.
    public var manifest: Manifest {
        guard let manifest = known.withLock({ $0.manifest }) else {
            preconditionFailure("the files in \(root) were not scanned")
        }
        return manifest
    }

    /// Cuts and hashes the files.
    ///
    /// - Parameter found: told of the chunks of large files while others are still looked for; they can be had from
    ///   then on. The same chunk may come twice. Called on one thread at a time.
    /// - Throws: ``ContentError`` `.corrupt` for a file that became shorter; `FileError`.
    /// - Cost: every byte is read once; SHA-256 over whole files and chunks side by side, reading and hashing on a core
    ///   each.
    public func scan(found: ([Digest]) -> Void = { _ in }) throws {
        var files: [Manifest.File?] = Array(repeating: nil, count: names.count)
        try scanSmall(into: &files)
        for index in names.indices where files[index] == nil {
            files[index] = try scanLarge(Int32(index), found)
        }
        let manifest = try Manifest(kind: kind, files: files.compactMap { $0 })
        known.withLock { $0.manifest = manifest }
    }

    /// Appends the stored form of a chunk; see ``ChunkSource``.
    ///
    /// - Throws: ``ContentError`` `.corrupt` for a file that changed since it was cut, `.missing`; `FileError`.
    /// - Cost: one read, and compressing where three samples say that it pays.
    public func append(_ chunk: Digest, to batch: inout ChunkBatch) throws {
        guard let place = known.withLock({ $0.places[chunk] }) else {
            throw ContentError(.missing, "chunk \(chunk.short) is not of the files in \(root)")
        }
        let handle = codecs.withLock { $0.popLast() } ?? Handle()
        defer { codecs.withLock { $0.append(handle) } }
        try open(place.file, handle)
        let path = "\(root)/\(names[Int(place.file)].name)"
        let count = Int(place.length)
        try handle.buffer.withUnsafeMutableBytes { buffer in
            let content = UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
            try Self.fill(content, from: handle.descriptor, at: place.offset, path)
            let bytes = UnsafeRawBufferPointer(content)
            if let compressed = handle.codec.compressed(bytes) {
                compressed.withUnsafeBytes { batch.append(chunk, .zstd, $0) }
            } else {
                batch.append(chunk, .raw, bytes)
            }
        }
    }

    private func open(_ file: Int32, _ handle: Handle) throws {
        guard handle.file != file else { return }
        if handle.descriptor >= 0 { close(handle.descriptor) }
        handle.file = -1
        let path = "\(root)/\(names[Int(file)].name)"
        handle.descriptor = systemOpen(path)
        var info = stat()
        guard handle.descriptor >= 0, fstat(handle.descriptor, &info) == 0 else {
            throw FileError(.read, path, errno: errno)
        }
        guard Mark(info) == known.withLock({ $0.marks[Int(file)] }) else {
            throw ContentError(
                .corrupt,
                "\(path) changed while it was being sent",
                hint: "send it again when nobody writes it any more"
            )
        }
        handle.file = file
    }

    // MARK: Scanning

    private static func list(
        _ root: String,
        _ folder: String,
        into names: inout [(name: String, size: Int64)]
    ) throws {
        for entry in try Files.list(folder.isEmpty ? root : "\(root)/\(folder)") {
            let name = folder.isEmpty ? entry : "\(folder)/\(entry)"
            var info = stat()
            guard lstat("\(root)/\(name)", &info) == 0 else {
                throw FileError(.read, "\(root)/\(name)", errno: errno)
            }
            switch info.st_mode & S_IFMT {
            case S_IFDIR: try list(root, name, into: &names)
            case S_IFREG:
                try Manifest.checkName(name)
                names.append((name, Int64(info.st_size)))
            default:
                throw ContentError(
                    .linkInTheWay,
                    "\(root)/\(name) is neither a file nor a folder",
                    hint: "put the file itself there, or leave it out"
                )
            }
        }
    }

    /// On all cores, several at a time.
    private func scanSmall(into files: inout [Manifest.File?]) throws {
        let small = names.indices.filter { names[$0].size <= Int64(Chunker.standard.minimum) }
        let lanes = max(1, min(Machine.cores, 8))
        let results = Mutex<(found: [(Int, Scanned)], failure: (any Error)?)>(([], nil))
        DispatchQueue.concurrentPerform(iterations: lanes) { lane in
            // Neighbours in the list are neighbours on the disk.
            let share = small[small.count * lane / lanes..<small.count * (lane + 1) / lanes]
            do {
                var buffer = [UInt8](repeating: 0, count: Chunker.standard.minimum + 1)
                var mine: [(Int, Scanned)] = []
                mine.reserveCapacity(share.count)
                for index in share {
                    // One that has grown since it was listed is none of the small ones any more.
                    if let scanned = try Self.scanSmall(names[index].name, in: root, &buffer) {
                        mine.append((index, scanned))
                    }
                }
                results.withLock { $0.found += mine }
            } catch {
                results.withLock { $0.failure = error }
            }
        }
        let (found, failure) = results.withLock { $0 }
        if let failure { throw failure }
        known.withLock { known in
            known.places.reserveCapacity(found.count)
            for (index, scanned) in found {
                known.marks[index] = scanned.mark
                guard let chunk = scanned.file.chunks.first else { continue }
                known.places[chunk] = Place(
                    file: Int32(index),
                    length: Int32(scanned.file.size),
                    offset: 0
                )
            }
        }
        for (index, scanned) in found { files[index] = scanned.file }
    }

    private static func scanSmall(
        _ name: String,
        in root: String,
        _ buffer: inout [UInt8]
    ) throws -> Scanned? {
        let path = "\(root)/\(name)"
        let descriptor = systemOpen(path)
        var info = stat()
        guard descriptor >= 0, fstat(descriptor, &info) == 0 else {
            throw FileError(.read, path, errno: errno)
        }
        defer { close(descriptor) }
        let count = Int(info.st_size)
        guard count < buffer.count else { return nil }
        return try buffer.withUnsafeMutableBytes { raw in
            let content = UnsafeMutableRawBufferPointer(rebasing: raw[..<count])
            try fill(content, from: descriptor, at: 0, path)
            let digest = Digest(of: UnsafeRawBufferPointer(content))
            return Scanned(
                file: Manifest.File(
                    name: name,
                    size: Int64(count),
                    mode: UInt32(info.st_mode & 0o777),
                    sha256: digest,
                    chunks: count == 0 ? [] : [digest]
                ),
                mark: Mark(info)
            )
        }
    }

    private func scanLarge(_ index: Int32, _ found: ([Digest]) -> Void) throws -> Manifest.File {
        let name = names[Int(index)].name
        let path = "\(root)/\(name)"
        let descriptor = systemOpen(path)
        var info = stat()
        guard descriptor >= 0, fstat(descriptor, &info) == 0 else {
            throw FileError(.read, path, errno: errno)
        }
        defer { close(descriptor) }
        known.withLock { $0.marks[Int(index)] = Mark(info) }
        let scan = LargeFileScan(descriptor: descriptor, path: path, size: Int64(info.st_size))
        let (sha256, chunks) = try scan.run { chunks, cuts, start in
            known.withLock { known in
                for (chunk, cut) in zip(chunks, cuts) {
                    known.places[chunk] = Place(
                        file: index,
                        length: Int32(cut.count),
                        offset: start + Int64(cut.lowerBound)
                    )
                }
            }
            found(chunks)
        }
        return Manifest.File(
            name: name,
            size: Int64(info.st_size),
            mode: UInt32(info.st_mode & 0o777),
            sha256: sha256,
            chunks: chunks
        )
    }

    /// Reads exactly so many bytes: a file that became shorter is an error.
    static func fill(
        _ target: UnsafeMutableRawBufferPointer,
        from descriptor: Int32,
        at offset: Int64,
        _ path: String
    ) throws {
        var got = 0
        while got < target.count {
            let n = pread(
                descriptor,
                target.baseAddress.map { $0 + got },
                target.count - got,
                off_t(offset) + off_t(got)
            )
            if n < 0, errno == EINTR { continue }
            guard n != 0 else {
                throw ContentError(
                    .corrupt,
                    "\(path) became shorter while it was read",
                    hint: "try again when nobody writes it any more"
                )
            }
            guard n > 0 else { throw FileError(.read, path, errno: errno) }
            got += n
        }
    }
}

/// Cuts a large file and hashes it, window after window: while the cores hash one, the next is read and cut.
private struct LargeFileScan {
    /// Read at a time, and kept twice; unit: bytes.
    ///
    /// Larger: the threads wait for one another less often. Smaller: what was read is still in the cache when it is hashed.
    private static let windowSize = 4 << 20

    let descriptor: Int32
    let path: String
    let size: Int64

    private struct Window: @unchecked Sendable {
        // Safety: written by the thread that cuts, read by those that hash, which wait for one another.
        let bytes: UnsafeMutableRawBufferPointer
        var filled = 0
        var cuts: [Range<Int>] = []
    }

    private final class Hashes: @unchecked Sendable {
        // Safety: touched by one iteration only, and by nobody else until that ends.
        var whole = CutDigestBuilder()
        /// Of the last window.
        var chunks: [Digest] = []
    }

    private final class Reader: @unchecked Sendable {
        // Safety: one iteration only touches it; the thread that starts the iterations waits for them.
        var next: Result<Window?, any Error> = .success(nil)
    }

    /// - Parameter found: told of each window's chunks, their places in the window, and where in the file that begins.
    func run(found: ([Digest], [Range<Int>], Int64) -> Void) throws -> (Digest, [Digest]) {
        let buffers = (0..<2).map { _ in
            UnsafeMutableRawBufferPointer.allocate(byteCount: Self.windowSize, alignment: 64)
        }
        defer { for buffer in buffers { buffer.deallocate() } }
        let hashes = Hashes()
        let reader = Reader()
        var chunks: [Digest] = []
        var turn = 0
        var offset: Int64 = 0
        var current = try read(into: buffers[0], at: 0)
        while let window = current {
            let start = offset
            offset += Int64(window.cuts.last?.upperBound ?? 0)
            turn = 1 - turn
            let place = offset
            let target = Window(bytes: buffers[turn])
            DispatchQueue.concurrentPerform(iterations: 2) { part in
                if part == 0 {
                    hashes.chunks = hashes.whole.update(
                        UnsafeRawBufferPointer(window.bytes),
                        cuts: window.cuts
                    )
                } else {
                    reader.next = Result { try read(into: target.bytes, at: place) }
                }
            }
            found(hashes.chunks, window.cuts, start)
            chunks += hashes.chunks
            current = try reader.next.get()
        }
        return (hashes.whole.finish(), chunks)
    }

    /// The window that begins at `offset`, cut; nil at the end.
    private func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int64) throws -> Window? {
        let count = Int(min(Int64(buffer.count), size - offset))
        guard count > 0 else { return nil }
        var window = Window(bytes: buffer)
        window.filled = count
        try FileTree.fill(
            UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]),
            from: descriptor,
            at: offset,
            path
        )
        let isLast = offset + Int64(count) == size
        let chunker = Chunker.standard
        var start = 0
        // A cut is right only with a whole chunk's worth of bytes in sight, or the end.
        while start < count, isLast || count - start >= chunker.maximum {
            let rest = UnsafeRawBufferPointer(rebasing: buffer[start..<count])
            let length = chunker.firstCut(in: rest)
            window.cuts.append(start..<start + length)
            start += length
        }
        return window
    }
}

private func systemOpen(_ path: String) -> Int32 { open(path, O_RDONLY | O_CLOEXEC) }
