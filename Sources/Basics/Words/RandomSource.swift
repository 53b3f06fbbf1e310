/// A counter-based generator: the same key and counter give the same numbers on every machine, in any order.
///
/// There is no state to save or to lose: dropout, augmentation, initialisation and shuffling ask for the numbers
/// that belong to (seed, purpose, step, sample position, layer), never to a rank.
///
/// - Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
public struct Philox: Sendable {
    private let key0: UInt32
    private let key1: UInt32

    /// Keys the generator.
    public init(key: UInt64) {
        key0 = UInt32(truncatingIfNeeded: key)
        key1 = UInt32(truncatingIfNeeded: key >> 32)
    }

    /// The four numbers at one counter.
    public func block(_ c0: UInt32, _ c1: UInt32, _ c2: UInt32, _ c3: UInt32) -> SIMD4<UInt32> {
        var (x0, x1, x2, x3) = (c0, c1, c2, c3)
        var (k0, k1) = (key0, key1)
        for _ in 0..<10 {
            let p0 = UInt64(x0) &* 0xD251_1F53
            let p1 = UInt64(x2) &* 0xCD9E_8D57
            (x0, x1, x2, x3) = (
                UInt32(truncatingIfNeeded: p1 >> 32) ^ x1 ^ k0, UInt32(truncatingIfNeeded: p1),
                UInt32(truncatingIfNeeded: p0 >> 32) ^ x3 ^ k1, UInt32(truncatingIfNeeded: p0)
            )
            k0 &+= 0x9E37_79B9
            k1 &+= 0xBB67_AE85
        }
        return SIMD4(x0, x1, x2, x3)
    }
}

/// The random numbers of one run, addressed by what they are for.
public struct RandomSource: Sendable {
    /// What a stream of numbers is for.
    ///
    /// The raw values are part of the result: never renumber them.
    public enum Purpose: UInt32, Sendable, Codable {
        /// Initial weights; `layer` is the index of the parameter.
        case initialization = 1
        /// The order of shards and samples.
        case order = 2
        /// Which samples are for training, validation, test.
        case split = 3
        /// Dropout masks.
        case dropout = 4
        /// Image augmentation.
        case augmentation = 5
    }

    private let philox: Philox

    /// - Parameter seed: the run's seed.
    public init(seed: UInt64) { philox = Philox(key: seed) }

    /// Four numbers, uniform over all 32-bit values.
    ///
    /// - Parameters:
    ///   - purpose: what they are for.
    ///   - layer: the layer or parameter, < 2^24.
    ///   - step: the step or epoch, < 2^32.
    ///   - position: the sample position, or the index of the block within one parameter.
    public func block(_ purpose: Purpose, layer: Int = 0, step: Int = 0, position: Int) -> SIMD4<UInt32> {
        philox.block(
            UInt32(truncatingIfNeeded: position),
            UInt32(truncatingIfNeeded: position >> 32),
            UInt32(truncatingIfNeeded: step),
            purpose.rawValue << 24 | UInt32(truncatingIfNeeded: layer)
        )
    }

    /// A 24-bit uniform number in [0, 1) from 32 random bits: exact in single precision.
    public static func unit(_ bits: UInt32) -> Float { Float(bits >> 8) * 0x1p-24 }

    /// A 64-bit key for a permutation or another generator.
    public func key(_ purpose: Purpose, layer: Int = 0, step: Int = 0) -> UInt64 {
        let four = block(purpose, layer: layer, step: step, position: 0)
        return UInt64(four[0]) | UInt64(four[1]) << 32
    }
}

/// A keyed permutation of `0 ..< count` in constant memory: position to element, in any order.
///
/// A four-round Feistel network over the next power of four, walked until the value falls inside the range.
///
/// - Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains", cycle walking.
public struct KeyedPermutation: Sendable {
    /// The number of elements.
    public let count: Int
    private let halfBits: UInt64
    private let philox: Philox

    /// - Parameters:
    ///   - count: ≥ 0.
    ///   - key: the same key gives the same permutation everywhere.
    public init(count: Int, key: UInt64) {
        self.count = count
        philox = Philox(key: key)
        var bits: UInt64 = 1
        while bits < 31, 1 << (2 * bits) < UInt64(count) { bits += 1 }
        halfBits = bits
    }

    /// The element at a position.
    ///
    /// - Cost: on average fewer than four walks of four Philox blocks.
    public subscript(position: Int) -> Int {
        precondition(position >= 0 && position < count, "position \(position) outside 0..<\(count)")
        let mask = (UInt64(1) << halfBits) - 1
        var value = UInt64(position)
        repeat {
            var left = value >> halfBits
            var right = value & mask
            for round in 0..<UInt32(4) {
                let mixed = UInt64(philox.block(UInt32(truncatingIfNeeded: right), round, 0, 0)[0])
                (left, right) = (right, (left ^ mixed) & mask)
            }
            value = left << halfBits | right
        } while value >= UInt64(count)
        return Int(value)
    }
}
