#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// What a member's lossy operations have not delivered yet: it goes along with its next contribution.
///
/// One number a value of the run's gradient. Two things lose: the encoding of a contribution, at the sender; the
/// encoding of a result, at the owner of its segment. Both are kept here, the one where the others own, the other
/// where this member owns, so a new cut of the segments changes nothing. What an operation leaves takes the place of
/// what was left before at ``commit()`` only: an operation that is tried again starts from the same.
///
/// Safety: belongs to the caller of `Group.reduce`, who waits while the group's thread uses it.
public final class ErrorFeedback: @unchecked Sendable {
    /// How the values travel.
    public let codec: PayloadCodec

    /// What earlier operations left, `[N]`; empty = nothing.
    private var left = Scratch<Float>()
    /// What the operation under way leaves.
    private var pending = Scratch<Float>()
    /// The contribution: this member's sum and what was left.
    private var input = Scratch<Float>()
    /// Encoded pieces, all of one size: the contributions for the others, and in the place of the own ones the results.
    private var bytes = Scratch<UInt8>()
    private var byteCounts: [Int] = []
    private var firstPiece: [Int] = []
    private var stride = 0
    private var hasPending = false

    /// Nothing is left yet.
    public init(codec: PayloadCodec) { self.codec = codec }

    /// The values that are left, by absolute value, summed; for tests and figures.
    public var magnitude: Double { left.buffer.reduce(0) { $0 + Double(abs($1)) } }

    /// What is left, `[N]`; empty before the first commit.
    public var values: UnsafeBufferPointer<Float> { UnsafeBufferPointer(left.buffer) }

    /// The operation is committed on all members: what it left is what is left.
    public func commit() {
        guard hasPending else { return }
        swap(&left, &pending)
        hasPending = false
    }

    /// The operation came to nothing.
    public func abandon() { hasPending = false }

    // MARK: For the group

    /// Adds up this member's contributions and what was left, and encodes what others own.
    ///
    /// - Parameters:
    ///   - contributions: the sums of this member's subtrees, each `[N]`; none for a member without lanes.
    ///   - settles: all travels exactly and nothing is left.
    /// - Returns: the one contribution, `[N]`.
    func prepare(
        _ contributions: [UnsafePointer<Float>?],
        segmentation: Segmentation,
        rank: Int,
        settles: Bool
    ) -> UnsafePointer<Float> {
        let count = segmentation.elements
        // An operation may carry more behind the gradient, and the next one not: what is left belongs to the places.
        left.extend(to: count)
        pending.resize(to: count, zeroed: true)
        input.resize(to: count)
        hasPending = true
        let total = input.base
        total.update(from: left.base, count: count)
        for case let values? in contributions {
            for index in 0..<count { total[index] += values[index] }
        }
        if settles { return UnsafePointer(total) }
        layOut(segmentation)
        for owner in 0..<segmentation.members where owner != rank {
            for piece in 0..<segmentation.pieceCount(of: owner) {
                let range = segmentation.piece(piece, of: owner)
                encode(total + range.lowerBound, range, at: firstPiece[owner] + piece)
            }
        }
        return UnsafePointer(total)
    }

    private func layOut(_ segmentation: Segmentation) {
        firstPiece = []
        var total = 0
        for owner in 0..<segmentation.members {
            firstPiece.append(total)
            total += segmentation.pieceCount(of: owner)
        }
        byteCounts = Array(repeating: 0, count: total)
        stride = codec.maximumByteCount(of: Segmentation.pieceBytes / 4)
        bytes.resize(to: total * stride)
    }

    /// - Parameter values: those of the range.
    private func encode(_ values: UnsafePointer<Float>, _ range: Range<Int>, at place: Int) {
        byteCounts[place] = codec.encode(
            values,
            count: range.count,
            into: bytes.base + place * stride,
            left: pending.base + range.lowerBound
        )
    }

    /// A piece for its owner, or, of the own segment, a result.
    func encoded(_ piece: Int, of owner: Int) -> UnsafeRawBufferPointer {
        let place = firstPiece[owner] + piece
        return UnsafeRawBufferPointer(start: bytes.base + place * stride, count: byteCounts[place])
    }

    /// Encodes a summed piece of the own segment; leaves in its place what everybody else will decode.
    func encodeResult(
        _ piece: Int,
        of rank: Int,
        _ range: Range<Int>,
        into sum: UnsafeMutablePointer<Float>
    ) {
        encode(sum, range, at: firstPiece[rank] + piece)
        let isSound = codec.decode(encoded(piece, of: rank), into: sum, count: range.count)
        precondition(isSound, "\(codec) does not read what it wrote: \(range.count) values")
    }
}

/// Memory that grows.
private struct Scratch<Element: BitwiseCopyable>: ~Copyable {
    private var capacity = 0
    private(set) var count = 0
    private(set) var base = UnsafeMutablePointer<Element>.allocate(capacity: 1)

    var buffer: UnsafeMutableBufferPointer<Element> { UnsafeMutableBufferPointer(start: base, count: count) }

    /// The contents are lost when it grows.
    mutating func resize(to count: Int, zeroed: Bool = false) {
        if count > capacity {
            base.deallocate()
            base = .allocate(capacity: count)
            capacity = count
        }
        self.count = count
        if zeroed { memset(base, 0, count * MemoryLayout<Element>.stride) }
    }

    /// What stands there stays, as far as there is room; what is new is 0.
    mutating func extend(to count: Int) {
        if count > self.count {
            var larger = Self()
            larger.resize(to: count, zeroed: true)
            larger.base.update(from: base, count: self.count)
            self = larger
        } else {
            self.count = count
        }
    }

    deinit { base.deallocate() }
}
