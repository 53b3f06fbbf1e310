import Basics
import Collectives

/// A type of values as the tests compute with it: plainly, one value after the other.
protocol TestElement: BitwiseCopyable, Sendable {
    static var type: ElementType { get }
    /// Different for each operation, lane and index, so that order and place show.
    init(_ operation: UInt64, _ lane: Int, _ index: Int)
    static func sum(_ a: Self, _ b: Self) -> Self
    static func isLess(_ a: Self, _ b: Self) -> Bool
}

extension TestElement {
    static func combine(_ a: Self, _ b: Self, _ reduction: Reduction) -> Self {
        switch reduction {
        case .sum: sum(a, b)
        case .min: isLess(b, a) ? b : a
        case .max: isLess(a, b) ? b : a
        }
    }

    /// Combined along the lane tree, written down as plainly as can be.
    static func tree(
        _ subtree: LaneSubtree,
        _ operation: UInt64,
        _ count: Int,
        _ reduction: Reduction
    ) -> [Self] {
        guard let (left, right) = subtree.halves else {
            return (0..<count).map { Self(operation, subtree.start, $0) }
        }
        let a = tree(left, operation, count, reduction), b = tree(right, operation, count, reduction)
        return zip(a, b).map { combine($0, $1, reduction) }
    }
}

extension Float: TestElement {
    static var type: ElementType { .f32 }
    init(_ operation: UInt64, _ lane: Int, _ index: Int) { self = laneValue(operation, lane, index) }
    static func sum(_ a: Float, _ b: Float) -> Float { a + b }
    static func isLess(_ a: Float, _ b: Float) -> Bool { a < b }
}

extension Double: TestElement {
    static var type: ElementType { .f64 }
    init(_ operation: UInt64, _ lane: Int, _ index: Int) {
        self = Double(laneValue(operation, lane, index)) * (1 + 0x1p-40 * Double(index))
    }
    static func sum(_ a: Double, _ b: Double) -> Double { a + b }
    static func isLess(_ a: Double, _ b: Double) -> Bool { a < b }
}

extension Int32: TestElement {
    static var type: ElementType { .i32 }
    /// Of any size, so that sums wrap round.
    init(_ operation: UInt64, _ lane: Int, _ index: Int) {
        self.init(bitPattern: laneValue(operation, lane, index).bitPattern &* 2_654_435_769)
    }
    static func sum(_ a: Int32, _ b: Int32) -> Int32 { a &+ b }
    static func isLess(_ a: Int32, _ b: Int32) -> Bool { a < b }
}

/// The upper half of a float.
struct BF16: TestElement, Equatable {
    var bits: UInt16

    static var type: ElementType { .bf16 }
    init(_ operation: UInt64, _ lane: Int, _ index: Int) { self.init(laneValue(operation, lane, index)) }
    /// Rounds to nearest, ties to even, by looking at both neighbours.
    init(_ value: Float) {
        let lower = UInt16(value.bitPattern >> 16)
        guard value.isFinite else {
            bits = value.isNaN ? lower | 0x40 : lower
            return
        }
        let rest = value.bitPattern & 0xFFFF
        bits = rest > 0x8000 || rest == 0x8000 && lower % 2 == 1 ? lower + 1 : lower
    }
    var float: Float { Float(bitPattern: UInt32(bits) << 16) }
    static func sum(_ a: BF16, _ b: BF16) -> BF16 { BF16(a.float + b.float) }
    static func isLess(_ a: BF16, _ b: BF16) -> Bool { a.float < b.float }
}

/// Memory on a cache line's boundary or just beside one, filled; freed with its owner.
final class RawArray: @unchecked Sendable {
    // Safety: each test thread uses its own.
    private let block: UnsafeMutableRawPointer
    let bytes: UnsafeMutableRawBufferPointer

    init(count: Int, offset: Int = 0) {
        // Not a byte more than is used: a sanitizer sees what is read beside it.
        block = .allocate(byteCount: count + offset, alignment: 64)
        bytes = UnsafeMutableRawBufferPointer(start: block + offset, count: count)
        bytes.initializeMemory(as: UInt8.self, repeating: 0xA5)
    }
    convenience init<Element: BitwiseCopyable>(_ values: [Element], offset: Int = 0) {
        self.init(count: values.count * MemoryLayout<Element>.stride, offset: offset)
        values.withUnsafeBytes { bytes.copyMemory(from: $0) }
    }
    deinit { block.deallocate() }

    var values: [UInt8] { Array(bytes) }
}
