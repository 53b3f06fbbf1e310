/// One allocation of single-precision numbers on a 64-byte boundary, zero at first.
///
/// The last owner frees it; whoever keeps `pointer` keeps the arena. No bounds are checked behind the pointer, so
/// slices are cut in one place, by the code that laid the arena out.
public final class FloatArena {
    /// The first number.
    public let pointer: UnsafeMutablePointer<Float>
    /// How many numbers.
    public let count: Int
    private let release: () -> Void

    /// Allocates `count` zeros.
    public init(count: Int) {
        self.count = count
        let raw = UnsafeMutableRawPointer.allocate(byteCount: max(count, 16) * 4, alignment: 64)
        pointer = raw.bindMemory(to: Float.self, capacity: max(count, 16))
        pointer.initialize(repeating: 0, count: max(count, 16))
        release = { raw.deallocate() }
    }

    /// Takes over memory from elsewhere, on a 64-byte boundary, and sets it to zero.
    ///
    /// - Parameter release: called at the end.
    public init(taking memory: UnsafeMutableBufferPointer<Float>, release: @escaping () -> Void) {
        guard let base = memory.baseAddress else { preconditionFailure("an arena of nothing") }
        count = memory.count
        pointer = base
        pointer.initialize(repeating: 0, count: count)
        self.release = release
    }

    deinit { release() }

    /// All numbers, for reading.
    public var buffer: UnsafeBufferPointer<Float> { UnsafeBufferPointer(start: pointer, count: count) }
    /// All numbers, for writing.
    public var mutableBuffer: UnsafeMutableBufferPointer<Float> {
        UnsafeMutableBufferPointer(start: pointer, count: count)
    }

    /// Sets all numbers to zero.
    public func clear() { pointer.update(repeating: 0, count: count) }
}
