internal import CShims
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Memory of this process that the members on this machine read in place; lives as long as the ``Endpoint``.
///
/// What ``Group/reduce(operation:contributions:laneValues:sum:)`` is given from here is not copied first. As much can
/// be taken as the machine has memory; what was freed serves again for blocks of the same size, and is given back to
/// the system with the arena.
public final class SharedArena: Sendable {
    private struct State {
        var used = 0
        var free: [Int: [Int]] = [:]  // rounded size: offsets
    }
    let region: SharedRegion
    private let state = Mutex(State())

    /// Reserves as much as the machine has memory; nothing is used yet.
    ///
    /// - Throws: `.system` where anonymous files or so large ones are not allowed.
    init() throws(CollectivesError) {
        // A limit on the size of files holds for these too, and breaking it is a signal.
        var limit = rlimit()
        let isLimited = getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0
        let most = isLimited ? Int(clamping: limit.rlim_cur) : .max
        let pageSize = sysconf(Int32(_SC_PAGESIZE))
        var size = min(max(1, sysconf(Int32(_SC_PHYS_PAGES))) * pageSize, most / pageSize * pageSize)
        while true {
            do throws(CollectivesError) {
                region = try SharedRegion(name: "coord-arena", byteCount: size)
                return
            } catch {
                size /= 4
                if size < 64 << 20 { throw error }
            }
        }
    }

    /// Takes memory for `count` floats on a page's or cache line's boundary; nil when the arena is used up.
    ///
    /// The contents are undefined. ``free(_:)`` it.
    public func allocate(_ count: Int) -> UnsafeMutableBufferPointer<Float>? {
        let size = Self.rounded(count)
        let offset: Int? = state.withLock { state in
            if let offset = state.free[size]?.popLast() { return offset }
            guard size <= region.byteCount - state.used else { return nil }
            defer { state.used += size }
            return state.used
        }
        guard let offset else { return nil }
        let place = (region.base + offset).bindMemory(to: Float.self, capacity: size / 4)
        return UnsafeMutableBufferPointer(start: place, count: count)
    }

    /// Gives back what ``allocate(_:)`` gave.
    public func free(_ buffer: UnsafeMutableBufferPointer<Float>) {
        guard let address = buffer.baseAddress, let offset = offset(of: address, byteCount: 0) else { return }
        state.withLock { $0.free[Self.rounded(buffer.count), default: []].append(offset) }
    }

    /// Where an address lies; nil when the range is not wholly inside, or not on a cache line.
    func offset(of address: UnsafeRawPointer, byteCount: Int) -> Int? {
        let offset = address - UnsafeRawPointer(region.base)
        guard offset >= 0, offset % 64 == 0, byteCount <= region.byteCount - offset else { return nil }
        return offset
    }

    /// Whole cache lines for small blocks, whole pages for large ones.
    private static func rounded(_ count: Int) -> Int {
        let grain = count * 4 < 65_536 ? 64 : 4096
        return max(grain, (count * 4 + grain - 1) / grain * grain)
    }
}
