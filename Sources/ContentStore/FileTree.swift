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

    /// A file's part of the whole; each is written by one thread, and read when all are done.
    private struct Scanned {
        var file: Manifest.File
        var mark: Mark
        var lengths: [Int32]
    }

    /// What the files are together.
    public let manifest: Manifest
    private let root: String
    private let paths: [String]
    private let marks: [Mark]
    private let places: [Digest: Place]
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

    /// Cuts and hashes a file, or a folder with all that is in it.
    ///
    /// - Parameters:
    ///   - path: the file or folder. Links in a folder are refused: what they point to may be anything.
    ///   - kind: the manifest's kind.
    /// - Throws: ``ContentError`` `.badName`, `.linkInTheWay`; `FileError`.
    /// - Cost: every byte is read once; SHA-256 twice over files of more than a chunk, on all cores.
    public init(_ path: String, kind: String) throws {
        let isFolder = Files.kind(path) == .directory
        root = isFolder ? path : Files.parent(path)
        var names: [(name: String, size: Int64)] = []
        if isFolder {
            try Self.list(path, "", into: &names)
        } else {
            names = [(Files.name(path), try Files.size(path))]
        }
        let scanned = try Self.scan(names, in: root)
        paths = names.map(\.name)
        marks = scanned.map(\.mark)
        var places: [Digest: Place] = [:]
        places.reserveCapacity(scanned.reduce(0) { $0 + $1.lengths.count })
        for (number, part) in scanned.enumerated() {
            var offset: Int64 = 0
            for (chunk, length) in zip(part.file.chunks, part.lengths) {
                places[chunk] = Place(file: Int32(number), length: length, offset: offset)
                offset += Int64(length)
            }
        }
        self.places = places
        manifest = try Manifest(kind: kind, files: scanned.map(\.file))
    }

    /// Appends the stored form of a chunk; see ``ChunkSource``.
    ///
    /// - Throws: ``ContentError`` `.corrupt` for a file that changed since it was cut, `.missing`; `FileError`.
    /// - Cost: one read, and compressing where three samples say that it pays.
    public func append(_ chunk: Digest, to batch: inout ChunkBatch) throws {
        guard let place = places[chunk] else {
            throw ContentError(.missing, "chunk \(chunk.short) is not of the files in \(root)")
        }
        let handle = codecs.withLock { $0.popLast() } ?? Handle()
        defer { codecs.withLock { $0.append(handle) } }
        try open(place.file, handle)
        let path = "\(root)/\(paths[Int(place.file)])"
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
        let path = "\(root)/\(paths[Int(file)])"
        handle.descriptor = systemOpen(path)
        var info = stat()
        guard handle.descriptor >= 0, fstat(handle.descriptor, &info) == 0 else {
            throw FileError(.read, path, errno: errno)
        }
        guard Mark(info) == marks[Int(file)] else {
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

    /// Small files on all cores, several at a time; large ones one behind the other, each on all cores.
    private static func scan(
        _ names: [(name: String, size: Int64)],
        in root: String
    ) throws -> [Scanned] {
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
                    mine.append((index, try scanSmall(names[index].name, in: root, &buffer)))
                }
                results.withLock { $0.found += mine }
            } catch {
                results.withLock { $0.failure = error }
            }
        }
        var (found, failure) = results.withLock { $0 }
        if let failure { throw failure }
        for index in names.indices where names[index].size > Int64(Chunker.standard.minimum) {
            found.append((index, try scanLarge(names[index].name, in: root)))
        }
        return found.sorted { $0.0 < $1.0 }.map(\.1)
    }

    private static func scanSmall(
        _ name: String,
        in root: String,
        _ buffer: inout [UInt8]
    ) throws -> Scanned {
        let path = "\(root)/\(name)"
        let descriptor = systemOpen(path)
        var info = stat()
        guard descriptor >= 0, fstat(descriptor, &info) == 0 else {
            throw FileError(.read, path, errno: errno)
        }
        defer { close(descriptor) }
        let count = Int(info.st_size)
        guard count < buffer.count else { return try scanLarge(name, in: root) }
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
                mark: Mark(info),
                lengths: count == 0 ? [] : [Int32(count)]
            )
        }
    }

    private static func scanLarge(_ name: String, in root: String) throws -> Scanned {
        let path = "\(root)/\(name)"
        let descriptor = systemOpen(path)
        var info = stat()
        guard descriptor >= 0, fstat(descriptor, &info) == 0 else {
            throw FileError(.read, path, errno: errno)
        }
        defer { close(descriptor) }
        let scan = LargeFileScan(descriptor: descriptor, path: path, size: Int64(info.st_size))
        let (sha256, chunks, lengths) = try scan.run()
        return Scanned(
            file: Manifest.File(
                name: name,
                size: Int64(info.st_size),
                mode: UInt32(info.st_mode & 0o777),
                sha256: sha256,
                chunks: chunks
            ),
            mark: Mark(info),
            lengths: lengths.map(Int32.init)
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
    private static let windowSize = 16 << 20

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
        // Safety: `whole` is touched by one iteration only, `chunks` by another, and by nobody else until both end.
        var whole = DigestBuilder()
        var chunks: [Digest] = []
    }

    private final class Reader: @unchecked Sendable {
        // Safety: one iteration only touches it; the thread that starts the iterations waits for them.
        var next: Result<Window?, any Error> = .success(nil)
    }

    func run() throws -> (Digest, [Digest], [Int]) {
        let buffers = (0..<2).map { _ in
            UnsafeMutableRawBufferPointer.allocate(byteCount: Self.windowSize, alignment: 64)
        }
        defer { for buffer in buffers { buffer.deallocate() } }
        let hashes = Hashes()
        let reader = Reader()
        var lengths: [Int] = []
        var turn = 0
        var offset: Int64 = 0
        var current = try read(into: buffers[0], at: 0)
        while let window = current {
            lengths += window.cuts.map(\.count)
            offset += Int64(window.cuts.last?.upperBound ?? 0)
            turn = 1 - turn
            let place = offset
            let buffer = buffers[turn]
            let target = Window(bytes: buffer)
            DispatchQueue.concurrentPerform(iterations: 3) { part in
                let content = UnsafeRawBufferPointer(window.bytes)
                switch part {
                case 0:
                    let end = window.cuts.last?.upperBound ?? 0
                    hashes.whole.update(UnsafeRawBufferPointer(rebasing: content[..<end]))
                case 1:
                    hashes.chunks += window.cuts.map {
                        Digest(of: UnsafeRawBufferPointer(rebasing: content[$0]))
                    }
                default: reader.next = Result { try read(into: target.bytes, at: place) }
                }
            }
            current = try reader.next.get()
        }
        return (hashes.whole.finish(), hashes.chunks, lengths)
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
