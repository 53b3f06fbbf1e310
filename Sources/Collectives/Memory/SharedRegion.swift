internal import CShims

/// Memory that this process writes and processes of this machine may read: an anonymous file, of fixed size.
///
/// Nobody who is handed the descriptor can write to it, shrink it or grow it, so it never changes under its owner's
/// hands and reading it never faults. Pages take memory when they are first touched.
final class SharedRegion: Sendable {
    let descriptor: Int32
    // Safety: the address never changes; who writes where is up to the owner.
    nonisolated(unsafe) let base: UnsafeMutableRawPointer
    let byteCount: Int

    init(name: String, byteCount: Int) throws(CollectivesError) {
        var address: UnsafeMutableRawPointer?
        descriptor = coord_memory_make(name, byteCount, &address)
        guard descriptor >= 0, let address else {
            throw CollectivesError(.system, "no memory can be shared (\(systemText(-descriptor)))")
        }
        base = address
        self.byteCount = byteCount
    }
    deinit {
        coord_memory_unmap(base, byteCount)
        closeDescriptor(descriptor)
    }
}

/// Memory that another process of this machine writes, mapped for reading.
///
/// Nothing in it is believed: it may change at any moment, to anything.
final class PeerRegion: Sendable {
    // Safety: the address never changes; the pages are readable as long as this object lives.
    nonisolated(unsafe) let base: UnsafeRawPointer
    let byteCount: Int

    /// Maps a descriptor and closes it.
    ///
    /// - Throws: `.system` when it is no memory that can be read safely to its end.
    init(taking descriptor: Int32) throws(CollectivesError) {
        defer { closeDescriptor(descriptor) }
        var address: UnsafeRawPointer?
        var size = 0
        let mapped = coord_memory_map(descriptor, &address, &size)
        guard mapped == 0, let address else {
            throw CollectivesError(.system, "its memory can't be mapped (\(systemText(-mapped)))")
        }
        base = address
        byteCount = size
    }
    deinit { coord_memory_unmap(base, byteCount) }

    /// The address of a range that the other side named; nil when it is not wholly inside, or not on a cache line.
    func place(_ offset: UInt64, byteCount count: Int) -> UnsafeRawPointer? {
        guard offset % 64 == 0, offset <= UInt64(byteCount), count <= byteCount - Int(offset) else {
            return nil
        }
        return base + Int(offset)
    }
}
