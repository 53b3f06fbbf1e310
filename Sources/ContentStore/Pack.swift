internal import Basics

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// A file of many chunks, written once: what came together lies together, and costs two fsyncs together.
///
/// Layout: the stored forms one behind the other; the index, 48 bytes a chunk, sorted by name (SHA-256,
/// `offset u64 LE`, `length u32 LE`, `encoding u8`, three zeros); the index's `offset u64 LE`, `count u64 LE`,
/// and `coordpk1`. The file's name is the SHA-256 of the index.
final class Pack: Sendable {
    /// One chunk of a pack.
    struct Entry: Sendable {
        var chunk: Digest
        var offset: Int64
        var length: Int
        var encoding: ChunkEncoding
    }

    /// A pack is closed when it holds so much; unit: bytes.
    ///
    /// Larger: fewer files and fsyncs. Smaller: less is lost with a killed process, and less is copied when
    /// garbage is collected.
    static let sizeLimit = 64 << 20
    /// No pack has more chunks: its index stays below 12 MiB.
    static let maximumCount = 1 << 18
    static let entrySize = 48
    static let footerSize = 24
    static let magic = Array("coordpk1".utf8)
    static let ending = ".pack"

    let name: Digest
    let path: String
    /// Which file the path named when it was opened.
    let inode: UInt64
    private let descriptor: Int32

    /// Opens a pack; its index is read by ``entries()``.
    init(_ path: String, name: Digest) throws {
        self.name = name
        self.path = path
        descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileError(.read, path, errno: errno) }
        var info = stat()
        inode = fstat(descriptor, &info) == 0 ? UInt64(info.st_ino) : 0
    }

    /// True while the path names this file: somebody may put a backup in its place.
    var isInPlace: Bool {
        var info = stat()
        return stat(path, &info) == 0 && UInt64(info.st_ino) == inode
    }

    deinit { close(descriptor) }

    /// The index, verified.
    ///
    /// - Throws: ``ContentError`` `.corrupt` naming the file.
    func entries() throws -> [Entry] {
        func damaged(_ why: String) -> ContentError {
            ContentError(
                .corrupt,
                "\(path) is damaged: \(why)",
                hint: "put the file of that name from a backup in its place, or move it away and send again"
            )
        }
        let size = try Files.size(path)
        guard size >= Int64(Self.footerSize) else { throw damaged("\(size) bytes are no pack") }
        let footer = try read(size - Int64(Self.footerSize), Self.footerSize)
        let (offset, count) = footer.withUnsafeBytes {
            (
                UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)),
                UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            )
        }
        guard Array(footer[16...]) == Self.magic else { throw damaged("it does not end as a pack") }
        guard count <= UInt64(Self.maximumCount),
            UInt64(size) == offset &+ count * UInt64(Self.entrySize) &+ UInt64(Self.footerSize)
        else { throw damaged("its end claims \(count) chunks") }
        let index = try read(Int64(offset), Int(count) * Self.entrySize)
        guard Digest(of: index) == name else {
            throw damaged("its index does not have the SHA-256 in its name")
        }
        return try index.withUnsafeBytes { raw in
            try (0..<Int(count)).map { position in
                let place = position * Self.entrySize
                let entry = Entry(
                    chunk: Digest(raw: UnsafeRawBufferPointer(rebasing: raw[place..<place + 32])),
                    offset: Int64(
                        truncatingIfNeeded: UInt64(
                            littleEndian: raw.loadUnaligned(fromByteOffset: place + 32, as: UInt64.self)
                        )
                    ),
                    length: Int(
                        UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: place + 40, as: UInt32.self))
                    ),
                    encoding: ChunkEncoding(rawValue: raw[place + 44]) ?? .raw
                )
                guard ChunkEncoding(rawValue: raw[place + 44]) != nil, entry.offset >= 0,
                    entry.length <= StoredChunk.limit,
                    entry.offset <= Int64(offset), Int64(entry.length) <= Int64(offset) - entry.offset
                else { throw damaged("its index names bytes that are not there") }
                return entry
            }
        }
    }

    /// Bytes of the file.
    func read(_ offset: Int64, _ count: Int) throws -> [UInt8] {
        try [UInt8](unsafeUninitializedCapacity: count) { target, filled in
            try read(offset, into: UnsafeMutableRawBufferPointer(target))
            filled = count
        }
    }

    /// Bytes of the file, into memory that is there.
    func read(_ offset: Int64, into target: UnsafeMutableRawBufferPointer) throws {
        var got = 0
        while got < target.count {
            let n = pread(
                descriptor,
                target.baseAddress.map { $0 + got },
                target.count - got,
                off_t(offset) + off_t(got)
            )
            if n < 0, errno == EINTR { continue }
            guard n > 0 else { throw FileError(.read, path, errno: n == 0 ? EIO : errno) }
            got += n
        }
    }

    /// The index's bytes of chunks that were sorted by name.
    static func index(_ sorted: [Entry]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(sorted.count * entrySize + footerSize)
        for entry in sorted {
            entry.chunk.append(to: &bytes)
            withUnsafeBytes(of: UInt64(entry.offset).littleEndian) { bytes.append(contentsOf: $0) }
            withUnsafeBytes(of: UInt32(entry.length).littleEndian) { bytes.append(contentsOf: $0) }
            bytes += [entry.encoding.rawValue, 0, 0, 0]
        }
        return bytes
    }
}

