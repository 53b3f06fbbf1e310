/// One allocation of single-precision numbers on a 64-byte boundary, zero at first.
///
/// The owner frees it; whoever keeps `pointer` keeps the arena. No bounds are checked behind the pointer, so
/// slices are cut in one place, by the code that laid the arena out.
public final class FloatArena {
    /// The first number.
    public let pointer: UnsafeMutablePointer<Float>
    /// How many numbers.
    public let count: Int

    /// Allocates `count` zeros.
    public init(count: Int) {
        self.count = count
        let raw = UnsafeMutableRawPointer.allocate(byteCount: max(count, 16) * 4, alignment: 64)
        pointer = raw.bindMemory(to: Float.self, capacity: max(count, 16))
        pointer.initialize(repeating: 0, count: max(count, 16))
    }

    deinit { UnsafeMutableRawPointer(pointer).deallocate() }

    /// All numbers, for reading.
    public var buffer: UnsafeBufferPointer<Float> { UnsafeBufferPointer(start: pointer, count: count) }
    /// All numbers, for writing.
    public var mutableBuffer: UnsafeMutableBufferPointer<Float> {
        UnsafeMutableBufferPointer(start: pointer, count: count)
    }

    /// Sets all numbers to zero.
    public func clear() { pointer.update(repeating: 0, count: count) }
}