/// A pack that is being written; nobody sees it before ``publish()``, and it is removed when it is dropped before.
final class PackBuilder {
    private(set) var entries: [Pack.Entry] = []
    private(set) var size: Int64 = 0
    private var known: Set<Digest> = []
    private let store: ChunkStore
    private let file: PendingFile

    init(_ store: ChunkStore) throws {
        self.store = store
        file = try PendingFile(in: store.temporary, for: store.packs + "/new")
    }

    var isFull: Bool { size >= Int64(Pack.sizeLimit) || entries.count >= Pack.maximumCount }

    /// Adds the stored form of a chunk that was verified; nothing happens when it is in this pack already.
    func add(_ chunk: Digest, _ encoding: ChunkEncoding, _ stored: UnsafeRawBufferPointer) throws {
        guard known.insert(chunk).inserted else { return }
        try file.write(stored)
        entries.append(
            Pack.Entry(chunk: chunk, offset: size, length: stored.count, encoding: encoding)
        )
        size += Int64(stored.count)
    }

    func contains(_ chunk: Digest) -> Bool { known.contains(chunk) }

    /// Makes a file of each chunk instead of a pack.
    ///
    /// - Cost: two fsyncs a chunk.
    func publishOneByOne() throws {
        for entry in entries where !store.freshen(entry.chunk) {
            let bytes = try file.read(entry.offset, entry.length)
            try store.write(StoredChunk(encoding: entry.encoding, bytes: bytes), as: entry.chunk)
        }
        for folder in Set(entries.map { store.folder(of: $0.chunk) }) { try Files.syncDirectory(folder) }
    }

    /// Brings the pack to the disk and gives it its name.
    ///
    /// - Cost: two fsyncs.
    func publish() throws {
        try store.announcePacks()
        let sorted = entries.sorted { $0.chunk < $1.chunk }
        var tail = Pack.index(sorted)
        let name = Digest(of: tail)
        withUnsafeBytes(of: UInt64(size).littleEndian) { tail.append(contentsOf: $0) }
        withUnsafeBytes(of: UInt64(sorted.count).littleEndian) { tail.append(contentsOf: $0) }
        tail += Pack.magic
        try tail.withUnsafeBytes { try file.write($0) }
        try file.publish(as: "\(store.packs)/\(name.hex)\(Pack.ending)", mode: 0o444)
        try Files.syncDirectory(store.packs)
    }
}
